"""The reference of the configuration: types from the schema, defaults and meanings from ``conf/``."""

from __future__ import annotations

import collections.abc
import inspect
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import annotated_types as bounds
import torch
import yaml
from pydantic import AfterValidator
from pydantic.fields import FieldInfo
from typing_extensions import is_typeddict

from fragrecon.config.schema import Config
from fragrecon.run import CONF

Row = list[str]

FILES = {
    "": ["config", *(f"mode/{path.stem}" for path in sorted((CONF / "mode").glob("*.yaml")))],
    "data": ["data/base"],
    "trainer": ["trainer/base"],
    "evaluation": ["evaluation/clustering", "evaluation/robustness"],
    "*": ["evaluation/reconstruction", "evaluation/probe", "evaluation/generation"],
}
"""Files with the keys of a section; those of ``*`` and of no section have full keys."""
NAMES: dict[Any, str] = {int: "int", float: "float", str: "str", bool: "bool", type(None): "null"}
LIMITS = ((bounds.Ge, "ge", "≥"), (bounds.Gt, "gt", ">"), (bounds.Le, "le", "≤"), (bounds.Lt, "lt", "<"))
GROUPS = ("data", "objective", "optimizer", "scheduler", "trainer", "logger", "hydra/launcher", "experiment")
"""Groups whose options are listed; those of model, evaluation and mode are described elsewhere."""


def options_of(group: str) -> list[Path]:
    """List the files of the options of a group."""
    return [path for path in sorted((CONF / group).glob("*.yaml")) if path.stem != "base"]


def summary(path: Path) -> str:
    """Return the comment at the head of a file, without commands."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith(("# @package", "#   ")):
            lines.append(line.removeprefix("# "))
    return " ".join(lines)


def commented(path: Path) -> dict[str, tuple[str, str]]:
    """Return the default and the comment of each key of a file, by dotted key."""
    found: dict[str, tuple[str, str]] = {}
    values, stack = yaml.safe_load(path.read_text()) or {}, list[tuple[int, str]]()
    for line in path.read_text().splitlines():
        if more := re.fullmatch(r" {4,}# (.+)", line):
            if stack:
                key = ".".join(name for _, name in stack)
                found[key] = (found[key][0], f"{found[key][1]} {more[1]}".strip())
        elif match := re.fullmatch(r"( *)(\w+):(?: +(.*?))??(?: *# (.+))?", line):
            indent, name, comment = len(match[1]), match[2], match[4] or ""
            stack = [*((depth, parent) for depth, parent in stack if depth < indent), (indent, name)]
            value: Any = values
            for _, parent in stack:
                value = value[parent] if isinstance(value, Mapping) and parent in value else None
            found[".".join(name for _, name in stack)] = (shown(value), comment)
    return found


def shown(value: Any) -> str:
    """Return a value as in a YAML file, in one line."""
    if isinstance(value, Mapping) and value:
        return ""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()
    return "required" if text == "???" else f"`{text}`"


def documented() -> dict[str, tuple[str, str]]:
    """Return the default and the meaning of each key that a file of ``conf/`` describes."""
    found: dict[str, tuple[str, str]] = {}
    for section, names in FILES.items():
        prefix = f"{section}." if section not in ("", "*") else ""
        for name in names:
            for key, entry in commented(CONF / f"{name}.yaml").items():
                full = f"{prefix}{key}"
                if full not in found or not found[full][1]:
                    found[full] = entry
    root = (CONF / "config.yaml").read_text()
    for group, default, meaning in re.findall(r"^  - (\w+): (\S+) +# (.+)$", root, re.MULTILINE):
        found[group] = (f"`{default}`", meaning)
    return found


def named(section: type) -> dict[str, str]:
    """Return the meanings of attributes or arguments, from the docstrings of a class and of its bases."""
    found: dict[str, str] = {}
    for base in reversed(section.__mro__):
        text = inspect.cleandoc(vars(base).get("__doc__") or "")
        for block in re.findall(r"^(?:Args|Attributes):\n((?:    .*\n?|\n)+)", text, re.MULTILINE):
            for name, meaning in re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", block, re.MULTILINE):
                found[name] = re.sub(r"\s+", " ", meaning).replace("``", "`").removesuffix(".")
    return found


def sections() -> str:
    """Return a table of keys for each section of the schema.

    Raises:
        ValueError: a key has no meaning.
    """
    known, missing, parts = documented(), list[str](), list[str]()
    for section, schema, rows in tables("", Config, known, missing):
        head = f"## `{section}`" if section else "## Top level"
        note = re.sub(r"\s+", " ", (inspect.getdoc(schema) or "").partition("\n\n")[0]).replace("``", "`")
        parts.append(f"{head}\n\n{note}\n\n{markdown([HEADS, *rows])}\n")
    if missing:
        raise ValueError(f"no comment in conf/ or docstring describes {', '.join(missing)}")
    return "\n".join(parts)


HEADS = ["key", "type", "default", "meaning"]


def tables(
    prefix: str, schema: Any, known: Mapping[str, tuple[str, str]], missing: list[str]
) -> Iterator[tuple[str, Any, list[Row]]]:
    """Yield each section below a schema with its rows, its own first; keys without a meaning go to ``missing``."""
    hints, described, rows, inner = get_type_hints(schema, include_extras=True), named(schema), list[Row](), []
    defaults = {field.name: field.default for field in fields(schema)} if is_dataclass(schema) else {}
    for name, hint in hints.items():
        key = f"{prefix}{name}"
        default, meaning = known.get(key, ("", ""))
        if not default and defaults.get(name, MISSING) is not MISSING:
            default = shown(defaults[name])
        if section := section_of(hint):
            inner.append((f"{key}.", section))
            continue
        meaning = meaning or described.get(name, "")
        if not meaning:
            missing.append(key)
        rows.append([f"`{key}`", type_of(hint), default, meaning])
    yield prefix.rstrip("."), schema, rows
    for below, section in inner:
        yield from tables(below, section, known, missing)


def section_of(hint: Any) -> Any:
    """Return the schema of a key that has keys of its own, otherwise None."""
    options = [hint, *get_args(hint)]
    return next((one for one in options if is_dataclass(one) or is_typeddict(one)), None)


def type_of(hint: Any) -> str:
    """Describe an annotation: ``int ≥ 1 or null``."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return bounded(arguments[0], arguments[1:])
    if origin in (Union, types.UnionType):
        plain = [one for one in arguments if not (inspect.isclass(one) and issubclass(one, torch.Tensor))]
        return " or ".join(dict.fromkeys(map(type_of, plain)))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (dict, collections.abc.Mapping):
        return "node" if arguments == (str, Any) else f"mapping to {type_of(arguments[1])}"
    if origin is not None:  # a list, a tuple, or a sequence
        return f"list of {type_of(arguments[0])}" if arguments else "list"
    return NAMES.get(hint) or str(getattr(hint, "__name__", hint))


def bounded(base: Any, extras: tuple[Any, ...]) -> str:
    """Describe an annotated type with its limits."""
    if any(isinstance(one, AfterValidator) for one in extras):
        return " or ".join("path" if part == "str" else part for part in type_of(base).split(" or "))
    limits = [limit for one in extras for limit in (one.metadata if isinstance(one, FieldInfo) else [one])]
    said = [
        f"{sign} {getattr(limit, name):g}" for kind, name, sign in LIMITS for limit in limits if isinstance(limit, kind)
    ]
    sizes = {limit.min_length for limit in limits if isinstance(limit, bounds.MinLen)}
    sizes &= {limit.max_length for limit in limits if isinstance(limit, bounds.MaxLen)}
    text = type_of(base)
    if sizes:
        text = text.replace("list of", f"list of {sizes.pop()}")
    return f"{text} {' and '.join(said)}".strip()


def options() -> str:
    """Return the options of each group, with what their files say; keys of data sets and of objects have a table."""
    parts = []
    for group in GROUPS:
        rows = [[f"`{group}=`", ""]]
        rows += [[f"`{path.stem}`", summary(path)] for path in options_of(group)]
        parts.append(f"## Options of `{group}`\n\n{markdown(rows)}\n")
        for path in options_of(group) if group in ("objective", "optimizer", "scheduler", "logger", "data") else ():
            if len(rows := keys_of(group, path)) > 1:
                parts.append(f"### `{group}={path.stem}`\n\n{markdown(rows)}\n")
    return "\n".join(parts)


def keys_of(group: str, path: Path) -> list[Row]:
    """Return the rows of the keys that only this option of a group has: the arguments of its class."""
    prefix = {"data": "reader.", "model": "model."}.get(group, "")
    section = {"logger": f"logger.{path.stem}", "data": "data.reader"}.get(group, group)
    target = target_of(group, path)
    hints = get_type_hints(target.__init__, include_extras=True) if target else {}
    described, rows, above = named(target) if target else {}, [HEADS], ""
    for key, (default, meaning) in commented(path).items():
        name = key.removeprefix(prefix)
        if not key.startswith(prefix) or name.startswith(("_target_", "defaults")) or not default:
            above = meaning  # of the keys below
            continue
        inner = "name of the class" if name.endswith("._target_") else above if "." in name else ""
        meaning = meaning or described.get(name, inner)
        rows.append([f"`{section}.{name}`", type_of(hints[name]) if name in hints else "", default, meaning])
    return rows


def target_of(group: str, path: Path) -> Any:
    """Return the class that an option names; None if the user has to name it."""
    node = yaml.safe_load(path.read_text())
    node = {"data": node.get("reader"), "model": node.get("model")}.get(group, node)
    return resolve_name(node["_target_"]) if node and node.get("_target_") else None


def markdown(rows: list[Row]) -> str:
    """Return a table, whose first row is its header. Outside of code, underscores and asterisks mean themselves."""
    cells = [[re.sub(r"`[^`]*`|[_*]", _literal, cell).replace("|", "\\|") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in (cells[0], ["---"] * len(cells[0]), *cells[1:]))


def _literal(found: re.Match[str]) -> str:
    """Return code as it is, and any other character escaped."""
    return found[0] if len(found[0]) > 1 else f"\\{found[0]}"
