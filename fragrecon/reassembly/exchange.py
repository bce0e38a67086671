"""Exchange of fragments between images, while the total score increases.

Shapes: B puzzles of F fragments, k images of n = rows * columns cells, S = k * n cells in all. Tensors (B, S)
contain the fragment at each cell; F marks an empty cell.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fragrecon.reassembly.clues import Clues
from fragrecon.reassembly.place import LEAST


def exchange(clues: Clues, held: Tensor, grid: tuple[int, int]) -> Tensor:
    """Swap two cells of different images, the best pair first, until no swap increases the score.

    Args:
        clues: placement scores of the puzzles, (B, F, n) and (B, F, F).
        held: fragment at each cell, (B, S).
        grid: rows and columns of an image.

    Returns:
        The fragment at each cell, (B, S).
    """
    with_nothing = Clues(
        torch.nn.functional.pad(clues.cells, (0, 0, 0, 1)),
        torch.nn.functional.pad(clues.across, (0, 1, 0, 1)),
        torch.nn.functional.pad(clues.down, (0, 1, 0, 1)),
    )
    held, rows = held.clone(), torch.arange(len(held), device=held.device)
    images = torch.arange(held.shape[1], device=held.device) // (grid[0] * grid[1])
    within = images.unsqueeze(0) == images.unsqueeze(1)
    while len(rows):
        own = Clues(*(clue[rows] for clue in (with_nothing.cells, with_nothing.across, with_nothing.down)))
        now = held[rows]
        there = fit(own, now, grid).gather(2, now.unsqueeze(1).expand(-1, now.shape[1], -1))  # (B, S, S)
        here = there.diagonal(dim1=1, dim2=2)
        gains = (there + there.mT - here.unsqueeze(1) - here.unsqueeze(2)).masked_fill(within, -torch.inf)
        most, best = gains.flatten(1).max(1)
        better = most > LEAST
        rows, one, other = rows[better], best[better] // now.shape[1], best[better] % now.shape[1]
        held[rows, one], held[rows, other] = held[rows, other], held[rows, one]
    return held


def fit(clues: Clues, held: Tensor, grid: tuple[int, int]) -> Tensor:
    """Compute the score of each fragment at each cell, with all other fragments fixed.

    Args:
        clues: placement scores of the puzzles.
        held: fragment at each cell, (B, S).
        grid: rows and columns of an image.

    Returns:
        Scores (B, S, F).

    Example:
        >>> clues = Clues(torch.eye(2).unsqueeze(0), torch.tensor([[[0.0, 5.0], [0.0, 0.0]]]), torch.zeros(1, 2, 2))
        >>> fit(clues, torch.tensor([[0, 1]]), (1, 2))
        tensor([[[6., 0.],
                 [0., 6.]]])
    """
    rows, columns = grid
    n, cells = rows * columns, torch.arange(held.shape[1], device=held.device)
    row, column = cells % n // columns, cells % columns
    found = clues.cells.mT[:, cells % n]
    for clue, step, inside in (
        (clues.across, -1, column > 0),
        (clues.across.mT, 1, column < columns - 1),
        (clues.down, -columns, row > 0),
        (clues.down.mT, columns, row < rows - 1),
    ):
        beside = held[:, (cells + step).clamp(0, held.shape[1] - 1)]  # the neighbour, if in the same image
        gains = clue.gather(1, beside.unsqueeze(-1).expand(-1, -1, clue.shape[-1]))
        found = found + gains * inside.unsqueeze(-1)
    return found
