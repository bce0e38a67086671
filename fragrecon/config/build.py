"""Objects from config nodes: ``_target_`` names a class or function, the other keys are its arguments."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, get_type_hints

from pydantic.errors import PydanticSchemaGenerationError

from fragrecon.config.parse import typed_as
from fragrecon.errors import ConfigError, FragreconError, nearest


def build(node: Mapping[str, Any], path: str, /, *arguments: Any, **facts: Any) -> Any:
    """Build the object that a node describes.

    Args:
        node: mapping with ``_target_``, a class or function in fragrecon or torch; the other keys are its arguments.
        path: dotted key of the node, for messages.
        arguments: first positional arguments of the target.
        facts: further keyword arguments, such as ``fragment_shape``; passed if the target has such a parameter.

    Raises:
        ConfigError: the target is unknown; or an argument is unknown, missing, of the wrong type, out of range, or
            rejected by the target.
    """
    target = _resolve(str(node.get("_target_")), path)
    given = {key: value for key, value in node.items() if key != "_target_"}
    parameters = inspect.signature(target).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        for key in given:
            if key not in parameters:
                own = set(parameters) - set(facts) - set(list(parameters)[: len(arguments)])
                raise ConfigError(f"{path}.{key} is not known to {node['_target_']}{nearest(key, own)}")
    _check_types(target, given, path)
    injected = {name: value for name, value in facts.items() if name in parameters and name not in given}
    try:
        bound = inspect.signature(target).bind(*arguments, **injected, **given)
    except TypeError as error:
        raise ConfigError(f"{path}: {node['_target_']} {error}") from None
    try:
        return target(*bound.args, **bound.kwargs)
    except FragreconError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _check_types(target: Any, given: Mapping[str, Any], path: str) -> None:
    """Check arguments against the annotations of the target, except types that no config value can have."""
    try:
        hints = get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    except (NameError, TypeError):
        return
    for key, value in given.items():
        if key in hints:
            with suppress(PydanticSchemaGenerationError):
                typed_as(hints[key], value, f"{path}.{key}")


def _resolve(target: str, path: str) -> Any:
    """Return the class or function named ``target``; it must be defined in an allowed package, not only imported
    there.
    """
    module_name, _, name = target.rpartition(".")
    allowed = ("fragrecon.", "torch.optim.", "torch.nn.", "lightning.pytorch.callbacks.", "lightning.pytorch.loggers.")
    if not target.startswith(allowed):
        raise ConfigError(
            f"{path}._target_='{target}' is refused: it should lie in {', '.join(a[:-1] for a in allowed)}"
        )
    try:
        found = getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        if error.name is None or not target.startswith(error.name):
            raise
        found = None
    except AttributeError:
        found = None
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        raise ConfigError(f"{path}._target_='{target}' does not exist")
    if not found.__module__.startswith(allowed):
        raise ConfigError(f"{path}._target_='{target}' is refused: it is defined in {found.__module__}")
    return found
