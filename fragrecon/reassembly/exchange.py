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

    The gains of all swaps are computed once. A swap changes the gains only of swaps with its two cells or with their
    neighbours, and only these are computed again.

    Args:
        clues: placement scores of the puzzles, (B, F, n) and (B, F, F).
        held: fragment at each cell, (B, S).
        grid: rows and columns of an image.

    Returns:
        The fragment at each cell, (B, S).
    """
    pad, cells = torch.nn.functional.pad, torch.arange(held.shape[1], device=held.device)
    clues = Clues(pad(clues.cells, (0, 0, 0, 1)), pad(clues.across, (0, 1, 0, 1)), pad(clues.down, (0, 1, 0, 1)))
    images = cells // (grid[0] * grid[1])
    within = images.unsqueeze(0) == images.unsqueeze(1)
    near = torch.tensor([0, -1, 1, -grid[1], grid[1]], device=held.device)
    result, rows = held.clone(), torch.arange(len(held), device=held.device)
    there = fit(clues, held, grid, cells.expand_as(held))
    there = there.gather(2, held.unsqueeze(1).expand(-1, len(cells), -1))  # (B, S, S), of the fragment of a cell
    gains = _gains(there, there.mT, there.diagonal(dim1=1, dim2=2), cells.expand_as(held), within)
    while len(rows):
        most, one = gains.amax(2).max(1)
        better = most > LEAST
        if not bool(better.all()):
            clues = Clues(clues.cells[better], clues.across[better], clues.down[better])
            there, gains, rows, one = there[better], gains[better], rows[better], one[better]
        each = torch.arange(len(rows), device=held.device)
        pair = torch.stack([one, gains[each, one].argmax(1)], 1)  # (B, 2)
        each, swapped = each.unsqueeze(1), pair.flip(1)
        result[rows.unsqueeze(1), pair] = result[rows.unsqueeze(1), swapped]
        there[each, :, pair] = there[each, :, swapped]
        changed = (pair.unsqueeze(2) + near).flatten(1).clamp(0, len(cells) - 1)  # (B, 10)
        now = result[rows].unsqueeze(1).expand(-1, changed.shape[1], -1)
        there[each, changed] = fit(clues, result[rows], grid, changed).gather(2, now)
        here = there.diagonal(dim1=1, dim2=2)
        found = _gains(there[each, changed], there[each, :, changed], here, changed, within)
        gains[each, changed] = found
        gains[each, :, changed] = found
    return result


def _gains(there: Tensor, back: Tensor, here: Tensor, cells: Tensor, within: Tensor) -> Tensor:
    """Return the gains (B, m, S) of swapping m cells with all cells, minus infinity within an image.

    Args:
        there: score of the fragment of each cell at the m cells, (B, m, S).
        back: score of the fragments of the m cells at each cell, (B, m, S).
        here: score of the fragment of each cell at its own cell, (B, S).
        cells: the m cells, (B, m).
        within: whether two cells are of the same image, (S, S).
    """
    own = here.gather(1, cells).unsqueeze(2) + here.unsqueeze(1)
    return (there + back).sub_(own).masked_fill_(within[cells], -torch.inf)


def fit(clues: Clues, held: Tensor, grid: tuple[int, int], chosen: Tensor) -> Tensor:
    """Compute the score of each fragment at chosen cells, with all other fragments fixed.

    Args:
        clues: placement scores of the puzzles.
        held: fragment at each cell, (B, S).
        grid: rows and columns of an image.
        chosen: m cells, (B, m).

    Returns:
        Scores (B, m, F).

    Example:
        >>> clues = Clues(torch.eye(2).unsqueeze(0), torch.tensor([[[0.0, 5.0], [0.0, 0.0]]]), torch.zeros(1, 2, 2))
        >>> fit(clues, torch.tensor([[0, 1]]), (1, 2), torch.tensor([[0, 1]]))
        tensor([[[6., 0.],
                 [0., 6.]]])
    """
    rows, columns = grid
    each = torch.arange(len(held), device=held.device).unsqueeze(1)
    place = chosen % (rows * columns)
    row, column = place // columns, place % columns
    found = clues.cells[each, :, place]
    for clue, step, inside in (
        (clues.across, -1, column > 0),
        (clues.across.mT, 1, column < columns - 1),
        (clues.down, -columns, row > 0),
        (clues.down.mT, columns, row < rows - 1),
    ):
        beside = held.gather(1, (chosen + step).clamp(0, held.shape[1] - 1))  # the neighbour, if in the same image
        found = found + clue[each, beside] * inside.unsqueeze(-1)
    return found
