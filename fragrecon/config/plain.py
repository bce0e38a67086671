"""YAML files of runs, read as data: bounded in size and depth, without aliases, tags and interpolations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from fragrecon import files
from fragrecon.errors import ConfigError

LONGEST = 1 << 20
"""Maximum size of a file in bytes."""
DEEPEST = 32
"""Maximum number of mappings and lists within each other."""

_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
_INTEGER = re.compile(r"[-+]?\d{1,99}", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?\.inf|\.nan", re.ASCII | re.IGNORECASE)
# The parser in C is missing if PyYAML was built without libyaml.
_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> Any:
    """Read a YAML file that this project wrote, or that pretends to be one.

    Only mappings with text as keys, lists, text, numbers, booleans and null are read. They are plain values of Python;
    nothing is resolved.

    Args:
        path: YAML file.

    Returns:
        The value.

    Raises:
        ConfigError: the file is missing, damaged, too large or too deep, or holds aliases, tags or interpolations.
    """
    try:
        events = yaml.parse(files.read_text(path, LONGEST), Loader=_PARSER)
        next(events), next(events)  # the starts of the stream and of the document
        value = _value(next(events), events, 0)
        next(events)
        if not isinstance(next(events), yaml.StreamEndEvent):
            raise ValueError("it holds more than one document")
    except StopIteration:
        raise ConfigError(f"{path} is empty") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    return value


def _value(event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Any:
    """Return the value that begins with an event; takes its other events from ``events``."""
    if not isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)) or event.anchor is not None:
        raise ValueError(f"{_place(event)} has an alias or an anchor (*NAME, &NAME)")
    if event.tag is not None:
        raise ValueError(f"{_place(event)} has a tag ({event.tag[:40]})")
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event)
    if depth == DEEPEST:
        raise ValueError(f"{_place(event)} is nested deeper than {DEEPEST} levels")
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_value(event, events, depth + 1))
        return items
    mapping: dict[str, Any] = {}
    while not isinstance(key := next(events), yaml.MappingEndEvent):
        if not isinstance(key, yaml.ScalarEvent) or key.value in mapping or key.anchor or key.tag:
            raise ValueError(f"{_place(key)} has a key that is no text, or occurs twice")
        mapping[_checked(key)] = _value(next(events), events, depth + 1)
    return mapping


def _place(event: yaml.Event) -> str:
    return f"line {event.start_mark.line + 1}" if event.start_mark else "it"


def _scalar(event: yaml.ScalarEvent) -> Any:
    text = _checked(event)
    if event.style:  # quoted, or a block of text
        return text
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text.replace(".inf", "inf").replace(".nan", "nan")) if _FLOAT.fullmatch(text) else text


def _checked(event: yaml.ScalarEvent) -> str:
    text: str = event.value
    if "${" in text:
        raise ValueError(f"{_place(event)} has an interpolation (${{...}})")
    return text
