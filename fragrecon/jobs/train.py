"""``mode=train``: train a model, then score its best checkpoint on the test puzzles.

Lightning starts the other processes of multi-device training with ``python -m fragrecon.jobs.train FOLDER``.
"""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch

from fragrecon import machine as hardware
from fragrecon import search_path
from fragrecon.config.build import build
from fragrecon.config.schema import Config
from fragrecon.data.batches import check_share
from fragrecon.data.module import FragmentData
from fragrecon.errors import FragreconError
from fragrecon.evaluation.setup import open_data
from fragrecon.evaluation.suite import check_data
from fragrecon.progress import Stopwatch, progress
from fragrecon.report.figures.monitoring import PUZZLES, ROWS, PictureLogger, embedded
from fragrecon.report.metrics import scores_of
from fragrecon.report.results import check_scorable, score
from fragrecon.runs.modules import build_on_meta
from fragrecon.runs.read import Run, load_run
from fragrecon.runs.write import Record
from fragrecon.training.compute import compiling
from fragrecon.training.learner import check_monitor, make_learner
from fragrecon.training.loggers import ending, exit_on_sigterm
from fragrecon.training.processes import end_with_parent
from fragrecon.training.pruning import MedianPruning
from fragrecon.training.trainer import fit, make_trainer

log = logging.getLogger(__name__)


def main(config: Config, record: Record) -> dict[str, Any] | None:
    """Train a model and score its best checkpoint.

    Args:
        config: run config.
        record: run record; if its stage is ``evaluation``, training is skipped.

    Returns:
        The metrics; None if nothing is scored, the run is pruned, or this is not the first process.

    Raises:
        ConfigError: a setting is invalid; raised before training begins.
        DataError: the data cannot be read or is too small; raised before training begins.
    """
    watch = Stopwatch()
    with watch.part("data"):
        data = open_data(config)
        initial = check_settings(config, data)
        trainer = make_trainer(config, record)
        processes = trainer.num_devices * trainer.num_nodes
        check_share(config.data, processes)
    with ExitStack() as stack:
        with watch.part("loggers"), progress("starting loggers", announce=False):
            stack.enter_context(ending(trainer.loggers))
        together = f" by {processes} processes" if processes > 1 else ""
        machine = hardware.describe(config.trainer)
        log.info("training%s on %s", together, machine)
        with watch.part("data"):
            check_data(config, data)
            data.check()
            data.warn_if_lossy()
        if record.status.get("stage") != "evaluation":
            record.enter("training", machine=machine)
            with compiling(config.compute):
                fit(trainer, make_learner(config, data, initial), record)
            if not trainer.is_global_zero:
                return None
            if reason := next((found.reason for found in prunings(trainer) if found.reason), None):
                log.info("pruned: %s", reason)
                record.prune(reason)
                return None
            record.enter("evaluation")
        with exit_on_sigterm():
            return score_best(config, record, data, trainer, watch)


def prunings(trainer: pl.Trainer) -> list[MedianPruning]:
    """Return the callbacks that may have pruned the run."""
    callbacks = cast(Any, trainer).callbacks  # missing from its annotations
    return [callback for callback in callbacks if isinstance(callback, MedianPruning)]


def check_settings(config: Config, data: FragmentData) -> Path | None:
    """Check the settings that can be checked without reading data.

    Returns:
        The checkpoint to initialise the weights from, if ``init_from`` is set.

    Raises:
        ConfigError: a setting is invalid.
    """
    model, objective = build_on_meta(config, data.grid)
    check_scorable(config, model)
    check_monitor(config, objective)
    build(config.optimizer, "optimizer", torch.optim.Optimizer, [torch.nn.Parameter(torch.zeros(1))])
    return load_run(config.init_from).checkpoint if config.init_from else None


def score_best(
    config: Config, record: Record, data: FragmentData, trainer: pl.Trainer, watch: Stopwatch
) -> dict[str, Any] | None:
    """Score the best checkpoint of a trained run, and log the scores and embeddings."""
    epochs = record.epochs
    last = epochs[-1] if epochs else {}
    watch.seconds["training"], step = last.get("seconds", 0.0), int(last.get("step", 0))
    shows = not config.trainer.fast_dev_run  # then Lightning replaces the loggers by one that does nothing
    loggers = [logger for logger in trainer.loggers if shows and isinstance(logger, PictureLogger)]
    if not (config.evaluation.puzzles or loggers):
        return None
    run, metrics = Run(record.folder, config, record.status), None
    if config.evaluation.puzzles:
        metrics = score(config, run.model, run, data, record, watch)
        means = {f"test/{name}": summary["mean"] for name, summary in scores_of(metrics)["model"].items()}
        for logger in trainer.loggers:
            logger.log_metrics(means, step=step)
    shown = data.side_by_side(ROWS // PUZZLES).validation_set()
    for logger in loggers:
        device = hardware.device_of(config.trainer)
        with progress(f"embeddings for {type(logger).__name__}"):
            logger.show_embeddings(embedded(run.model.to(device), shown, device), step)
    return metrics


if __name__ == "__main__":
    search_path.leave_working_folder()
    end_with_parent()
    logging.getLogger("fragrecon").setLevel(logging.WARNING)  # the first process logs for all
    try:
        main(load_run(sys.argv[1]).config, Record(Path(sys.argv[1]), writes=False))
    except KeyboardInterrupt:
        sys.exit(130)
    except FragreconError:
        sys.exit(1)  # the first process reports the error
