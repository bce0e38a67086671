"""Objects from config nodes: ``_target_`` names a class of the kind that is asked for, other keys are its arguments."""

from __future__ import annotations

import inspect
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, get_args, get_origin, get_type_hints

from pydantic.errors import PydanticSchemaGenerationError
from typing_extensions import get_protocol_members, is_protocol

from fragrecon.config import plugins
from fragrecon.config.parse import typed_as
from fragrecon.errors import ConfigError, FragreconError, nearest

DECIDED = {
    "download": "set data.download=true to download the data",
    "load_pretrained": "pretrained weights are loaded into new models only",
}
"""Arguments that no config may set: a run that is only read, such as that of a stranger, downloads nothing."""


def build(node: Mapping[str, Any], path: str, kind: Any, /, *arguments: Any, **facts: Any) -> Any:
    """Build the object that a node describes.

    An argument that is itself a node is built first if the parameter is annotated with a class, which is its kind.

    Args:
        node: mapping with ``_target_``, the dotted name of a class; the other keys are its arguments.
        path: dotted key of the node, for messages.
        kind: base class of the target, or a protocol whose methods it has.
        arguments: first positional arguments of the target.
        facts: further keyword arguments, such as ``fragment_shape``; passed if the target has such a parameter.

    Raises:
        ConfigError: the target is unknown, not trusted or of another kind; or an argument is unknown, missing, of the
            wrong type, out of range, or rejected by the target.
    """
    target = resolve(node.get("_target_"), path, kind)
    given = {key: value for key, value in node.items() if key != "_target_"}
    if decided := [key for key in DECIDED if key in given and key in facts]:
        raise ConfigError(f"{path}.{decided[0]} cannot be set, because it depends on the job; {DECIDED[decided[0]]}")
    parameters = inspect.signature(target).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        for key in given:
            if key not in parameters:
                own = set(parameters) - set(facts) - set(list(parameters)[: len(arguments)])
                raise ConfigError(f"{path}.{key} is not known to {node['_target_']}{nearest(key, own)}")
    given = _checked(target, given, path, facts)
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


def _checked(target: Any, given: Mapping[str, Any], path: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Check arguments against the annotations of the target, except types that no config value can have, and build
    those that are nodes.
    """
    try:
        hints = get_type_hints(target.__init__, include_extras=True)
    except (NameError, TypeError):
        hints = {}
    checked = dict(given)
    for key, value in given.items():
        hint = hints.get(key)
        kinds = [kind for kind in (get_origin(one) or one for one in (hint, *get_args(hint))) if _is_kind(kind)]
        if kinds and isinstance(value, Mapping) and "_target_" in value:
            checked[key] = build(value, f"{path}.{key}", kinds[0], **facts)
        elif key in hints:
            with suppress(PydanticSchemaGenerationError):
                typed_as(hints[key], value, f"{path}.{key}")
    return checked


def _is_kind(hint: Any) -> bool:
    """Whether a node may be built for a parameter with this annotation: a class that is no plain type."""
    return inspect.isclass(hint) and hint.__module__ not in ("builtins", "types", "typing", "collections.abc")


def resolve(target: Any, path: str, kind: Any) -> type:
    """Return the class named by a ``_target_``. Only modules of trusted packages are imported.

    Args:
        target: dotted name of the class.
        path: dotted key of the node, for messages.
        kind: base class of the class, or a protocol whose methods it has.

    Raises:
        ConfigError: the name is not known, not trusted, or of something else.
    """
    said, target = f"{path}._target_={target!r}", str(target)
    module_name, _, name = target.rpartition(".")
    # What is built for Lightning may be a class of Lightning, such as a callback.
    allowed = (*plugins.OWN, "lightning.pytorch.") if kind.__module__.startswith("lightning.") else plugins.OWN
    own = target.startswith(allowed) and not any(part.startswith("_") for part in target.split("."))
    if not all(part.isidentifier() for part in target.split(".")) or not module_name:
        raise ConfigError(f"{said} is refused: it should be the dotted name of a class, such as mypkg.models.MyModel")
    if not own and not plugins.is_trusted(module_name):
        raise ConfigError(f"{said} is refused: {_remedy(plugins.top_level(target), [one[:-1] for one in allowed])}")
    try:
        module = sys.modules.get(module_name) or plugins.load(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(f"{said} cannot be imported: {error}") from error
        raise ConfigError(f"{said} does not exist: no module {error.name}{_nearest_module(error.name)}") from None
    found = getattr(module, name, None)
    if found is None or inspect.ismodule(found):
        raise ConfigError(f"{said} does not exist{nearest(name, _classes(module, kind))}")
    if own and not str(getattr(found, "__module__", "")).startswith(allowed):
        raise ConfigError(f"{said} is refused: it is not defined in {module_name}")
    if not is_of_kind(found, kind):
        what = "a class" if inspect.isclass(found) else f"a {type(found).__name__}"
        raise ConfigError(f"{said} is refused: it is {what}, but should be {_described(kind)}")
    checked: type = found
    return checked


def is_of_kind(found: Any, kind: Any) -> bool:
    """Whether an object is a class of a kind: a subclass, or a class with all methods of a protocol."""
    if not inspect.isclass(found):
        return False
    if not is_protocol(kind):
        return issubclass(found, kind)
    return found is not kind and all(callable(getattr(found, name, None)) for name in _methods(kind))


def _methods(protocol: Any) -> list[str]:
    return sorted(name for name in get_protocol_members(protocol) if callable(getattr(protocol, name, None)))


def _described(kind: Any) -> str:
    if is_protocol(kind):
        return f"a class with the methods {', '.join(_methods(kind))} of {kind.__module__}.{kind.__name__}"
    return f"a subclass of {kind.__module__}.{kind.__name__}"


def _remedy(package: str, allowed: list[str]) -> str:
    known = sorted({*plugins.named(), *plugins.registered()})
    return (
        f"the package {package} is not trusted{nearest(package, [*allowed, *known])}. If you trust its code, set "
        f"plugins=[{package}] on the command line or {plugins.VARIABLE}={package} in the environment, or call "
        f'load_run(FOLDER, plugins=["{package}"])'
    )


def _nearest_module(missing: str) -> str:
    """Return the end of a message about a missing module: the modules that are there instead."""
    parent, _, name = missing.rpartition(".")
    paths = getattr(sys.modules.get(parent), "__path__", None)
    return nearest(name, (found.name for found in pkgutil.iter_modules(paths))) if paths else ""


def _classes(module: Any, kind: Any) -> Iterator[str]:
    return (name for name, value in vars(module).items() if is_of_kind(value, kind) and value is not kind)
