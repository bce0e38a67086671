"""Draw assembled jigsaw puzzles at full size.

Shapes: n pieces (C, h, w) uint8.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fragrecon.jigsaw.evidence import Floats
from fragrecon.jigsaw.pieces import Arrangement
from fragrecon.report.figures.plotting import colours
from fragrecon.report.figures.tiles import WRONG, frame_cell, framed, sheet, square

DOUBTFUL = 0.5
"""Pieces with a lower probability are marked."""


def shuffled_pieces(pieces: Tensor) -> Tensor:
    """Lay out the pieces (n, C, h, w) in a square, as they were given."""
    return sheet(list(pieces), square(len(pieces)), _line(pieces))


def groups_of_pieces(pieces: Tensor, found: Arrangement) -> Tensor:
    """Lay out the pieces (n, C, h, w) in a square, image by image, framed in the colour of their image."""
    hues, line, order = colours(len(found.grids)), _line(pieces), np.argsort(found.images, kind="stable")
    return sheet([framed(pieces[at], hues[found.images[at]], line) for at in order], square(len(pieces)), line)


def mark_doubtful(image: Tensor, number: int, pieces: Tensor, found: Arrangement, confidences: Floats) -> Tensor:
    """Frame the pieces of an assembled image (C, H, W) whose probability is low; returns (3, H, W)."""
    marked, grid = image.expand(3, -1, -1), found.grids[number]
    for piece in np.flatnonzero((found.images == number) & (confidences < DOUBTFUL)).tolist():
        cell = int(found.rows[piece] * grid[1] + found.columns[piece])
        marked = frame_cell(marked, cell, grid, WRONG, _line(pieces))
    return marked


def _line(pieces: Tensor) -> int:
    """Return the thickness of lines between and around pieces, in pixels."""
    return max(1, min(pieces.shape[-2:]) // 14)
