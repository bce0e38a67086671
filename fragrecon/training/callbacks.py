"""Callbacks: checkpoints, early stopping, a guard against NaN, a row of metrics per epoch, pictures, your own."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    Timer,
)
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.seed import isolate_rng
from torch.optim import Optimizer

from fragrecon.config.build import build
from fragrecon.config.schema import Config
from fragrecon.errors import ConfigError, TrainingError
from fragrecon.report import metrics
from fragrecon.report.figures.monitoring import COLUMNS, PictureLogger, pictures_of
from fragrecon.runs.write import CHECKPOINTS, LAST, Record
from fragrecon.training.averaging import WeightAverage
from fragrecon.training.learner import Learner
from fragrecon.training.loggers import Csv
from fragrecon.training.processes import StopTogether

log = logging.getLogger(__name__)

REFUSED = {
    "BatchSizeFinder": "set data.puzzles_per_batch; mode=bench measures the memory of batches",
    "EMAWeightAveraging": "use trainer.ema=0.999",
    "GradientAccumulationScheduler": "use trainer.accumulate_grad_batches={0: 8, 4: 4}",
    "LearningRateFinder": "sweep optimizer.lr",
    "StochasticWeightAveraging": "use trainer.ema=0.999, whose average is validated and saved in all checkpoints",
    "Timer": "use trainer.max_time=00:00:30:00",
    "WeightAveraging": "use trainer.ema=0.999",
}
"""Lightning's callbacks that do not work with the checkpoints or the schedules of this package, and what does."""


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` for resuming: every few steps, at the end of an epoch, and when SIGTERM stops training.

    Must come after ``ModelCheckpoint`` in the list, so that ``last.ckpt`` contains the latest state of that callback.
    (Lightning calls checkpoint callbacks after all others, in the order of the list.)

    Args:
        folder: folder of the checkpoints.
        every_n_steps: optimizer steps between two checkpoints within an epoch.
    """

    def __init__(self, folder: Path, every_n_steps: int) -> None:
        self.path, self.every_n_steps = folder / LAST, every_n_steps
        self.saved_at = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.saved_at = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step - self.saved_at >= self.every_n_steps and _is_safe_point(trainer, pl_module):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        # Lightning raises SIGTERMException between two batches; another exception may be raised within a step.
        if isinstance(exception, SIGTERMException) and trainer.training and _is_safe_point(trainer, pl_module):
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        self.saved_at = trainer.global_step
        trainer.save_checkpoint(self.path)


def _is_safe_point(trainer: pl.Trainer, learner: pl.LightningModule) -> bool:
    """Whether this is a safe point to write a checkpoint: a run resumed from it neither repeats nor skips a batch.

    Not safe while gradients accumulate, while training batches are scored, or when a validation or epoch end is due,
    as it is when training stops.
    """
    assert isinstance(learner, Learner)
    progress = trainer.fit_loop.epoch_loop.batch_progress
    batches = progress.current.ready
    seen = batches if trainer.check_val_every_n_epoch is not None else progress.total.ready
    interval = trainer.val_check_batch
    return (
        not trainer.should_stop
        and batches % trainer.accumulate_grad_batches == 0
        and batches > learner.scored_batches
        and batches < trainer.num_training_batches
        and not (interval and seen % interval == 0)
    )


class EarlyStop(EarlyStopping):
    """Early stopping that stays in effect when a stopped run is resumed."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.wait_count >= max(self.patience, 1):
            trainer.should_stop = True


class Accumulation(GradientAccumulationScheduler):
    """Batches per optimizer step by epoch, also in an epoch that is resumed.

    Args:
        scheduling: batches per optimizer step, by the epoch from which they apply; 1 before the first.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.on_train_epoch_start(trainer)  # which Lightning does not call in a resumed epoch


class TimeLimit(Timer):
    """Stops training after a time, with a validation of the last weights in any epoch.

    The time is that of training and its validations, summed over the parts of a resumed run. The last validation and
    the final scores come after it.

    Args:
        max_time: time as DD:HH:MM:SS.
    """

    def __init__(self, max_time: str) -> None:
        super().__init__(max_time, verbose=False)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        super().on_train_batch_end(trainer)
        if trainer.should_stop and trainer.check_val_every_n_epoch is not None:
            trainer.check_val_every_n_epoch = 1

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        super().on_train_batch_end(trainer)  # otherwise another step would be made, and validated


class OptimizerSettings(Callback):
    """Applies changed optimizer settings to a resumed run, whose checkpoint contains the old settings.

    Args:
        settings: the ``optimizer`` section of the config.

    Raises:
        ConfigError: the run was trained with another optimizer.
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
                f"optimizer={self.settings['_target_']} cannot load the state of {self.saved['_target_']}, which "
                "trained the run; start a new run from its weights with init_from=FOLDER"
            )
        changed = {key: value for key, value in self.settings.items() if value != self.saved.get(key)}
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group.update(changed)
        if "lr" in changed:
            for scheduler in trainer.lr_scheduler_configs:
                scheduler.scheduler.base_lrs = [changed["lr"]] * len(scheduler.scheduler.base_lrs)


class FiniteGuard(Callback):
    """Stops before an update that would put a NaN or an infinity into the weights.

    Gradients are checked after they are averaged over ranks, so all ranks stop together.

    Args:
        record: record of the run, for the name of its last checkpoint.

    Raises:
        TrainingError: the norm of the gradient is not finite.
    """

    def __init__(self, record: Record) -> None:
        self.record = record

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if str(trainer.precision) == "16-mixed":
            return  # the loss scaler skips such a step and lowers its scale
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not math.isfinite(float(torch.nn.utils.get_total_norm(gradients))):
            last = self.record.last_checkpoint
            unaffected = f"the last checkpoint, {last}, is unaffected" if last else "no checkpoint has been written yet"
            raise TrainingError(
                f"the loss or its gradient is not finite at epoch {trainer.current_epoch}, "
                f"step {trainer.global_step}; {unaffected}. "
                "Try a lower optimizer.lr, trainer.gradient_clip_val=1.0 or trainer.precision=32-true"
            )


class EpochRows(Callback):
    """Writes a row per epoch to ``metrics.csv`` and a line to the log.

    With ``logger=csv``, the row also has what other callbacks log, such as the learning rates of Lightning's
    ``LearningRateMonitor``.

    Args:
        record: record of the run.
        monitor: the metric that selects the best checkpoint, shown in the line.
    """

    def __init__(self, record: Record, monitor: str) -> None:
        self.record, self.monitor = record, monitor
        self.started = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        rows = [row for row in self.record.epochs if row.get("step", 0) <= trainer.global_step]
        self.started = time.monotonic() - (rows[-1].get("seconds", 0.0) if rows else 0.0)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Every rank must compute the means, because they are taken over all ranks. In a resumed epoch, Lightning
        # reports no means of the training batches.
        assert isinstance(pl_module, Learner)
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        validation = {name: value for name, value in logged.items() if name.startswith("val")}
        means = dict(sorted((pl_module.training_means() | validation).items()))
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        seconds = round(time.monotonic() - self.started, 3)
        row = {"epoch": trainer.current_epoch, "step": trainer.global_step, "seconds": seconds, "lr": rate}
        others = {name: value for name, value in self._of_callbacks(trainer, logged).items() if name not in row}
        self.record.add_epoch(row | others | means)
        shown = [name for name in dict.fromkeys(["train/loss", "val/loss", self.monitor]) if name in means]
        told = ", ".join(f"{name} {metrics.text(name, means[name])}" for name in shown)
        log.info("epoch %d: %s", trainer.current_epoch, told)

    def _of_callbacks(self, trainer: pl.Trainer, logged: dict[str, float]) -> dict[str, float]:
        """Return what other callbacks logged, by ``log`` of the LightningModule or by the loggers."""
        found: dict[str, float] = {}
        for logger in trainer.loggers:
            if isinstance(logger, Csv):
                found |= logger.latest | logged
        return {name: value for name, value in found.items() if not name.startswith(("train/", "val"))}


class Pictures(Callback):
    """Shows the model's predictions for the first validation puzzle every few epochs and at the end of training.

    Training is unaffected: the random state and the model's mode are restored.

    Args:
        logger: logger of the pictures.
    """

    def __init__(self, logger: PictureLogger) -> None:
        self.logger, self.every_n_epochs = logger, logger.pictures_every_n_epochs
        self.shown_at = -1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._show(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.every_n_epochs and self.shown_at != trainer.global_step:
            self._show(trainer, pl_module)

    def _show(self, trainer: pl.Trainer, learner: pl.LightningModule) -> None:
        self.shown_at = trainer.global_step
        if not trainer.is_global_zero:
            return
        assert isinstance(learner, Learner)
        shown = learner.data.side_by_side(COLUMNS).validation_set()
        batch = shown.read(slice(0, 1)).to(learner.device).as_float()
        model, was_training = learner.model, learner.model.training
        model.eval()
        with isolate_rng():  # a model's views may draw random numbers
            pictures = pictures_of(model, batch, learner.data.grid, learner.protocol)
        model.train(was_training)
        for name, picture in pictures.items():
            self.logger.show(name, picture, trainer.global_step)


def training_callbacks(config: Config, record: Record) -> list[Callback]:
    """Create the callbacks of a training run, in the order of the Trainer's list.

    Args:
        config: config of the run.
        record: record of the run.
    """
    folder, selection = record.folder / CHECKPOINTS, config.selection
    trainer = config.trainer
    average = [WeightAverage(trainer.ema)] if trainer.ema else []
    limit = [TimeLimit(trainer.max_time)] if trainer.max_time else []
    every = trainer.accumulate_grad_batches
    accumulation = [] if isinstance(every, int) else [Accumulation(dict(every))]
    callbacks: list[Callback] = [
        StopTogether(),
        *average,
        *limit,
        *accumulation,
        OptimizerSettings(config.optimizer),
        FiniteGuard(record),
        *own_callbacks(config, record),
        EpochRows(record, selection.monitor),
        LastCheckpoint(folder, trainer.checkpoint_every_n_steps),
    ]
    if trainer.limit_val_batches == 0:
        return callbacks  # no checkpoint is selected without validation
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
    stop = EarlyStop(
        selection.monitor,
        mode=selection.mode,
        patience=selection.patience,
        min_delta=selection.min_delta,
        strict=False,  # `trainer.max_steps` may end training before the first validation
    )
    return [stop, best, *callbacks]


def own_callbacks(config: Config, record: Record) -> list[Callback]:
    """Build the callbacks of ``trainer.callbacks``, of Lightning or of the user.

    A callback may have the parameters ``folder``, the folder of the run, ``dirpath``, that of its checkpoints, and
    ``selection``, the section of the config; they are passed to it.

    Args:
        config: config of the run.
        record: record of the run.

    Raises:
        ConfigError: a node is no callback, or one that this package replaces.
    """
    found = []
    for name, node in config.trainer.callbacks.items():
        if node is None:
            continue
        key, target = f"trainer.callbacks.{name}", str(node.get("_target_"))
        if target.startswith("lightning.") and (instead := REFUSED.get(target.rpartition(".")[2])):
            raise ConfigError(f"{key}._target_={target} cannot be had; {instead}")
        callback = build(
            node, key, Callback, folder=record.folder, dirpath=record.folder / CHECKPOINTS, selection=config.selection
        )
        found.append(callback)
    return found
