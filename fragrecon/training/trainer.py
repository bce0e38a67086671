"""Build Lightning's Trainer from the config, and run it, resuming from the last checkpoint if there is one."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from dataclasses import asdict

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import RichModelSummary, RichProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from fragrecon import machine as hardware
from fragrecon.config.build import build
from fragrecon.config.schema import Config
from fragrecon.errors import ConfigError, TrainingError, typed
from fragrecon.report.figures.monitoring import PictureLogger
from fragrecon.runs.checkpoints import AtomicCheckpointIO
from fragrecon.runs.sweeps import note, sweep_of
from fragrecon.runs.write import Record
from fragrecon.training.callbacks import Pictures, training_callbacks
from fragrecon.training.epoch_progress import EpochProgress
from fragrecon.training.learner import Learner
from fragrecon.training.loggers import Csv
from fragrecon.training.processes import report_ready, started_from

log = logging.getLogger(__name__)

OF_CALLBACKS = ("ema", "max_time", "callbacks", "accumulate_grad_batches", "profiler", "checkpoint_every_n_steps")
"""Keys of ``trainer`` that are not passed to Lightning as they are."""

LARGEST_RATE = 1e30
"""Learning rate above which a step may be larger than any float32, which raises a RuntimeError in torch."""

EXPECTED_WARNINGS = (
    # A resumed run has a checkpoint folder, continues within an epoch, and keeps its means.
    "Checkpoint directory",
    "You're resuming from a checkpoint that ended",
    "The ``compute`` method of",
    # Metrics are logged once per epoch, so the logging interval does not matter.
    "The number of training batches",
)


def make_trainer(config: Config, record: Record) -> pl.Trainer:
    """Build Lightning's Trainer with the run's logger and callbacks.

    Args:
        config: config of the run.
        record: record of the run.

    Returns:
        The trainer; its loggers have not started yet.

    Raises:
        ConfigError: Lightning or the logger rejects a setting.
    """
    _quieten()
    loggers = make_loggers(config, record)
    callbacks = training_callbacks(config, record)
    callbacks += [Pictures(logger) for logger in loggers if isinstance(logger, PictureLogger)]
    every, profiler = config.trainer.accumulate_grad_batches, config.trainer.profiler
    if profiler:  # which prints by its logger
        logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)
    interactive = config.trainer.enable_progress_bar
    if interactive is None:
        interactive = sys.stdout.isatty()
    callbacks += [RichProgressBar(), RichModelSummary()] if interactive else [EpochProgress()]
    settings = {key: value for key, value in asdict(config.trainer).items() if key not in OF_CALLBACKS} | {
        "max_epochs": config.max_epochs,
        "accumulate_grad_batches": every if isinstance(every, int) else 1,  # otherwise by a callback
        "precision": hardware.precision_of(config.trainer),
        "enable_progress_bar": interactive,
        "enable_model_summary": interactive,
    }
    try:
        return pl.Trainer(
            **settings,
            logger=loggers or False,
            profiler=profiler,
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO()],
            default_root_dir=record.folder,
        )
    except (MisconfigurationException, RuntimeError, ValueError, TypeError) as error:
        raise ConfigError(f"trainer: {error}") from error


def make_loggers(config: Config, record: Record) -> list[Logger]:
    """Build the loggers of a run; with ``trainer.fast_dev_run``, which logs nothing, only the one without files.

    Raises:
        ConfigError: a node is no logger, or a logger rejects a setting.
    """
    if config.trainer.fast_dev_run:
        return [Csv(record.folder)]
    sweep, found = sweep_of(record.folder), []
    for name, node in config.logger.items():
        logger = build(
            node,
            f"logger.{name}",
            Logger,
            folder=record.folder,
            config=config.to_dict(),
            sweep=(sweep, note(sweep)["name"]) if sweep else None,
        )
        found.append(logger)
    return found


def _quieten() -> None:
    """Silence Lightning's banner and expected warnings."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="lightning")  # about names in torch
    for text in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message=text)


def fit(trainer: pl.Trainer, learner: Learner, record: Record) -> None:
    """Train, resuming from the last checkpoint in the run's folder if there is one.

    Raises:
        SystemExit: training was stopped by SIGTERM.
        KeyboardInterrupt: training was stopped by Ctrl-C.
        ConfigError: a callback rejects the settings of the trainer.
        TrainingError: a step of the optimizer overflows.
    """
    last = record.last_checkpoint
    if last:
        log.info("resuming from %s", last)
    report_ready()
    try:
        with started_from(record.folder):
            trainer.fit(learner, learner.data, ckpt_path=last)
    except SIGTERMException as stop:
        log.warning("stopped by SIGTERM; resume with: python -m fragrecon.run %s", typed("resume", record.folder))
        raise SystemExit(128 + signal.SIGTERM) from stop  # Lightning's own exit code would be 0
    except MisconfigurationException as error:
        raise ConfigError(f"trainer: {error}") from error
    except RuntimeError as error:
        rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
        if max(rates, default=0) > LARGEST_RATE:
            raise TrainingError("the optimizer's step overflows; try a lower optimizer.lr") from error
        raise
    except SystemExit as stop:
        if trainer.interrupted:  # how Lightning ends on Ctrl-C
            raise KeyboardInterrupt from stop
        raise
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
