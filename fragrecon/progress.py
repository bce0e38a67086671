"""Progress bars and log lines of jobs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fragrecon.errors import printable


class PrintableFormatter(logging.Formatter):
    """Formatter of the log, in which names and messages from files of others cannot steer the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or the lines of a traceback."""
        return printable(super().format(record))


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar while a block runs, if the output is a terminal.

    Args:
        title: text before the bar.
        total: number of steps.

    Yields:
        A function that advances the bar by a number of steps.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)
