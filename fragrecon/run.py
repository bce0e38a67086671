"""The command line: ``python -m fragrecon.run model=pca``. The only module that knows Hydra.

Torch is imported by the job, not before, so that bad input is answered at once.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from fragrecon import schema
from fragrecon.errors import FragreconError, RunError, nearest

log = logging.getLogger(__name__)

_HERE = Path(__file__).resolve().parent
CONF = _HERE / "conf" if (_HERE / "conf").is_dir() else _HERE.parent / "conf"
GROUPS = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir())
# Keys that say what to do with a run; they are no part of the run's own configuration.
_COMMANDS = ("mode", "run", "resume")
# Where launchers of several processes say which one this is.
_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
_TRACEBACK = "FRAGRECON_TRACEBACK"


def run_folder(resume: str | None, fresh: str, mode: str, model: str) -> str:
    """The folder of this job: the one to go on with, which must be a run's, or a new one.

    The command line's ``model`` names it where a model is trained; elsewhere the model is that of the run that is read.
    """
    if not resume:
        return f"{fresh}-{mode}-{model}" if mode == "train" else f"{fresh}-{mode}"
    if not (Path(resume) / "config.yaml").is_file():
        raise RunError(f"resume={resume} is not the folder of a run: it holds no config.yaml")
    return resume


def job_folder(number: int, overrides: str) -> str:
    """The folder's name of a job of a sweep, which its number alone makes its own; file systems take 255 bytes.

    Of the characters that mean something to Hydra, or to a shell, none is left, so that ``run=`` takes it as it is.
    """
    name = re.sub(r"[^\w.+-]+", "_", f"{number}-{overrides}".replace("=", "-"), flags=re.ASCII)
    return name[:200]


OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _hydra_main(composed: DictConfig) -> None:
    settings = HydraConfig.get()
    try:
        run_job(composed, Path(settings.runtime.output_dir), list(settings.overrides.task))
    except Exception as error:
        if settings.mode == RunMode.MULTIRUN:
            log.error("job %s failed: %s", settings.job.num, error)  # Hydra will only tell of the first that did
            raise
        if _wants_traceback() or not isinstance(error, FragreconError):
            raise
        sys.exit(f"error: {error}")  # without the line that Hydra would print first


def run_job(composed: DictConfig, folder: Path, overrides: list[str]) -> dict[str, Any] | None:
    """Do one job in a folder of its own; how it ended is noted there, also where its config is refused."""
    from fragrecon.record import Record

    first = all(os.environ.get(name, "0") == "0" for name in _RANKS)
    if not first:
        logging.getLogger("fragrecon").setLevel(logging.WARNING)  # the first process speaks for all
    record = Record(folder, writes=first)
    if not composed.get("resume"):
        record.check_unused()
    try:
        config = job_config(schema.parse(composed), overrides)
    except Exception as error:
        if not composed.get("resume"):  # what is refused changes nothing of a run that it names
            record.fail(error)
        raise
    if config.resume:
        if record.status.get("status") == "done" and overrides == [f"resume={config.resume}"]:
            log.info("%s is finished already; nothing is left to do", folder)
            return None
        overrides = [*record.overrides(), *(o for o in overrides if not o.startswith("resume="))]
    try:
        from fragrecon import jobs

        return jobs.run(config, record, overrides)
    except KeyboardInterrupt:
        log.warning("stopped from the keyboard; go on with: python -m fragrecon.run resume=%s", folder)
        sys.exit(130)


def job_config(composed: schema.Config, overrides: Sequence[str]) -> schema.Config:
    """The config to work by: that of the run which is resumed or evaluated, under what this command line says, or
    this one.
    """
    source = composed.resume or (composed.run if composed.mode != "train" else None)
    if not source:
        return composed
    from fragrecon.runs import load_run

    saved = load_run(source).config
    given = [override for override in overrides if override.partition("=")[0] not in _COMMANDS]
    merged = schema.overlay(saved, composed, given, GROUPS)
    schema.check_same_model(saved, merged, resuming=bool(composed.resume))
    merged.resume = composed.resume
    if not composed.resume:
        merged.mode, merged.run = composed.mode, composed.run
    return merged


def compose(overrides: Sequence[str]) -> schema.Config:
    """The config that a command line with these overrides would give."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return schema.parse(hydra.compose("config", list(overrides)))


def explain(error: Exception) -> str:
    """One message for an error of the command line, with the nearest valid name where a name is unknown."""
    cause = error
    while isinstance(cause, HydraException) and isinstance(cause.__cause__, Exception):
        cause = cause.__cause__
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"{group}='{name}' is not known{nearest(name, error.options)}"
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) and isinstance(cause.parent_node, DictConfig):
        known = [str(key) for key in cause.parent_node]
        hint = nearest(str(cause.key), known)
        if any(argument.startswith(("resume=", "run=")) for argument in sys.argv):
            hint += f" (a key that only the run itself has is given as +{cause.full_key}=VALUE)"
        return f"unknown key {cause.full_key}{hint}"
    text = re.split(r"\n\s*full_key", str(cause if isinstance(cause, FragreconError) else error).strip())[0]
    return re.sub(r"^\w+ raised while resolving interpolation: ", "", text)


def main() -> None:
    """Run from the command line; what a user can mend is answered by its message alone."""
    os.environ.setdefault(_TRACEBACK, os.environ.get("HYDRA_FULL_ERROR", "0"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then hands errors on instead of printing them its own way
    try:
        _hydra_main()
    except (FragreconError, HydraException, OmegaConfBaseException) as error:
        if _wants_traceback():
            raise
        sys.exit(f"error: {explain(error)}")


def _wants_traceback() -> bool:
    return os.environ.get(_TRACEBACK) == "1"


if __name__ == "__main__":
    main()
