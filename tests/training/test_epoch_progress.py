"""Lines of an epoch and of its validation, in a training that waits for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.callbacks import Callback

from fragrecon.run import compose
from fragrecon.training.epoch_progress import EpochProgress
from tests.stage_lines import LATE, SOON, Lines, kept
from tests.training.test_learner import LINEAR, TINY, Trainable, quiet_trainer


class Waiting(Callback):
    """Waits for a line before the first batch, in it and in the validation of each epoch."""

    def __init__(self, lines: Lines, batches: int) -> None:
        self.lines, self.batches = lines, batches

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.lines.wait_for("preparing training")

    def on_train_batch_end(self, trainer: pl.Trainer, *given: Any, **_: Any) -> None:
        done = given[-1] + 1
        self.lines.wait_for(f"epoch {trainer.current_epoch}", f"{done} of {self.batches}")

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        self.lines.wait_for(f"validation of epoch {trainer.current_epoch}", "1 of 1")


def train(folder: Path, *callbacks: Callback, epochs: int = 2) -> None:
    limits = {"max_epochs": epochs, "limit_train_batches": 3, "limit_val_batches": 1}
    trainer = quiet_trainer(folder, callbacks, **limits, enable_checkpointing=False)
    Trainable(compose([*TINY, f"data.cache_dir={folder}", *LINEAR])).fit(trainer)


def test_a_slow_epoch_and_its_validation_tell_how_far_they_are(tmp_path: Path) -> None:
    with kept(every=SOON) as lines:
        train(tmp_path, EpochProgress(), Waiting(lines, 3))


def test_quick_epochs_add_no_lines(tmp_path: Path) -> None:
    with kept(every=LATE) as lines:
        train(tmp_path, EpochProgress())
    assert not [message for message in lines.messages if "epoch" in message or "preparing" in message]


def test_no_line_comes_after_a_failure(tmp_path: Path) -> None:
    class Failing(Callback):
        def on_train_batch_end(self, *_: Any, **__: Any) -> None:
            raise ValueError("stop")

    progress = EpochProgress()
    with pytest.raises(ValueError, match="stop"):
        train(tmp_path, progress, Failing())
    assert not progress.in_epoch
