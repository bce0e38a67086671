"""The command line: ``python -m fragrecon.run model=pca``. The only module that knows Hydra.

Heavy imports are deferred until a job starts, so that an invalid command fails immediately.
"""

from __future__ import annotations

from fragrecon import __version__, search_path

if __name__ == "__main__":
    search_path.leave_working_folder()  # before anything is imported that a file there could take the place of

import logging
import math
import os
import re
import signal
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import hydra
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from fragrecon.config import plugins
from fragrecon.errors import (
    FolderTakenError,
    FragreconError,
    MachineError,
    RunError,
    TrainingError,
    explained,
    nearest,
    printable,
    typed,
)
from fragrecon.output import make_output_lasting

if TYPE_CHECKING:
    from fragrecon.config.schema import Config

log = logging.getLogger(__name__)

_HERE = Path(__file__).resolve().parent
CONF = _HERE / "conf" if (_HERE / "conf").is_dir() else _HERE.parent / "conf"
GROUPS = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name != "hydra")
# Plugins installed as extras; the extra is the part of the name before `_`.
_EXTRAS = ("joblib", "submitit_local", "submitit_slurm", "ray", "optuna")
_TRACEBACK = "FRAGRECON_TRACEBACK"


def run_folder(resume: str | None, fresh: str, mode: str, model: str, target: str | None) -> str:
    """Return the folder of this job: the run to resume, or a new folder.

    A new folder is named after the mode and, if a model is trained, the model: its name in ``conf/model``, or the name
    of the user's own class. Only the first process of a job makes one; further processes, which may start at another
    time, get a temporary folder.

    Raises:
        RunError: ``resume`` is not a run folder, holds a link that leads out of it, or is an export.
    """
    if not resume:
        from fragrecon.jobs import is_first_process

        if not is_first_process():
            return _scratch_folder().name
        name = str(target).rpartition(".")[2]
        model = name if name.isidentifier() and not str(target).startswith(plugins.OWN) else model
        return f"{fresh}-{mode}-{model}" if mode == "train" else f"{fresh}-{mode}"
    if not (Path(resume) / "config.yaml").is_file():
        raise RunError(f"resume={resume} is not the folder of a run: it holds no config.yaml")
    from fragrecon.files import check_links
    from fragrecon.runs.write import WEIGHTS

    check_links(Path(resume))  # before Hydra opens run.log
    if (Path(resume) / WEIGHTS).is_file():
        raise RunError(f"resume={resume} is an export, which cannot be resumed; init_from= starts from its weights")
    return resume


@cache
def _scratch_folder() -> TemporaryDirectory[str]:
    """Return the folder of a further process, which is deleted when the process ends."""
    return TemporaryDirectory(prefix="fragrecon-", ignore_cleanup_errors=True)


def job_folder(overrides: Sequence[str]) -> str:
    """Return the name of a sweep job's folder."""
    from fragrecon.runs import sweeps

    return sweeps.job_folder(overrides)


def help_text() -> str:
    """Return the help: one line per config group and option, from the comments in the YAML files.

    Options of plugins and of ``--config-dir`` are listed with the project's own.
    """
    root, lines = (CONF / "config.yaml").read_text(), []
    given = GlobalHydra.instance().config_loader().get_sources()  # with that of --config-dir
    sources = [CONF, *plugins.config_folders(), *(Path(source.path) for source in given if source.scheme() == "file")]
    for group in [*GROUPS, "hydra/launcher"]:
        comment = re.search(rf"^  - (?:override )?{group}: \S+ +# (.+)$", root, re.MULTILINE)
        lines.append(f"\n  {group + '=':<26} {comment.group(1) if comment else ''}")
        found = (path for source in reversed(sources) for path in (source / group).glob("*.yaml"))
        options = {path.stem: path for path in found if path.stem != "base"}  # of one name, the first source counts
        lines += [f"    {name:<24} {_first_comment(path)}" for name, path in sorted(options.items())]
    return "\n".join(lines).replace("$", "$$")


def _first_comment(path: Path) -> str:
    comments = (line[2:] for line in path.read_text().splitlines() if line.startswith("# ") and "@package" not in line)
    return next(comments, "")


OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)
OmegaConf.register_new_resolver("plugin_folders", lambda: list(map(str, plugins.config_folders())), replace=True)
OmegaConf.register_new_resolver("help_text", help_text, replace=True)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _hydra_main(composed: DictConfig) -> float | None:
    search_path.leave_working_folder()  # a launcher's process has not come through `main`
    from fragrecon import jobs
    from fragrecon.report.leaderboard import best_validation
    from fragrecon.runs.read import load_run
    from fragrecon.runs.write import METRICS_FILE, PAGE

    settings = HydraConfig.get()
    folder, overrides = Path(settings.runtime.output_dir), list(settings.overrides.task)
    multirun = settings.mode == RunMode.MULTIRUN
    # Hydra has already created run.log; ignore it if empty.
    before = {path.name for path in folder.iterdir() if path.name != "run.log" or path.stat().st_size}
    # Clear Hydra's config; otherwise, Lightning would launch processes with Hydra's command line, which has all jobs.
    HydraConfig.instance().cfg = None
    if multirun and composed.sweep.stop_on_failure and failed_jobs(folder.parent):
        jobs.discard(folder, before)
        log.warning("%s is not started, because another job has failed (sweep.stop_on_failure=true)", folder.name)
        return None
    if multirun and settings.runtime.choices.get("hydra/launcher") == "cores":
        _claim_gpu(composed, folder.parent)
    try:
        outcome = jobs.run_job(composed, folder, overrides, multirun=multirun)
    except Exception as problem:
        error = explained(problem)
        expected = isinstance(error, FragreconError)
        refused = expected and not isinstance(error, (TrainingError, FolderTakenError, MachineError))
        if refused and not multirun and jobs.is_first_process():
            jobs.discard(folder, before)
        if multirun:  # Hydra reports only the first job that failed
            log.error("%s failed: %s", folder.name, error, exc_info=not expected or _wants_traceback())
            raise error from error.__cause__
        if _wants_traceback() or not expected:
            raise error from error.__cause__
        sys.exit(printable(f"error: {error}"))  # otherwise Hydra would print another line first
    if outcome is not None and (folder / METRICS_FILE).is_file():
        from fragrecon.progress import Stopwatch, progress
        from fragrecon.report.page import write_run_page
        from fragrecon.report.terminal import print_time, say

        watch = Stopwatch()
        try:
            with watch.part("page"), progress("writing the page", announce=False):
                write_run_page(folder / PAGE, load_run(folder))
        except KeyboardInterrupt:
            again = "the same command" if multirun else f"python -m fragrecon.run {typed('resume', folder)}"
            log.warning("interrupted; the run is finished, but not its page, which is written by: %s", again)
            sys.exit(130)
        if not multirun:
            print_time(outcome["seconds"] | watch.seconds)
            say(f"page: {folder / PAGE}")
    return best_validation(load_run(folder)) if multirun else None  # the objective of a search


def _claim_gpu(composed: DictConfig, sweep: Path) -> None:
    """Give the process of a job that uses one GPU a GPU of its own, if the machine has several."""
    from fragrecon.runs.gpus import claim_gpu, visible_gpus

    if composed.trainer.accelerator != "cpu" and composed.trainer.devices == 1:
        gpu = claim_gpu(sweep, visible_gpus())
        if gpu is not None:
            log.info("the jobs of this process run on GPU %s", gpu)


class SweepCallback(Callback):
    """Hydra callback for sweeps: records the command and prints a line after each job."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Record the command, its number of jobs and the keys it sweeps in the sweep folder."""
        global _sweep
        from fragrecon.runs import sweeps

        _sweep = Path(config.hydra.sweep.dir)
        overrides = list(config.hydra.overrides.task)
        sweeper = config.hydra.sweeper
        jobs, swept = count_jobs(sweeper, overrides), swept_keys(sweeper, overrides)
        if jobs is not None and jobs < 1:  # of any other error in a callback, Hydra makes a warning
            sys.exit(f"error: hydra.sweeper.n_trials={jobs} should be 1 or more")
        sweeps.begin(_sweep, config.sweep.name, jobs, overrides, swept)
        if "study_name" in config.hydra.sweeper:
            from fragrecon.runs.studies import record_jobs_in_studies

            record_jobs_in_studies(_sweep)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Print a line about a job of the sweep that has ended."""
        if config.hydra.mode == RunMode.MULTIRUN:
            from fragrecon.report.sweep_files import job_line
            from fragrecon.report.terminal import say

            if line := job_line(Path(config.hydra.runtime.output_dir), config.hydra.job.num + 1):
                say(line)


_sweep: Path | None = None
"""The sweep that this process runs: its folder."""


def count_jobs(sweeper: DictConfig, overrides: Sequence[str]) -> int | None:
    """Return the number of jobs that a sweeper runs for these overrides; None if only the sweeper knows."""
    if "n_trials" in sweeper:
        return int(sweeper.n_trials)
    try:
        sizes = {
            found.key_or_group: len(list(found.sweep_string_iterator())) if found.is_sweep_override() else 1
            for found in _parsed(sweeper, overrides)
        }
    except HydraException:  # only the sweeper can expand glob(*); it also reports what is invalid
        return None
    return math.prod(sizes.values())


def swept_keys(sweeper: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Return the keys that a command gives several values."""
    try:
        found = {override.key_or_group: override.is_sweep_override() for override in _parsed(sweeper, overrides)}
    except HydraException:  # the sweeper reports what is invalid
        return []
    return [key for key, is_swept in found.items() if is_swept]


def _parsed(sweeper: DictConfig, overrides: Sequence[str]) -> list[Override]:
    grid = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    return OverridesParser.create().parse_overrides([*grid, *overrides])


def compose(overrides: Sequence[str]) -> Config:
    """Compose the config of a command line with these overrides; raises `ConfigError`."""
    from fragrecon.config.parse import parse_composed

    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return parse_composed(hydra.compose("config", list(overrides)), overrides)


def explain(error: Exception) -> str:
    """Return a message for a command-line error; for an unknown name, it suggests the nearest valid one."""
    cause = error
    while isinstance(cause, HydraException) and isinstance(cause.__cause__, Exception):
        cause = cause.__cause__
    if isinstance(error, MissingConfigException):
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if group.startswith("hydra/") and name in _EXTRAS:
            return f'{group}={name} needs the extra: pip install "fragrecon[{name.partition("_")[0]}]"'
        if error.options is not None:
            return f"{group}='{name}' is not known{nearest(name, error.options)}"
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) and isinstance(cause.parent_node, DictConfig):
        hint = nearest(str(cause.key), map(str, cause.parent_node))
        sections: Any = OmegaConf.to_container(cause.parent_node)
        inside = [name for name, keys in sections.items() if isinstance(keys, dict) and cause.key in keys]
        if inside:
            hint = f"; did you mean {' or '.join(f'{name}.{cause.key}' for name in inside)}?"
        modes = {path.stem: list(map(str, OmegaConf.load(path))) for path in (CONF / "mode").glob("*.yaml")}
        if having := sorted(mode for mode, keys in modes.items() if str(cause.key) in keys):
            hint = f"; it belongs to mode={', '.join(having)}"
        if any(argument.startswith(("resume=", "run=")) for argument in sys.argv):
            hint += f" (to set a key that only the saved run has, use +{cause.full_key}=VALUE)"
        return f"unknown key {cause.full_key}{hint}"
    if isinstance(error, OverrideParseException):
        key, _, value = error.override.partition("=")
        if value.startswith("~"):
            return f"'{error.override}' is not valid: the shell does not expand its ~; use {key}=$HOME{value[1:]}"
        return (
            f"'{error.override}' is not valid: it should be KEY=VALUE. A value with spaces, = or other special "
            "characters needs quotes within quotes, as in \"run='my runs/a=b'\""
        )
    if isinstance(error, MachineError):
        return (
            f"{error}; use a folder that is writable and has space, by hydra.run.dir=FOLDER (for a sweep, "
            "hydra.sweep.dir=FOLDER)"
        )
    if listed := re.match(r"Ambiguous value for argument '(.+)'", str(error)):
        key, _, values = listed[1].partition("=")
        hint = f"; a single value that is a list has brackets: {key}=[{values}]" if "." in key else ""
        return f"{listed[1]} lists several values; to run one job for each, add -m{hint}"
    text = re.split(r"\n\s*full_key", str(cause if isinstance(cause, FragreconError) else error).strip())[0]
    return re.sub(r"^\w+ raised while resolving interpolation: ", "", text)


def main() -> None:
    """Run the command line; an error that the user can correct is printed as one message."""
    os.environ.setdefault(_TRACEBACK, os.environ.get("HYDRA_FULL_ERROR", "0"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises errors instead of printing them
    make_output_lasting()
    for argument in sys.argv:
        if argument != argument.encode(errors="replace").decode():
            sys.exit(f"error: {argument} is not valid UTF-8")
    if "--version" in sys.argv:  # Hydra would print its own
        print(f"fragrecon {__version__}")
        return
    for flag in {"-m", "--multirun"}.intersection(sys.argv[2:]):  # Hydra accepts it before or after all overrides only
        sys.argv.remove(flag)
        sys.argv.insert(1, flag)
    for group in GROUPS:
        if f"{group}=null" in sys.argv:  # Hydra would raise a ValueError
            names = sorted(path.stem for path in (CONF / group).glob("*.yaml") if path.stem != "base")
            sys.exit(f"error: {group}='null' is not known{nearest('null', names)}")
    if {"--help", "-h"}.intersection(sys.argv):
        # Hydra lists the config groups for templates that show them: four fifths of the time, and ours does not.
        Hydra.format_config_groups = lambda *_: ""  # type: ignore[method-assign]
    problem, begun = None, True
    try:
        _hydra_main()
    except (KeyboardInterrupt, SystemExit) as stop:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a further Ctrl-C would be an error of Python's exit
        if isinstance(stop, SystemExit):
            raise
        if _sweep:
            log.warning(
                "interrupted; jobs in other processes may still run. Repeat the command to run the remaining jobs"
            )
        sys.exit(130)
    except Exception as cause:
        error = explained(cause)
        expected = isinstance(error, (FragreconError, HydraException, OmegaConfBaseException))
        if (not expected and not _sweep) or _wants_traceback():
            raise
        problem, begun = explain(error), not isinstance(error, HydraException)
    if _sweep and begun and (_sweep / "sweep.json").is_file():  # Hydra composes all jobs before the first begins
        problem = close_sweep(_sweep) or problem
    if problem:
        sys.exit(printable(f"error: {problem}"))


def close_sweep(folder: Path) -> str | None:
    """Print a sweep's leaderboard and return a message about failed jobs, if there are any."""
    from fragrecon.report.sweep_files import update_leaderboard
    from fragrecon.report.terminal import print_leaderboard
    from fragrecon.runs import sweeps
    from fragrecon.runs.write import reason

    print_leaderboard(update_leaderboard(folder, page=True), folder)
    failed = failed_jobs(folder)
    if not failed:
        return None
    reasons = "".join(f"\n  {status['name']}: {reason(status)}" for status in failed)
    count = f"{len(failed)} of the {len(sweeps.ended_since_start(folder))} jobs that ran failed"
    return f"{count}; the same command tries them again:{reasons}"


def failed_jobs(folder: Path) -> list[dict[str, Any]]:
    """Return the status of each job that failed since the last command of a sweep started."""
    from fragrecon.runs import sweeps

    return [status for status in sweeps.ended_since_start(folder) if status["status"] == "failed"]


def _wants_traceback() -> bool:
    return os.environ.get(_TRACEBACK) == "1"


if __name__ == "__main__":
    # Call main of the module imported by name, as Hydra and launcher processes do, not that of __main__.
    from fragrecon.run import main as entry

    entry()
