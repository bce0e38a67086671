"""Saved configs of runs: read, hash, and apply a later command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from fragrecon.config.parse import parse
from fragrecon.config.plain import read_yaml
from fragrecon.config.schema import MODE_KEYS, Config
from fragrecon.errors import ConfigError
from fragrecon.files import digest

RESUMABLE = (
    *(f"data.{key}" for key in ("root", "cache_dir", "download", "epochs", "batches_per_epoch", "puzzles_per_batch")),
    *("data.augment", "data.corruption", "data.reader", "optimizer", "scheduler", "trainer", "logger", "evaluation"),
    *("selection", "compute", "report"),
)
"""Keys that may change when a run is resumed."""

READABLE = ("seed", "data", "trainer", "evaluation", "selection", "report")
"""Keys that may change when another mode reads a run, besides the keys of that mode."""

COMMANDS = ("mode", "resume", "sweep", "plugins", *MODE_KEYS)
"""Keys of the job itself: taken from the command line, never from the saved config of the run that the job reads."""


def load(path: Path) -> Config:
    """Read the saved config of a run, without resolving anything in it; raises `ConfigError`."""
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is not a saved config: it holds no mapping")
    return parse(values)


def for_reading(config: Config) -> Config:
    """Return the config of a run that is only read: nothing is downloaded, and the cache is the user's own."""
    return replace(config, data=replace(config.data, cache_dir=None, download=False))


@cache
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

    ``data.cache_dir`` and ``data.download`` of the saved config count only if the run is resumed; see `for_reading`.

    Args:
        saved: saved config of the run.
        composed: composed config of the command line.
        overrides: overrides of the command line, as ``key=value``.

    Returns:
        The config of the job.

    Raises:
        ConfigError: an override changes a key that is fixed by training, or values are incompatible.
    """
    values, fresh = (saved if composed.resume else for_reading(saved)).to_dict(), composed.to_dict()
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
        if name == "_target_":  # the other keys are arguments of another class
            target.clear()
            target.update(_at(fresh, key.removesuffix("._target_")))
        target[name] = _at(fresh, key)
    if not composed.resume:
        values |= {key: fresh.get(key) for key in COMMANDS}
    return parse(values | {"resume": composed.resume})


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values
