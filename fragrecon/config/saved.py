"""Saved configs of runs: read, hash, and apply a later command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fragrecon.config.parse import parse
from fragrecon.config.schema import MODE_KEYS, Config
from fragrecon.errors import ConfigError
from fragrecon.files import digest

RESUMABLE = (
    *(f"data.{key}" for key in ("root", "cache_dir", "download", "epochs", "batches_per_epoch", "puzzles_per_batch")),
    *("data.augment", "data.corruption", "data.reader", "optimizer", "scheduler", "trainer", "logger", "evaluation"),
    *("selection", "compute"),
)
"""Keys that may change when a run is resumed."""

READABLE = ("seed", "data", "trainer", "evaluation", "selection")
"""Keys that may change when another mode reads a run, besides the keys of that mode."""

COMMANDS = ("mode", "resume", "sweep", *MODE_KEYS)
"""Keys of the job itself: taken from the command line, never from the saved config of the run that the job reads."""


def load(path: Path) -> Config:
    """Read the saved config of a run; raises `ConfigError`."""
    try:
        values = OmegaConf.load(path)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} cannot be read as a saved config: {error}") from None
    if not isinstance(values, DictConfig):
        raise ConfigError(f"{path} is not a saved config: it holds no mapping")
    return parse(values)


def is_inert(key: str) -> bool:
    """Whether the schema marks a dotted key as one that does not affect results."""
    kind: Any = Config
    for part in key.split("."):
        known = {found.name: found for found in fields(kind)} if is_dataclass(kind) else {}
        if part not in known:
            return part == "hydra"
        if known[part].metadata.get("inert"):
            return True
        kind = get_type_hints(kind)[part]
    return False


def config_hash(config: Config) -> str:
    """Return a short hash of all keys that affect a run's results."""
    return digest(_without_inert(config))[:16]


def _without_inert(part: Any) -> Any:
    if not is_dataclass(part):
        return part
    return {key.name: _without_inert(getattr(part, key.name)) for key in fields(part) if not key.metadata.get("inert")}


def changed(saved: Config, composed: Config, overrides: Sequence[str]) -> Config:
    """Apply a later command line, which resumes a run or applies a mode to it, to the run's saved config.

    Args:
        saved: saved config of the run.
        composed: composed config of the command line.
        overrides: overrides of the command line, as ``key=value``.

    Returns:
        The config of the job.

    Raises:
        ConfigError: an override changes a key that is fixed by training, or values are incompatible.
    """
    values, fresh = saved.to_dict(), composed.to_dict()
    allowed = RESUMABLE if composed.resume else READABLE
    for override in overrides:
        key = override.partition("=")[0].lstrip("+")
        if key.partition(".")[0] in COMMANDS:
            continue
        if not any(f"{key}.".startswith(f"{name}.") for name in allowed):
            if _at(values, key) == _at(fresh, key) and not key.startswith("~"):
                continue  # the value is the saved one
            raise ConfigError(
                f"{override}: {key.lstrip('~')} of a trained run is fixed; only these can change: "
                f"{', '.join(allowed)}. To start a new run from its weights, use init_from=FOLDER"
            )
        *sections, name = key.split(".")
        target = values
        for part in sections:
            if not isinstance(target.get(part), dict):
                target[part] = {}
            target = target[part]
        target[name] = _at(fresh, key)
    if not composed.resume:
        values |= {key: fresh.get(key) for key in COMMANDS}
    return parse(values | {"resume": composed.resume})


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values
