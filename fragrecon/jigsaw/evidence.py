"""From dissimilarities of sides to log-odds that two sides meet, and the likeliest neighbours of each side.

Shapes: tables of ways (W, n, n), as in `fragrecon.jigsaw.compatibility`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fragrecon.jigsaw.compatibility import Compatibility, gradient_changes, gradients, prediction

Floats = npt.NDArray[np.float32]
LEAST = 0.1
"""Added to the mean dissimilarity of a pixel's value, so that the logarithm of none is finite."""
FLOOR = -8.0
"""Lower bound of log-odds."""


Weights = Sequence[tuple[Compatibility, float]]
"""Compatibilities to combine, and the factors of their negative logarithms."""

CLASSICAL: Weights = ((gradients, 3.92), (gradient_changes, 1.18), (prediction, 1.10))
"""Published compatibilities, weighted by logistic regression on photographs (``experiments/jigsaw.py fit``)."""


def logits(pieces: Tensor, rotations: bool, weights: Weights = CLASSICAL) -> Tensor:
    """Add the negative logarithms of compatibilities.

    Args:
        pieces: pieces (n, C, h, w) in 0..255.
        rotations: whether the orientation is unknown.
        weights: compatibilities to combine.

    Returns:
        A table of ways, (4 or 16, n, n), higher where two sides are likelier to meet.
    """
    values = pieces.shape[1] * max(pieces.shape[2:])
    total = torch.tensor(0.0)
    for compatibility, slope in weights:
        found = compatibility(pieces, rotations).div_(values).add_(LEAST).log_().mul_(-slope)
        total = found.add_(total)
    return total


def log_odds(table: Tensor) -> Tensor:
    """Turn logits into log-odds against chance, in place.

    A softmax over all partners of a side, and no neighbour, gives the probability of each partner. The log-odds of two
    sides are the mean of the logarithms of their probabilities of each other, plus the logarithm of the number of
    partners. The logit of no neighbour is one number, such that no neighbour is as probable, on average over all sides,
    as in a square image of all pieces.

    Args:
        table: logits, a table of ways (4 or 16, n, n); it is overwritten.

    Returns:
        The table, at least `FLOOR`.

    Example:
        >>> table = torch.full((4, 2, 2), -torch.inf)
        >>> table[0, 0, 1] = table[2, 1, 0] = 20.0  # the second piece is right of the first
        >>> log_odds(table)[0, 0, 1] > log_odds(table)[1, 0, 1]
        tensor(True)
    """
    ways, count = table.shape[:2]
    sides = table.view(4, ways // 4, count, count)  # side of the first piece, side of the second
    totals = torch.stack([torch.stack([way.logsumexp(1) for way in side]).logsumexp(0) for side in sides])  # (4, n)
    totals = torch.logaddexp(totals, alone(totals, count**-0.5))
    for s in range(4):
        for t in range(ways // 4):
            other = totals[t if ways == 16 else (s + 2) % 4]
            sides[s, t] -= (totals[s].unsqueeze(1) + other.unsqueeze(0)) / 2
    return table.add_(math.log(partners(table))).clamp_(min=FLOOR)


def alone(totals: Tensor, share: float) -> Tensor:
    """Return the logit of no neighbour that makes its mean probability equal to a share.

    Args:
        totals: logarithms of the sums of exponentials of all other logits.
        share: mean probability, in (0, 1).

    Returns:
        The logit, found by bisection.

    Example:
        >>> alone(torch.zeros(5), 0.5).round(decimals=3)
        tensor(0.)
    """
    finite = totals[totals.isfinite()]
    if not len(finite):
        return totals.new_tensor(0.0)
    low, high = finite.min() - 50, finite.max() + 50
    for _ in range(50):
        middle = (low + high) / 2
        if torch.sigmoid(middle - totals).mean() > share:
            high = middle
        else:
            low = middle
    return (low + high) / 2


def partners(table: Tensor | Floats) -> int:
    """Return the number of sides that a side may meet, by a table of ways."""
    return int(table.shape[0] // 4 * table.shape[1])


def ranked(table: Floats, count: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Find the likeliest partners of each side.

    Args:
        table: log-odds, a table of ways (4 or 16, n, n).
        count: number of partners per side, at most all.

    Returns:
        Partners (4, n, count), best first, as ``t * n + b`` for side t of piece b, and their log-odds.
    """
    ways, n = table.shape[:2]
    count = min(count, partners(table))
    found, scores = np.empty((4, n, count), np.int64), np.empty((4, n, count), np.float32)
    for s in range(4):
        rows = table.reshape(4, ways // 4, n, n)[s].transpose(1, 0, 2).reshape(n, -1)
        best = np.argpartition(-rows, count - 1, 1)[:, :count]
        values = np.take_along_axis(rows, best, 1)
        order = np.argsort(-values, 1, kind="stable")
        best, scores[s] = np.take_along_axis(best, order, 1), np.take_along_axis(values, order, 1)
        found[s] = best if ways == 16 else best + (s + 2) % 4 * n
    return found, scores
