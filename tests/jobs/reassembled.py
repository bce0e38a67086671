"""Jobs of ``mode=reassemble``, and pictures that they write, for their tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tests.cli import job, read_json, status

Pixels = npt.NDArray[np.uint8]
"""(H, W, C)."""


def reassembled(folder: Path, cache: Path, *overrides: str) -> dict[str, Any]:
    """Run the job, and return the content of ``placement.json``."""
    found = job(folder, cache, "mode=reassemble", *overrides)
    assert found is not None
    assert found == read_json(folder / "placement.json")
    assert status(folder)["status"] == "done"
    return found


def pixels_of(path: Path) -> Pixels:
    with Image.open(path) as file:
        found = np.asarray(file)
    return found.reshape(*found.shape[:2], -1)
