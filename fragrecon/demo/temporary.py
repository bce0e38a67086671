"""The temporary folder of a page, which must be set before Gradio is imported."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = "GRADIO_TEMP_DIR"


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Create a folder for all uploaded and shown files; it is deleted after the block."""
    with tempfile.TemporaryDirectory(prefix="fragrecon-demo-") as folder, environment(FOLDER, folder):
        yield Path(folder)


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for the block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
