"""The errors a user can mend. The command line prints their message alone; anything else keeps its traceback."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable


class FragreconError(Exception):
    """Something the user can mend; the message says what was found, what was expected and what to do."""


class ConfigError(FragreconError):
    """A key or value of the configuration that cannot be meant."""


class DataError(FragreconError):
    """A data set that is missing, malformed, or too small for what is asked of it."""


class RunError(FragreconError):
    """A run folder that is missing, foreign or half-written."""


class TrainingError(FragreconError):
    """Training that cannot go on, such as a loss that is no longer a number."""


def typed(key: str, value: object) -> str:
    """``key=value`` as it is typed: in quotes where a shell or Hydra would stumble."""
    plain = re.fullmatch(r"[\w./+-]+", str(value), re.ASCII)
    return shlex.quote(f"{key}={value}" if plain else f"{key}='{value}'")


def nearest(name: str, valid: Iterable[str]) -> str:
    """The end of a message about an unknown ``name``: the closest valid one if there is one, and all of them."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{close[0]}'?" if close else "."
    return f"{hint} Valid: {', '.join(names)}" if names else "; nothing can be set here"
