"""What happens beside training: when checkpoints are written, a guard against NaN, a row an epoch, pictures."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.seed import isolate_rng
from torch.optim import Optimizer

from fragrecon.config.schema import Config
from fragrecon.data.module import FragmentData
from fragrecon.errors import ConfigError, TrainingError
from fragrecon.report.figures.views import COLUMNS, Album, views_of
from fragrecon.runs.write import CHECKPOINTS, Record
from fragrecon.training.learner import Learner

log = logging.getLogger(__name__)
LAST = "last.ckpt"


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt`` for resuming: written every so many steps, at each epoch's end, and when a SIGTERM ends
    training.

    Lightning calls callbacks of this base after all others, in their order: listed after the one that keeps the best
    checkpoint, this one saves what that one has decided.

    Args:
        folder: of the checkpoints.
        every_n_steps: optimizer steps between two within an epoch.
    """

    def __init__(self, folder: Path, every_n_steps: int) -> None:
        self.path, self.every_n_steps = folder / LAST, every_n_steps
        self.saved_at = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.saved_at = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, Learner)
        if trainer.global_step - self.saved_at >= self.every_n_steps and _is_step_done(trainer, pl_module):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        # Lightning raises this between two batches, where the state may be whole; another comes from anywhere.
        assert isinstance(pl_module, Learner)
        if isinstance(exception, SIGTERMException) and trainer.training and _is_step_done(trainer, pl_module):
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        self.saved_at = trainer.global_step
        trainer.save_checkpoint(self.path)


def _is_step_done(trainer: pl.Trainer, learner: Learner) -> bool:
    """Whether nothing is left to do for the batches so far, so that a run taken up from here does all that it should.

    What may be left: gradients to add to, scores of a training batch, a validation, the end of the epoch.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress
    batches = progress.current.ready
    seen = batches if trainer.check_val_every_n_epoch is not None else progress.total.ready
    interval = trainer.val_check_batch
    return (
        batches % trainer.accumulate_grad_batches == 0
        and batches > learner.scored_batches
        and batches < trainer.num_training_batches
        and not (interval and seen % interval == 0)
    )


class EarlyStop(EarlyStopping):
    """Early stopping that also holds for a run taken up after it had decided to stop."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.wait_count >= max(self.patience, 1):
            trainer.should_stop = True


class OptimizerSettings(Callback):
    """Lets a run that is taken up again go on with other settings of its optimizer, where it was given others.

    The optimizer's state in a checkpoint holds the settings too, and would put the old ones back.

    Args:
        settings: the ``optimizer`` section.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings, self.saved = settings, settings

    def state_dict(self) -> dict[str, Any]:
        return {"settings": self.settings}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.saved = state_dict["settings"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.saved["_target_"] != self.settings["_target_"]:
            raise ConfigError(
                f"the run was trained by {self.saved['_target_']}, whose state {self.settings['_target_']} cannot "
                "take; start a new run from its weights with init_from=FOLDER"
            )
        changed = {key: value for key, value in self.settings.items() if value != self.saved.get(key)}
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group.update(changed)
        if "lr" in changed:
            for scheduler in trainer.lr_scheduler_configs:
                scheduler.scheduler.base_lrs = [changed["lr"]] * len(scheduler.scheduler.base_lrs)


class FiniteGuard(Callback):
    """Stops before an update that would carry a NaN or an infinity into the weights.

    Gradients are looked at after the ranks have summed theirs, so all ranks stop together.
    """

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if str(trainer.precision) == "16-mixed":
            return  # the loss scaler finds infinities itself, skips that step and lowers its scale
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not math.isfinite(float(torch.nn.utils.get_total_norm(gradients))):
            raise TrainingError(
                f"the loss or its gradient is no longer finite at epoch {trainer.current_epoch}, "
                f"step {trainer.global_step}; the weights were not touched and the last checkpoint is good. "
                "Try a lower optimizer.lr, trainer.gradient_clip_val=1.0 or trainer.precision=32-true"
            )


class EpochRows(Callback):
    """Writes a row an epoch into the record and a line into the log.

    Args:
        record: of the run.
        monitor: the figure that selects, shown in the line.
    """

    def __init__(self, record: Record, monitor: str) -> None:
        self.record, self.monitor = record, monitor
        self.started = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        rows = [row for row in self.record.epochs if row["step"] <= trainer.global_step]
        self.started = time.monotonic() - (rows[-1]["seconds"] if rows else 0.0)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # All ranks ask for the figures, as their means are taken over all ranks. Lightning reports no training means
        # in an
        # epoch that it resumes.
        assert isinstance(pl_module, Learner)
        validation = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val")}
        figures = dict(sorted((pl_module.training_figures() | validation).items()))
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        seconds = round(time.monotonic() - self.started, 3)
        row = {"epoch": trainer.current_epoch, "step": trainer.global_step, "seconds": seconds, "lr": rate}
        self.record.add_epoch(row | figures)
        shown = [name for name in dict.fromkeys(["train/loss", "val/loss", self.monitor]) if name in figures]
        log.info("epoch %d: %s", trainer.current_epoch, ", ".join(f"{name} {figures[name]:.4f}" for name in shown))


class Pictures(Callback):
    """Shows what the model makes of the first validation puzzle, every so many epochs and when training ends.

    Training goes on as it would without.

    Args:
        album: where to.
    """

    def __init__(self, album: Album) -> None:
        self.album, self.every_n_epochs = album, album.pictures_every_n_epochs
        if self.every_n_epochs < 0:
            raise ConfigError(f"logger.pictures_every_n_epochs={self.every_n_epochs} should not be negative; 0: none")
        self.shown_at = -1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._show(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.every_n_epochs and self.shown_at != trainer.global_step:
            self._show(trainer, pl_module)

    def _show(self, trainer: pl.Trainer, learner: pl.LightningModule) -> None:
        self.shown_at, data = trainer.global_step, getattr(trainer, "datamodule", None)
        assert isinstance(learner, Learner)
        assert isinstance(data, FragmentData)
        if not trainer.is_global_zero:
            return
        shown = data.side_by_side(COLUMNS).validation_set()
        batch = shown.read(slice(0, 1)).to(learner.device).as_float()
        model, was_training = learner.model, learner.model.training
        model.eval()
        with isolate_rng():  # a model's own views may draw numbers
            pictures = views_of(model, batch, data.grid, learner.protocol)
        model.train(was_training)
        for name, picture in pictures.items():
            self.album.show(name, picture, trainer.global_step)


def training_callbacks(config: Config, record: Record) -> list[Callback]:
    """The callbacks of every training, in the order they are called."""
    folder, selection = record.folder / CHECKPOINTS, config.selection
    last = LastCheckpoint(folder, config.checkpoint.every_n_steps)
    callbacks: list[Callback] = [
        OptimizerSettings(config.optimizer),
        FiniteGuard(),
        EpochRows(record, selection.monitor),
        last,
    ]
    if config.trainer["limit_val_batches"] == 0:
        return callbacks  # nothing to select by
    label = selection.monitor.replace("/", "_")
    best = ModelCheckpoint(
        folder,
        filename=f"best-epoch={{epoch}}-{label}={{{selection.monitor}:.4f}}",
        auto_insert_metric_name=False,
        monitor=selection.monitor,
        mode=selection.mode,
        save_top_k=1,
        save_weights_only=True,
        enable_version_counter=False,
    )
    stop = EarlyStop(selection.monitor, mode=selection.mode, patience=selection.patience, min_delta=selection.min_delta)
    return [stop, best, *callbacks]
