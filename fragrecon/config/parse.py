"""Parse a composed or saved config into the typed `fragrecon.config.schema.Config`; errors are one line long.

This needs OmegaConf and pydantic, but neither Hydra nor torch, so that a saved config can be opened anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, cast, get_args, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from typing_extensions import is_typeddict

from fragrecon.config import plugins
from fragrecon.config.schema import Config
from fragrecon.errors import ConfigError, nearest

_CONFIG = TypeAdapter(Config)

_FOLDERS = ("data.root", "run", "input", "output", "sweep.dir")
LONGEST = 200
"""Maximum length of a value in a message."""


def parse(config: DictConfig | Mapping[str, Any]) -> Config:
    """Parse a config.

    Args:
        config: mapping with all keys; interpolations may be unresolved.

    Returns:
        The frozen config, with absolute paths.

    Raises:
        ConfigError: an unknown or missing key, a value of the wrong type or out of range, or incompatible values.
    """
    if isinstance(config, DictConfig):
        config = _plain(config)
    for path, value in _leaves(config):
        if value == "???":
            raise ConfigError(f"{path} must be set: {path}={'FOLDER' if path in _FOLDERS else 'VALUE'}")
    try:
        text = json.dumps(config)
    except TypeError as error:
        raise ConfigError(f"a config may hold plain values only: {error}") from None
    try:
        return _CONFIG.validate_json(text)
    except ValidationError as error:
        raise ConfigError(_message(error.errors())) from None


def parse_composed(composed: DictConfig, overrides: Sequence[str]) -> Config:
    """Parse the config that a command line composed, and trust the packages of the classes that it names.

    A typed ``_target_`` of the user's own code replaces its section: the keys of the YAML file, which are arguments of
    another class, are left out unless they are typed as well.

    Args:
        composed: config with all keys.
        overrides: overrides of the command line, as ``key=value``.

    Returns:
        The config.

    Raises:
        ConfigError: see `parse`.
    """
    values, typed = _plain(composed), [override.partition("=")[0].lstrip("+") for override in overrides]
    for path in (key.removesuffix("._target_") for key in typed if key.endswith("._target_")):
        section: Any = values
        for part in path.split("."):
            section = section.get(part, {})
        if not str(section.get("_target_", "")).startswith(plugins.OWN):
            inner = (key.removeprefix(f"{path}.") for key in typed if key.startswith(f"{path}."))
            for key in set(section).difference(key.partition(".")[0] for key in inner):
                del section[key]
    config = parse(values)
    plugins.trust([*config.plugins, *plugins.targets(config.to_dict())])
    return config


def _plain(config: DictConfig) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=False))
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from None


def typed_as(kind: Any, value: Any, path: str) -> Any:
    """Check the type of a value; only integers are converted, to floats.

    Args:
        kind: type to check for.
        value: plain value.
        path: dotted key of the value, for the message.

    Returns:
        The value.

    Raises:
        ConfigError: the value has another type.
    """
    try:
        return TypeAdapter(kind, config=ConfigDict(strict=True)).validate_json(json.dumps(value))
    except ValidationError as error:
        found = [{**one, "loc": (*path.split("."), *one["loc"])} for one in error.errors()]
        raise ConfigError(_message(cast(list[ErrorDetails], found))) from None


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _message(errors: Sequence[ErrorDetails]) -> str:
    """Return the first error in one line: the key, the value, and what would be valid."""
    error = errors[0]
    parts = _key(error)
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")
    value, kind = error["input"], error["type"]
    shown = f"{repr(value)[:LONGEST]}..." if len(repr(value)) > LONGEST else repr(value)
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _known([str(part) for part in parts[:-1]])
        return f"unknown key {path}{nearest(str(parts[-1]), known)}"
    if kind in ("missing", "missing_argument"):
        return f"missing key {path}"
    if kind == "literal_error" and isinstance(value, str):
        expected = error["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        return f"{path}={shown} is not known{nearest(value, expected)}"
    if isinstance(value, list) and kind in ("int_type", "float_type", "bool_type", "string_type"):
        line = ",".join(map(str, value))
        return f"{path}={value} should be a single value; to run one job for each, use -m {path}={line}"
    if "ctx" in error and isinstance(error["ctx"].get("error"), Exception):
        return str(error["ctx"]["error"])
    # A union has one error per alternative.
    said = (
        one["msg"].removeprefix("Input ").replace("array", "list in brackets") for one in errors if _key(one) == parts
    )
    expected = dict.fromkeys(said)
    return f"{path}={shown} {' or '.join(expected)}"


def _key(error: ErrorDetails) -> list[int | str]:
    """Return the key of an error in parts, without the type names that pydantic adds for alternatives of a union."""
    types = ("int", "float", "str", "bool")
    return [part for part in error["loc"] if isinstance(part, int) or (part.isidentifier() and part not in types)]


def _known(path: Sequence[str]) -> list[str]:
    """Return the keys of the section at a path."""
    kind: Any = Config
    for key in path:
        kind = get_type_hints(kind)[key]
        kind = next((option for option in get_args(kind) if is_dataclass(option) or is_typeddict(option)), kind)
    return list(get_type_hints(kind))
