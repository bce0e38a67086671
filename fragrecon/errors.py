"""Errors that a user can correct. The command line prints their message only; other errors keep their traceback."""

from __future__ import annotations

import difflib
import errno
import re
import shlex
from collections.abc import Iterable, Iterator


class FragreconError(Exception):
    """An error that the user can correct; the message says what is wrong, the value, and what would be right."""


class ConfigError(FragreconError):
    """An invalid key or value of the configuration."""


class DataError(FragreconError):
    """A data set that is missing, malformed or too small."""


class RunError(FragreconError):
    """A run folder that is missing, incomplete or not from this project."""


class FolderTakenError(RunError):
    """The folder of a new run contains another run, which must not be changed."""


class TrainingError(FragreconError):
    """Training that cannot continue, for example because the loss is not finite."""


class MachineError(FragreconError):
    """A full disk, a place that cannot be written, a name that is too long or taken, or too many open files."""


LONGEST_NAME = 200
"""Characters of a path that a message shows; of a longer one, its end."""

_OF_MACHINE = {
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EMFILE", "ENFILE"),
        *("EISDIR", "ENOTDIR", "EEXIST", "ENAMETOOLONG"),
    )
    if hasattr(errno, name)
}


def explained(error: Exception) -> Exception:
    """Return a `MachineError` if a full disk or the like caused an error; otherwise the error itself."""
    if isinstance(error, FragreconError):
        return error
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in _OF_MACHINE:
            name = str(cause.filename or "")
            place = f"{name if len(name) <= LONGEST_NAME else '...' + name[-LONGEST_NAME:]}: " if name else ""
            found = MachineError(f"{place}{cause.strerror}")
            found.__cause__ = error
            return found
    return error


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and the errors that caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def typed(key: str, value: object) -> str:
    """Return ``key=value`` as it is typed on the command line, quoted where the shell or Hydra needs it."""
    plain = re.fullmatch(r"[\w./+-]+", str(value), re.ASCII)
    return shlex.quote(f"{key}={value}" if plain else f"{key}='{value}'")


def printable(text: str) -> str:
    r"""Return text with control characters, such as those that steer a terminal, as escapes; lines are kept.

    Example:
        >>> printable("done \x1b[2J")
        'done \\x1b[2J'
    """
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode() for char in text
    )


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return the end of a message about an unknown ``name``: the closest valid name, if any, and all valid names."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{close[0]}'?" if close else "."
    return f"{hint} Valid: {', '.join(names)}" if names else "; nothing can be set here"
