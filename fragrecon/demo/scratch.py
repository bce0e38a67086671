"""Where the page keeps its files; to be said before Gradio is imported, which else makes a folder of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SCRATCH = "GRADIO_TEMP_DIR"


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for all that is uploaded or shown, gone after the block."""
    with tempfile.TemporaryDirectory(prefix="fragrecon-demo-") as folder, environment(SCRATCH, folder):
        yield Path(folder)


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """A variable that is set for the block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
