"""Keeps the lines of stages, and lets a test wait for them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fragrecon import progress

SOON = 0.001
"""Seconds between two lines; stages wait for lines, however long these take."""
LATE = 60.0
"""Seconds after which a stage that waits in vain gives up."""


class Lines(logging.Handler):
    """Keeps the messages of the log, and lets a stage wait for one."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []
        self.changed = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self.changed:
            self.messages.append(record.getMessage())
            self.changed.notify_all()

    def wait_for(self, *words: str) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: any(all(w in m for w in words) for m in self.messages), LATE), words


@contextmanager
def kept(every: float) -> Iterator[Lines]:
    """Keep the lines of stages within the block, which come every few seconds."""
    logger, lines = logging.getLogger("fragrecon.progress"), Lines()
    level, interval = logger.level, progress.INTERVAL
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    progress.INTERVAL = every
    try:
        yield lines
    finally:
        logger.setLevel(level)
        progress.INTERVAL = interval
        logger.removeHandler(lines)
