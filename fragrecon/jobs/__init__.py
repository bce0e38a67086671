"""The modes, one module each: ``mode=train`` calls ``main(config, record)`` of `fragrecon.jobs.train`.

This file runs a mode in the folder of its job. ``conf/mode/`` lists the modes.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import DictConfig

from fragrecon.config.parse import parse_composed
from fragrecon.config.saved import changed
from fragrecon.config.schema import Config
from fragrecon.errors import ConfigError, explained, typed
from fragrecon.report.sweep_files import keep_current, update_leaderboard
from fragrecon.runs.contents import read_metrics
from fragrecon.runs.read import load_run
from fragrecon.runs.sweeps import note, sweep_of
from fragrecon.runs.write import CONFIG, LOCK, METRICS_FILE, OVERRIDES, PAGE, STATUS, WANDB_ID, Record

log = logging.getLogger(__name__)

# Environment variables in which multi-process launchers set the rank of a process.
_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")


def run_job(
    composed: DictConfig, folder: Path, overrides: list[str], *, multirun: bool = False
) -> dict[str, Any] | None:
    """Run one job in its folder and record the outcome there, even if its config is rejected.

    In a sweep, finished jobs are skipped; failed and stopped ones run again. Outside sweeps, `fragrecon.run` deletes
    the record of a rejected config.

    Raises:
        FolderTakenError: the folder holds another run.
    """
    if multirun and composed.get("resume"):
        raise ConfigError(
            f"resume={composed.resume} resumes a single run; leave out -m. To resume a sweep, repeat its command"
        )
    first = is_first_process()
    if not first:
        logging.getLogger("fragrecon").setLevel(logging.WARNING)  # the first process logs for all
    sweep = sweep_of(folder)
    record = Record(folder, writes=first, after=note(sweep)["started"] if sweep else "")
    with record.hold():
        if not composed.get("resume") and not multirun:
            record.check_unused()
        try:
            config = _job_config(parse_composed(composed, overrides), overrides)
        except Exception as error:
            if not composed.get("resume"):  # otherwise a refused command must leave the resumed run unchanged
                record.refuse(overrides, error)
            raise
        if config.resume:
            if record.status.get("status") == "done" and overrides == [f"resume={config.resume}"]:
                log.info("%s is finished; nothing is left to do", folder)
                return _unshown(record)
            overrides = [*record.overrides, *(o for o in overrides if not o.startswith("resume="))]
        elif multirun and record.status and not record.must_run(config):
            log.info("%s is finished; skipped", folder.name)
            return _unshown(record)
        try:
            return run(config, record, overrides)
        except KeyboardInterrupt:
            if sweep:
                update_leaderboard(sweep)
            again = "the same command" if multirun else f"python -m fragrecon.run {typed('resume', folder)}"
            log.warning("interrupted; resume with: %s", again)
            sys.exit(130)
        finally:
            if sweep:
                keep_current(sweep)


def _unshown(record: Record) -> dict[str, Any] | None:
    """Return the metrics of a finished run that has no page yet, because it was stopped before."""
    path = record.folder / METRICS_FILE
    return read_metrics(path) if record.writes and path.is_file() and not (record.folder / PAGE).exists() else None


def run(config: Config, record: Record, overrides: list[str]) -> dict[str, Any] | None:
    """Run the mode of a config and record the outcome."""
    name = f"{__name__}.{config.mode}"
    if find_spec(name) is None:
        raise ConfigError(f"mode={config.mode} of the saved config is not known")
    record.start(config, overrides)
    try:
        metrics: dict[str, Any] | None = import_heavy(name).main(config, record)
    except Exception as problem:
        error = explained(problem)
        record.fail(error)
        raise error from error.__cause__
    record.finish()
    return metrics


def import_heavy(name: str) -> ModuleType:
    """Import a module without garbage collections, and leave out of later ones what it imports, such as PyTorch.

    Libraries make hundreds of thousands of objects that live as long as the process, and going through them takes time.
    """
    if name in sys.modules:
        return sys.modules[name]
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()


def _job_config(composed: Config, overrides: Sequence[str]) -> Config:
    """Return the config of the command line or, if that resumes or reads a run, the run's config with the overrides.

    A development run evaluates little, too.
    """
    source = composed.resume or composed.run
    config = changed(load_run(source).config, composed, overrides) if source else composed
    quick = config.mode == "train" and config.trainer.fast_dev_run
    return replace(config, evaluation=config.evaluation.quick()) if quick else config


def is_first_process() -> bool:
    """Whether this is the first or only process that a launcher started for a job."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)


def discard(folder: Path, before: Collection[str]) -> None:
    """Delete the files of a refused job, and its folder and the two above it if they are then empty.

    Args:
        folder: job folder.
        before: names of files that existed before the job and are kept. If the job wrote results, nothing is deleted.
    """
    written = {path.name for path in folder.iterdir()}.difference(before)
    if not written <= {CONFIG, OVERRIDES, STATUS, LOCK, WANDB_ID, "run.log"}:
        return
    for name in written:
        (folder / name).unlink()
    for place in (folder, folder.parent, folder.parent.parent):
        if place == Path.cwd() or any(place.iterdir()):
            break
        place.rmdir()
