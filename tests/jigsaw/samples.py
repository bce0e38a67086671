"""Puzzles of photographs, and of random arrangements, for the tests of `fragrecon.jigsaw`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor

from fragrecon.jigsaw.pieces import Arrangement, Grid, Jigsaw, cut, shuffle

CHINA, FLOWER = (torch.from_numpy(image.copy()).movedim(-1, 0) for image in load_sample_images().images)
"""Photographs (3, 427, 640), uint8."""


def photograph_puzzle(
    images: Sequence[Tensor], size: tuple[int, int], seed: int = 0, *, rotate: bool = False, missing: float = 0.0
) -> tuple[Tensor, Arrangement]:
    """Shuffled pieces and their truth."""
    whole = cut(images, size)
    return taken(shuffle(whole, torch.Generator().manual_seed(seed), rotate=rotate, missing=missing))


def taken(jigsaw: Jigsaw) -> tuple[Tensor, Arrangement]:
    assert jigsaw.truth is not None
    return jigsaw.pieces, jigsaw.truth


def random_arrangement(
    grids: Sequence[Grid], pieces: int, random: np.random.Generator, *, rotate: bool = False
) -> Arrangement:
    """Pieces at random cells, one a cell; cells may be empty."""
    cells = [(k, row, column) for k, grid in enumerate(grids) for row in range(grid[0]) for column in range(grid[1])]
    chosen = np.array(cells)[random.permutation(len(cells))[:pieces]]
    rotations = random.integers(4, size=pieces) if rotate else np.zeros(pieces, np.int64)
    return Arrangement(chosen[:, 0], chosen[:, 1], chosen[:, 2], rotations, tuple(grids))
