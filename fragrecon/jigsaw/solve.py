"""Solve a puzzle from the pixels of its pieces.

Shapes: n pieces (C, h, w).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fragrecon.jigsaw.assemble import ROUNDS, assemble
from fragrecon.jigsaw.evidence import CLASSICAL, Floats, Weights, log_odds, logits, partners, ranked
from fragrecon.jigsaw.pieces import Arrangement, Grid, Ints

LISTED = 5
"""Number of likeliest neighbours that are listed for each side."""


@dataclass(frozen=True)
class Assembly:
    """An assembled puzzle.

    Attributes:
        arrangement: places of the pieces.
        confidences: probability (n,) of each piece at its cell, given its neighbours.
        neighbours: likeliest partners (4, n, k) of each side, as ``t * n + b`` for side t of piece b.
        probabilities: their probabilities (4, n, k), geometric means of those by both sides; their sum is at most 1.
    """

    arrangement: Arrangement
    confidences: Floats
    neighbours: Ints
    probabilities: Floats


@torch.inference_mode()
def solve_jigsaw(
    pieces: Tensor,
    *,
    rotations: bool,
    grids: Sequence[Grid] | None = None,
    images: int | None = None,
    seed: int = 0,
    rounds: int = ROUNDS,
    weights: Weights = CLASSICAL,
) -> Assembly:
    """Compare all sides of the pieces, and assemble them.

    Args:
        pieces: pieces (n, C, h, w) uint8; square if ``rotations``.
        rotations: whether the orientation of the pieces is unknown.
        grids: rows and columns of each image, if known.
        images: number of images, if known.
        seed: seed of the search.
        rounds: maximum number of rounds of the search.
        weights: compatibilities to combine.

    Returns:
        The places of the pieces, with probabilities.

    Example:
        >>> picture = (torch.rand(3, 3, 3).cumsum(1) * 80).clamp(max=255)
        >>> image = torch.nn.functional.interpolate(picture.unsqueeze(0), 24, mode="bicubic")[0].clamp(0, 255).byte()
        >>> from fragrecon.jigsaw.pieces import cut
        >>> solved = solve_jigsaw(cut([image], (8, 8)).pieces, rotations=False, grids=[(3, 3)])
        >>> solved.arrangement.rows.shape, solved.neighbours.shape
        ((9,), (4, 9, 5))
    """
    table = log_odds(logits(pieces.float(), rotations, weights)).numpy()
    arrangement, confidences = assemble(table, grids, images, rounds, seed)
    neighbours, odds = ranked(table, LISTED)
    probabilities = np.exp(odds) / np.float32(partners(table))
    probabilities /= np.maximum(probabilities.sum(-1, keepdims=True), 1)
    return Assembly(arrangement, confidences, neighbours, probabilities)
