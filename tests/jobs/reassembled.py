"""Jobs of ``mode=reassemble``, and pictures that they write, for their tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_sample_images

from tests.cli import SMALL, job, read_json, status

TINY = [
    *SMALL,
    "model=mosaic",
    "model.width=32",
    "model.depth=1",
    "model.heads=2",
    "data.batches_per_epoch=8",
    "data.epochs=1",
    "evaluation.puzzles=3",
]
"""Settings of a quick model that sees whole puzzles."""

CHINA, FLOWER = (Path(name) for name in load_sample_images().filenames)

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
