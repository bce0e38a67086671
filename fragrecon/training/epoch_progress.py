"""Callback that logs how far an epoch and its validation are, where no progress bar is shown."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from fragrecon.progress import Advance, progress


class EpochProgress(Callback):
    """Logs the number of batches done, of the epoch and of a validation, if these take longer than an interval."""

    def __init__(self) -> None:
        self.epoch, self.validation = ExitStack(), ExitStack()
        self.in_epoch = False
        self.advance: Advance = lambda count: None
        self.advance_validation: Advance = lambda count: None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.epoch.enter_context(progress("preparing training", announce=False))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.in_epoch:
            return
        self.epoch.close()
        stage = progress(f"epoch {trainer.current_epoch}", _count(trainer.num_training_batches), announce=False)
        self.advance, self.in_epoch = self.epoch.enter_context(stage), True
        self.advance(batch_idx)  # of a resumed epoch

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        self.advance(1)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        total = _count(sum(trainer.num_val_batches))
        stage = progress(f"validation of epoch {trainer.current_epoch}", total, announce=False)
        self.advance_validation = self.validation.enter_context(stage)

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        self.advance_validation(1)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.validation.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._close()

    def _close(self) -> None:
        self.validation.close()
        self.epoch.close()
        self.in_epoch = False


def _count(batches: float) -> int | None:
    """Number of batches; None if it is not known."""
    return int(batches) if batches != float("inf") else None
