"""Reads drawn figures back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image

from fragrecon.report.figures.plotting import save
from fragrecon.report.figures.tiles import GAP, LETTER, SIDE


def drawn(figure: Figure, folder: Path) -> npt.NDArray[np.uint8]:
    """Return the pixels (H, W, 3) of a figure's file."""
    save(figure, folder / "figure.png")
    with Image.open(folder / "figure.png") as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def tiles_of(page: npt.NDArray[np.uint8], names: list[str], rows: int, columns: int) -> npt.NDArray[np.uint8]:
    """Return the tiles (rows, columns, 96, 96, 3) of a figure of named rows."""
    margin = LETTER * max(len(line) for name in names for line in name.split("\n")) + 2 * GAP
    step = SIDE + GAP
    return np.stack(
        [
            [page[GAP + row * step :, margin + column * step :][:SIDE, :SIDE] for column in range(columns)]
            for row in range(rows)
        ]
    )
