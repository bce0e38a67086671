"""Exchange of fragments between images, while the total score increases.

Shapes: B puzzles of F fragments, k images of n = rows * columns cells, S = k * n cells in all. Tensors (B, S)
contain the fragment at each cell; F marks an empty cell.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fragrecon.reassembly.clues import Clues
from fragrecon.reassembly.place import LEAST, rows_of


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
    cells = torch.arange(held.shape[1], device=held.device)
    images, beside = cells // (grid[0] * grid[1]), torch.tensor([-1, 1, -grid[1], grid[1]], device=held.device)
    within = images.unsqueeze(0) == images.unsqueeze(1)
    own, now = with_nothing, held
    fits = fit(own, now, grid, cells.expand_as(now))
    while len(rows):
        there = fits.gather(2, now.unsqueeze(1).expand(-1, now.shape[1], -1))  # (B, S, S)
        here = there.diagonal(dim1=1, dim2=2)
        gains = (there + there.mT - here.unsqueeze(1) - here.unsqueeze(2)).masked_fill(within, -torch.inf)
        most, best = gains.flatten(1).max(1)
        better = most > LEAST
        if not better.all():
            own = Clues(own.cells[better], own.across[better], own.down[better])
            rows, now, best, fits = rows[better], now[better], best[better], fits[better]
        swapped = torch.stack([best // now.shape[1], best % now.shape[1]], 1)
        now = now.scatter(1, swapped, now.gather(1, swapped.flip(1)))
        held[rows] = now
        changed = (swapped.unsqueeze(-1) + beside).flatten(1).clamp(0, now.shape[1] - 1)  # cells next to the swapped
        fits.scatter_(1, changed.unsqueeze(-1).expand(-1, -1, fits.shape[-1]), fit(own, now, grid, changed))
    return held


def fit(clues: Clues, held: Tensor, grid: tuple[int, int], cells: Tensor) -> Tensor:
    """Compute the score of each fragment at some cells, with all other fragments fixed.

    Args:
        clues: placement scores of the puzzles.
        held: fragment at each cell, (B, S).
        grid: rows and columns of an image.
        cells: the cells, (B, K) in 0..S-1.

    Returns:
        Scores (B, K, F).

    Example:
        >>> clues = Clues(torch.eye(2).unsqueeze(0), torch.tensor([[[0.0, 5.0], [0.0, 0.0]]]), torch.zeros(1, 2, 2))
        >>> fit(clues, torch.tensor([[0, 1]]), (1, 2), torch.tensor([[0, 1]]))
        tensor([[[6., 0.],
                 [0., 6.]]])
    """
    rows, columns = grid
    n = rows * columns
    row, column = cells % n // columns, cells % columns
    found = rows_of(clues.cells.mT, cells % n)
    for clue, step, inside in (
        (clues.across, -1, column > 0),
        (clues.across.mT, 1, column < columns - 1),
        (clues.down, -columns, row > 0),
        (clues.down.mT, columns, row < rows - 1),
    ):
        beside = held.gather(1, (cells + step).clamp(0, held.shape[1] - 1))  # the neighbour, if in the same image
        found = found + rows_of(clue, beside) * inside.unsqueeze(-1)
    return found
