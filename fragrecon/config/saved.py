"""Configs that runs have saved: reading them, their hash, and command-line overrides on top of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fragrecon.config.schema import Config, parse
from fragrecon.errors import ConfigError
from fragrecon.files import digest

# What a job is called, where it writes and what it prints.
_INERT = ("hydra", "logger", "sweep", "data.cache_dir", "trainer.enable_progress_bar")
# What is done with a run, and how often it is saved, does not change what it computes either.
_NOT_HASHED = (*_INERT, "mode", "run", "resume", "input", "loose", "embed", "demo", "bench", "checkpoint")


def load(path: Path) -> Config:
    """Read a config as a run has saved it."""
    try:
        values = OmegaConf.load(path)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} cannot be read as a saved config: {error}") from None
    if not isinstance(values, DictConfig):
        raise ConfigError(f"{path} is not a saved config: it holds no mapping")
    return parse(values)


def is_inert(key: str) -> bool:
    """Whether a key has no part in what a job does: it says what that is called, where it writes or what it prints."""
    return f"{key}.".startswith(tuple(f"{inert}." for inert in _INERT))


def config_hash(config: Config) -> str:
    """A short hash of everything that decides a run's numbers."""
    return digest(_decisive(config))[:16]


def _decisive(section: Any, prefix: str = "") -> Any:
    """A section without what is not hashed, and without keys at their defaults: one that comes later, with a default
    that leaves all as it was, changes no hash.
    """
    if is_dataclass(section):
        section = {key.name: value for key in fields(section) if (value := getattr(section, key.name)) != _default(key)}
    if not isinstance(section, dict):
        return section
    return {
        key: _decisive(value, f"{prefix}{key}.")
        for key, value in section.items()
        if f"{prefix}{key}" not in _NOT_HASHED
    }


def _default(key: Field[Any]) -> Any:
    return key.default if key.default_factory is MISSING else key.default_factory()


def overlay(saved: Config, composed: Config, overrides: Sequence[str], groups: Sequence[str]) -> Config:
    """The saved config, with what was given on the command line taken from the newly composed one.

    Args:
        saved: of the run that is read.
        composed: of this command line.
        overrides: the command line's overrides, as ``key=value``.
        groups: names of config groups; such a key takes the whole section over.
    """
    merged = OmegaConf.create(saved.to_dict())
    fresh = OmegaConf.create(composed.to_dict())
    taken: set[str] = set()
    for override in overrides:
        key = override.partition("=")[0].lstrip("+")
        if key.startswith("~"):
            raise ConfigError(f"{override}: nothing can be taken out of the config of a run; set another value instead")
        keys = [key]
        if key.partition("@")[0] == "experiment":
            raise ConfigError(
                "an experiment cannot be laid over a finished run; give the keys it should change one by one"
            )
        if key in groups:
            keys = [key, "objective"] if key == "model" else [key]
        for name in keys:
            OmegaConf.update(merged, name, OmegaConf.select(fresh, name), merge=False)
        taken.update(keys)
    result = parse(merged)
    # Composition takes trainer.max_epochs from data.epochs, of which a resolved config knows no more: where it was not
    # set apart, it goes on to follow what data.epochs has become.
    source = composed if "trainer" in taken else saved
    if "trainer.max_epochs" not in taken and source.trainer.get("max_epochs") == source.data.epochs:
        result.trainer["max_epochs"] = result.data.epochs
    return result


def check_same_model(saved: Config, merged: Config, *, resuming: bool) -> None:
    """Refuse to give a trained model another form; raises `ConfigError`.

    Args:
        saved: config the model was trained by.
        merged: config it should be used by.
        resuming: whether it should be trained on, which also takes the same fragments, objective and start.
    """
    fixed: dict[str, tuple[Any, Any]] = {"model": (saved.model, merged.model)}
    if resuming:
        fixed |= {
            "objective": (saved.objective, merged.objective),
            "data.image_height": (saved.data.image_height, merged.data.image_height),
            "data.width_step": (saved.data.width_step, merged.data.width_step),
            "data.fragment_size": (saved.data.fragment_shape[1:], merged.data.fragment_shape[1:]),
            "data.channels": (saved.data.channels, merged.data.channels),
            "data.image_size": (saved.data.image_size, merged.data.image_size),
            "data.name": (saved.data.name, merged.data.name),
            "init_from": (saved.init_from, merged.init_from),
        }
    for path, (before, after) in fixed.items():
        if before != after:
            raise ConfigError(
                f"{path} of a trained run stays {before}, it cannot become {after}; "
                "train a new run, from the weights of this one if they fit (init_from=FOLDER)"
            )
