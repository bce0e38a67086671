"""``mode=train``: train a model, then score its best checkpoint on the test puzzles."""

from __future__ import annotations

import inspect
import logging
import signal
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import RichModelSummary, RichProgressBar
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.optim import Optimizer

from fragrecon import machine as hardware
from fragrecon.config.build import build
from fragrecon.config.schema import Config
from fragrecon.data.module import FragmentData
from fragrecon.errors import ConfigError, nearest, typed
from fragrecon.evaluation.setup import open_data, protocol_of
from fragrecon.jobs.evaluate import check_data, check_parts, score
from fragrecon.models.base import count_parameters
from fragrecon.report.figures.views import PUZZLES, ROWS, Album, embedded
from fragrecon.report.metrics import scores_of
from fragrecon.runs.checkpoints import AtomicCheckpointIO
from fragrecon.runs.modules import Facts, build_model, check_model, load_weights
from fragrecon.runs.read import load_run
from fragrecon.runs.sweeps import note, sweep_of
from fragrecon.runs.write import Record
from fragrecon.training.callbacks import Pictures, training_callbacks
from fragrecon.training.compute import compiling, prepare
from fragrecon.training.learner import Learner
from fragrecon.training.loggers import ending, heeding_sigterm
from fragrecon.training.processes import started_from

log = logging.getLogger(__name__)


def main(config: Config, record: Record) -> dict[str, Any] | None:
    """Train and score; returns the metrics, or None where nothing is scored or another process does it."""
    started = time.monotonic()
    seconds: dict[str, float] = {}
    if config.run:
        raise ConfigError(
            f"run={config.run} is not for mode=train: mode=evaluate scores that run again, resume= goes on with it, "
            "and init_from= starts a new one from its weights"
        )
    data = open_data(config)
    check_parts(config, check_model(config, data.grid))
    build(config.optimizer, "optimizer", [torch.nn.Parameter(torch.zeros(1))])
    initial = load_run(config.init_from).best_checkpoint if config.init_from else None
    trainer = make_trainer(config, record)
    processes = trainer.num_devices * trainer.num_nodes
    check_share(config, processes)
    together = f" by {processes} processes" if processes > 1 else ""
    with ending(trainer.loggers):
        log.info("training%s on %s", together, hardware.describe(config.trainer))
        data.check(config.evaluation.puzzles)
        check_data(config, data)
        seconds["data"] = time.monotonic() - started
        return train_and_score(config, record, data, trainer, initial, seconds)


def train_and_score(
    config: Config,
    record: Record,
    data: FragmentData,
    trainer: pl.Trainer,
    initial: Path | None,
    seconds: dict[str, float],
) -> dict[str, Any] | None:
    """Train unless that is done, and score the best checkpoint on the first process."""
    if record.status.get("stage") != "evaluation":
        record.enter("training")
        learner = make_learner(config, data, trainer, initial)
        with compiling(config.compute):
            fit(trainer, learner, data, record)
        if not trainer.is_global_zero:
            return None
        record.enter("evaluation")
    epochs = record.epochs()
    seconds["training"] = float(epochs[-1]["seconds"]) if epochs else 0.0
    step = int(epochs[-1]["step"]) if epochs else 0
    albums = [logger for logger in trainer.loggers if isinstance(logger, Album)]
    if not (config.evaluation.puzzles or albums):
        return None
    run = load_run(record.folder)
    with heeding_sigterm():
        model, metrics = run.load_model(), None
        if config.evaluation.puzzles:
            metrics = score(config, model, run, data, record, seconds)
            means = {f"test/{name}": summary["mean"] for name, summary in scores_of(metrics)["model"].items()}
            for logger in trainer.loggers:
                logger.log_metrics(means, step=step)
        shown = data.side_by_side(ROWS // PUZZLES).validation_set()
        for album in albums:
            device = hardware.device_of(config.trainer)
            album.show_embeddings(embedded(model.to(device), shown, device), step)
    return metrics


def make_learner(config: Config, data: FragmentData, trainer: pl.Trainer, initial: Path | None) -> Learner:
    """A model with its objective, ready to be fitted; ``initial`` is a checkpoint to start from."""
    facts = Facts(config.data.fragment_shape, data.grid, data.store("train").manifest.num_classes)
    model, objective = build_model(config, facts)
    if initial:
        load_weights(model, initial)
        log.info("starting from the weights in %s", initial)
    prepare(model, config.compute)
    evaluation, per_batch = config.evaluation, config.data.puzzles_per_batch
    learner = Learner(
        model,
        objective,
        facts,
        protocol_of(config) if evaluation.clustering else None,
        partial(build, config.optimizer, "optimizer"),
        partial(make_scheduler, config, data),
        monitor=config.selection.monitor,
        seed=config.seed,
        scored_batches=-(-evaluation.train_puzzles // per_batch),
    )
    if config.selection.monitor not in learner.means:
        monitor = config.selection.monitor
        raise ConfigError(f"selection.monitor='{monitor}' is not logged{nearest(monitor, learner.means)}")
    log.info(
        "%s: %s parameters, %s training and %s validation images, %d batches an epoch",
        config.model["_target_"].rpartition(".")[2],
        f"{count_parameters(model):,}",
        f"{len(data.training_images()):,}",
        f"{len(data.validation_images()):,}",
        data.epoch_length(config.trainer["limit_train_batches"]),
    )
    return learner


def make_scheduler(config: Config, data: FragmentData, optimizer: Optimizer) -> Any:
    """The schedule of the learning rate over the whole training, or None."""
    if config.scheduler["_target_"] is None:
        return None
    trainer = config.trainer
    batches = data.epoch_length(trainer["limit_train_batches"])
    steps = (
        -(-batches // trainer["accumulate_grad_batches"]) * trainer["max_epochs"]
    )  # an epoch's last batch ends a step
    if trainer["max_steps"] >= 0:
        steps = min(steps, trainer["max_steps"]) if steps > 0 else trainer["max_steps"]
    return build(config.scheduler, "scheduler", optimizer, total_steps=steps, mode=config.selection.mode)


def make_trainer(config: Config, record: Record) -> pl.Trainer:
    """Lightning's Trainer; raises `ConfigError` for settings that it refuses."""
    known = inspect.signature(pl.Trainer).parameters
    for key in config.trainer:
        if key not in known:
            raise ConfigError(f"unknown key trainer.{key}{nearest(key, known)}")
    # Lightning announces itself at each start, and through torch uses a name that torch is about to drop.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="lightning")
    # What they warn of when a run is taken up again is what such a run has: batches go by the step, and means are kept.
    # Short epochs are logged by their means, which no interval concerns.
    for text in (
        "Checkpoint directory",
        "You're resuming from a checkpoint that ended",
        "The ``compute`` method of",
        "The number of training batches",
    ):
        warnings.filterwarnings("ignore", message=text)
    sweep = sweep_of(record.folder)
    logger = build(
        config.logger,
        "logger",
        folder=record.folder,
        config=config.to_dict(),
        sweep=(sweep, note(sweep)["name"]) if sweep else None,
    )
    callbacks = training_callbacks(config, record)
    if isinstance(logger, Album):
        callbacks.append(Pictures(logger))
    if config.trainer["enable_progress_bar"] is None:
        interactive = sys.stdout.isatty()
    else:
        interactive = config.trainer["enable_progress_bar"]
    if interactive:
        callbacks += [RichProgressBar(), RichModelSummary()]
    settings = config.trainer | {
        "precision": hardware.precision_of(config.trainer),
        "enable_progress_bar": interactive,
        "enable_model_summary": interactive,
    }
    try:
        return pl.Trainer(
            **settings,
            logger=logger or False,
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO()],
            default_root_dir=record.folder,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise ConfigError(f"trainer: {error}") from error


def check_share(config: Config, processes: int) -> None:
    """Refuse a batch that the processes cannot share equally, before they are started."""
    per_batch = config.data.puzzles_per_batch
    if per_batch % processes:
        raise ConfigError(
            f"data.puzzles_per_batch={per_batch} cannot be shared equally by {processes} processes; "
            f"use a multiple of {processes}"
        )
    images = per_batch // processes * config.data.images_per_puzzle
    if config.data.images_range and config.data.images_range[1] > images:
        raise ConfigError(
            f"data.images_range={config.data.images_range} asks for more than the {images} images a batch that each of "
            f"{processes} processes has; set data.puzzles_per_batch higher"
        )


def fit(trainer: pl.Trainer, learner: Learner, data: FragmentData, record: Record) -> None:
    """Train, from the last checkpoint in the run's folder if there is one."""
    last = record.folder / "checkpoints" / "last.ckpt"
    if last.is_file():
        log.info("going on from %s", last)
    try:
        with started_from(record.folder):
            trainer.fit(learner, data, ckpt_path=last if last.is_file() else None)
    except SIGTERMException as stop:
        log.warning("stopped by SIGTERM; go on with: python -m fragrecon.run %s", typed("resume", record.folder))
        raise SystemExit(128 + signal.SIGTERM) from stop  # Lightning's own would end the process as if all were done
    except SystemExit as stop:
        if trainer.interrupted:  # Lightning's way to end on a Ctrl-C
            raise KeyboardInterrupt from stop
        raise
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
