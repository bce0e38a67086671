"""Progress of jobs: bars on a terminal, lines of the log elsewhere."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fragrecon.errors import printable

log = logging.getLogger(__name__)

INTERVAL = 10.0
"""Seconds between two lines of a stage; they are logged by a thread, also while a single step takes longer."""

Advance = Callable[[int], None]


class PrintableFormatter(logging.Formatter):
    """Formatter of the log, in which names and messages from files of others cannot steer the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or the lines of a traceback."""
        return printable(super().format(record))


class Stopwatch:
    """Durations of the parts of a job.

    Attributes:
        seconds: duration of each part that has ended, by name.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the duration of a block to a part."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started


@contextmanager
def progress(title: str, total: int | None = None, *, announce: bool = True) -> Iterator[Advance]:
    """Show how far a block of code is: as a bar if the output is a terminal, and as lines of the log elsewhere.

    The bar or line of a block within another block is shown in addition.

    Args:
        title: name of the stage, such as ``scoring baselines``.
        total: number of steps, if known.
        announce: whether the first line is logged at once, not only if the stage takes longer than `INTERVAL`.

    Yields:
        A function that advances by a number of steps.
    """
    shown = _bar(title, total) if sys.stdout.isatty() else _lines(title, total, announce)
    with shown as advance:
        yield advance


_bars: Progress | None = None
"""The bars on the terminal, while a stage runs."""


@contextmanager
def _bar(title: str, total: int | None) -> Iterator[Advance]:
    global _bars
    outermost = _bars is None
    if _bars is None:
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        _bars = Progress(TextColumn("{task.description}", markup=False), *columns)
        _bars.start()
    bars, task = _bars, _bars.add_task(title, total=total)
    try:
        yield lambda count: bars.advance(task, count)
    finally:
        if outermost:
            bars.stop()
            _bars = None
        else:
            bars.remove_task(task)


@contextmanager
def _lines(title: str, total: int | None, announce: bool) -> Iterator[Advance]:
    done, ended, started = 0, threading.Event(), time.monotonic()

    def advance(count: int) -> None:
        nonlocal done
        done += count

    def report() -> None:
        while not ended.wait(INTERVAL):
            far = f"{done:,} of {total:,}, " if total else ""
            log.info("%s: %s%.0f s", title, far, time.monotonic() - started)

    if announce:
        log.info("%s%s", title, f": {total:,}" if total else "")
    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield advance
    finally:
        ended.set()
        thread.join()
