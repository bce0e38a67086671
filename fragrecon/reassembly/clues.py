"""Placement scores: unary (fragment at a cell) and pairwise (fragment next to fragment).

Shapes: B puzzles of F fragments (C, h, w), cells = rows * columns of the grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fragrecon.data.corruption import turn
from fragrecon.models.base import Solution
from fragrecon.seams import SIDES

IMPOSSIBLE = -30.0
"""Lower bound of a single log-probability, about log(1e-13); finite, so that log-probabilities can be added."""


@dataclass(frozen=True)
class Clues:
    """Placement scores, additive over an image; a higher score is likelier.

    Attributes:
        cells: scores (B, F, cells) of a fragment at a cell.
        across: scores (B, F, F) of the second fragment directly to the right of the first.
        down: scores (B, F, F) of the second fragment directly below the first.
    """

    cells: Tensor
    across: Tensor
    down: Tensor

    def cpu(self) -> Clues:
        """Return the scores on the CPU."""
        return Clues(self.cells.cpu(), self.across.cpu(), self.down.cpu())


def all_clues(solution: Solution, fragments: Tensor, grid: tuple[int, int]) -> Clues:
    """Return the sum of `learned_clues` and `gradient_clues`, after undoing the rotations that the model predicts.

    Args:
        solution: the model's predictions.
        fragments: (B, F, C, h, w) in [0, 1], as given to the model.
        grid: rows and columns of an image.
    """
    if solution.rotations is not None:
        fragments, solution = turn(fragments, -solution.quarter_turns()), solution.upright()
    learned, pixels = learned_clues(solution, grid), gradient_clues(fragments, grid[0] * grid[1])
    return Clues(learned.cells, learned.across + pixels.across, learned.down + pixels.down)


def learned_clues(solution: Solution, grid: tuple[int, int]) -> Clues:
    """Compute placement scores from a model's predictions, as log-likelihood ratios against chance.

    A pair scores above zero if the model finds it likelier than chance, below zero otherwise; so 0 is neutral, and can
    be the score of an empty cell. For cells at a border of the image, the log-probability that the fragment has no
    neighbour on that side is added.

    Args:
        solution: the model's predictions for upright fragments.
        grid: rows and columns of an image.

    Returns:
        The scores.
    """
    rows, columns = grid
    sides = solution.sides.float().log_softmax(-1).clamp(min=IMPOSSIBLE)  # (B, F, 4, F + 1)
    beside, alone = (sides[..., :-1] + math.log(sides.shape[-1])).unbind(2), sides[..., -1]
    cell = torch.arange(rows * columns, device=alone.device)
    row, column = cell // columns, cell % columns
    borders = torch.stack([column == columns - 1, row == rows - 1, column == 0, row == 0])  # in the order of SIDES
    assert len(borders) == len(SIDES)
    cells = solution.cells.float().log_softmax(-1).clamp(min=IMPOSSIBLE) + math.log(rows * columns)
    return Clues(cells + alone @ borders.to(alone.dtype), beside[0] + beside[2].mT, beside[1] + beside[3].mT)


def gradient_clues(fragments: Tensor, cells: int) -> Clues:
    """Compute pairwise scores from pixels; cell scores are zero.

    Mahalanobis gradient compatibility (Gallagher, "Jigsaw Puzzles with Pieces of Unknown Orientation", CVPR 2012): the
    colour gradient across the seam is scored by its Mahalanobis distance to the gradients inside each fragment. The
    distances in both directions are added. This sum is divided by the geometric mean of two others: the second-smallest
    sum of the first fragment over all partners, and that of the second fragment. The score is minus the logarithm.

    Args:
        fragments: fragments (B, F, C, h, w) in 0..1, at least 2x2 pixels.
        cells: number of cells per image.

    Returns:
        The scores.
    """
    pixels = fragments.double() * 255
    upright = pixels.mT
    return Clues(fragments.new_zeros(*fragments.shape[:2], cells), _compatibility(pixels), _compatibility(upright))


def _compatibility(pixels: Tensor) -> Tensor:
    """Return scores (B, F, F), float32, of the second fragment right of the first, from pixels (B, F, C, h, w)."""
    right, left = pixels[..., -1].mT, pixels[..., 0].mT  # (B, F, h, C)
    rightwards = mahalanobis(right, right - pixels[..., -2].mT, left)
    leftwards = mahalanobis(left, left - pixels[..., 1].mT, right).mT
    dissimilarity = rightwards + leftwards
    itself = torch.eye(dissimilarity.shape[-1], dtype=torch.bool, device=pixels.device)
    logs = torch.log(dissimilarity.clamp(min=1e-6)).masked_fill(itself, torch.inf)
    if logs.shape[-1] > 2:  # two fragments have no second-best partner
        logs = logs - (logs.kthvalue(2, -1, keepdim=True).values + logs.kthvalue(2, -2, keepdim=True).values) / 2
    return (-logs).clamp(min=IMPOSSIBLE).float()


def mahalanobis(edge: Tensor, steps: Tensor, other: Tensor) -> Tensor:
    """Compare the edges of fragments across a seam by Mahalanobis gradients, in one direction; see `gradient_clues`.

    Args:
        edge: edge pixels (B, F, h, C) of the first fragments, in 0..255.
        steps: colour gradients (B, F, h, C) of the first fragments towards their edge.
        other: edge pixels (B, F, h, C) of the second fragments.

    Returns:
        Dissimilarities (B, F, F).
    """
    channels = edge.shape[-1]
    mean = steps.mean(-2, keepdim=True)
    # A few unit gradients keep the covariance of a uniform edge invertible.
    unit = torch.cat([torch.zeros(1, channels), torch.eye(channels), -torch.eye(channels)]).to(edge)
    sample = torch.cat([steps - mean, unit.expand(*steps.shape[:2], -1, -1)], -2)
    inverse = torch.linalg.inv(sample.mT @ sample / (sample.shape[-2] - 1))  # (B, F, C, C)
    # The sum over the seam of (b - a)' S^-1 (b - a), expanded into matrix products: a is the edge predicted from the
    # first fragment, b the edge of the second, and S the covariance of the gradients.
    predicted = edge + mean
    scaled = predicted @ inverse
    outer = (other.mT @ other).flatten(2)  # (B, F, C * C)
    crossed = scaled.flatten(2) @ other.flatten(2).mT
    squares: Tensor = inverse.flatten(2) @ outer.mT - 2 * crossed + (scaled * predicted).sum((-1, -2)).unsqueeze(-1)
    return squares.clamp(min=0)
