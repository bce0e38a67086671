"""Placement of an image's fragments on its cells: a batch of small quadratic assignment problems.

Shapes: G groups of n fragments for the n = rows * columns cells of a grid. A placement (G, n) is the fragment
at each cell.
"""

from __future__ import annotations

import itertools
from functools import lru_cache

import torch
from torch import Tensor

from fragrecon.clustering.balanced import assign
from fragrecon.clustering.problems import MEMORY, parts
from fragrecon.reassembly.clues import Clues

LEAST = 1e-4
"""Minimum score increase of a move; smaller ones may be rounding errors, which could keep the search from ending."""

WIDTH = 64
"""Width of the beam search: number of partial placements that are kept."""


def place(clues: Clues, grid: tuple[int, int], width: int = WIDTH, memory: int = MEMORY) -> Tensor:
    """Search for the placements of highest score.

    A local search over `moves` starts from the best assignment by cell scores alone and from the result of `beam`.

    Args:
        clues: placement scores of G groups of n fragments each.
        grid: rows and columns of an image.
        width: width of the beam search.
        memory: working memory in bytes.

    Returns:
        Placements (G, n) that no single move improves.

    Example:
        >>> clues = Clues(torch.eye(2).unsqueeze(0), torch.tensor([[[0.0, 5.0], [0.0, 0.0]]]), torch.zeros(1, 2, 2))
        >>> place(clues, (1, 2))
        tensor([[0, 1]])
    """
    groups, n = clues.cells.shape[:2]
    candidates = max(width * n, len(moves(grid)))
    found = torch.empty(groups, n, dtype=torch.int64, device=clues.cells.device)
    for part in parts(groups, 16 * n * candidates, memory):
        own = Clues(clues.cells[part], clues.across[part], clues.down[part])
        # argsort inverts the assignment: from the cell of each fragment to the fragment at each cell.
        starts = torch.stack([assign(own.cells).argsort(1), beam(own, grid, width)], 1)
        twice = Clues(*(clue.repeat_interleave(2, 0) for clue in (own.cells, own.across, own.down)))
        ends = improve(twice, starts.flatten(0, 1), grid)
        gains = gain(twice, ends.unsqueeze(1), grid).view(-1, 2)
        found[part] = ends.view(-1, 2, n)[torch.arange(len(gains)), gains.argmax(1)]
    return found


def gain(clues: Clues, placements: Tensor, grid: tuple[int, int]) -> Tensor:
    """Sum the scores of all cells and all adjacent pairs.

    Args:
        clues: placement scores of G groups of n fragments each.
        placements: M placements per group, (G, M, n).
        grid: rows and columns of an image.

    Returns:
        Scores (G, M).

    Example:
        >>> clues = Clues(torch.eye(2).unsqueeze(0), torch.tensor([[[0.0, 5.0], [0.0, 0.0]]]), torch.zeros(1, 2, 2))
        >>> gain(clues, torch.tensor([[[0, 1], [1, 0]]]), (1, 2))
        tensor([[7., 0.]])
    """
    tiles, n = placements.view(*placements.shape[:2], *grid), placements.shape[-1]
    cells = torch.arange(n, device=placements.device)
    return (
        _look_up(clues.cells, placements, cells.expand_as(placements))
        + _look_up(clues.across, tiles[..., :-1].flatten(2), tiles[..., 1:].flatten(2))
        + _look_up(clues.down, tiles[..., :-1, :].flatten(2), tiles[..., 1:, :].flatten(2))
    )


def beam(clues: Clues, grid: tuple[int, int], width: int = WIDTH) -> Tensor:
    """Return placements (G, n) by beam search, cell by cell, keeping the ``width`` best partial placements."""
    columns = grid[1]
    groups, n = clues.cells.shape[:2]
    device = clues.cells.device
    scores = torch.zeros(groups, 1, device=device)
    placed = torch.empty(groups, 1, 0, dtype=torch.int64, device=device)
    used = torch.zeros(groups, 1, n, dtype=torch.bool, device=device)
    for cell in range(n):
        step = clues.cells[:, :, cell].unsqueeze(1).expand(-1, placed.shape[1], -1)  # (G, W, n)
        if cell % columns:
            step = step + _rows(clues.across, placed[..., -1])
        if cell >= columns:
            step = step + _rows(clues.down, placed[..., -columns])
        reached = (scores.unsqueeze(-1) + step).masked_fill(used, -torch.inf).flatten(1)
        possible = (n - cell) * placed.shape[1]  # number of extensions without repeated fragments
        scores, best = reached.topk(min(width, possible), 1)
        parent, fragment = best // n, best % n
        placed = torch.cat([_rows(placed, parent), fragment.unsqueeze(-1)], -1)
        used = _rows(used, parent).scatter(-1, fragment.unsqueeze(-1), True)
    return placed[:, 0]


def improve(clues: Clues, placements: Tensor, grid: tuple[int, int]) -> Tensor:
    """Apply the best of all `moves` to placements (G, n), repeatedly until none increases the score."""
    table = moves(grid).to(placements.device)
    placements, rows = placements.clone(), torch.arange(len(placements), device=placements.device)
    while len(rows):
        own = Clues(clues.cells[rows], clues.across[rows], clues.down[rows])
        candidates = placements[rows][:, table]  # (G, M, n), the first unchanged
        gains = gain(own, candidates, grid)
        better = gains.amax(1) > gains[:, 0] + LEAST
        rows, best = rows[better], gains[better].argmax(1)
        placements[rows] = candidates[better, best]
    return placements


@lru_cache(maxsize=8)
def moves(grid: tuple[int, int]) -> Tensor:
    """List the moves of the local search: swaps of two cells, rows or columns, and cyclic shifts of the whole image.

    Args:
        grid: rows and columns of an image.

    Returns:
        Permutations (M, n) of the cells, the identity first.

    Example:
        >>> moves((1, 2)).unique(dim=0)
        tensor([[0, 1],
                [1, 0]])
    """
    rows, columns = grid
    cells = torch.arange(rows * columns).view(grid)
    found = [cells]
    found += [cells.roll((down, across), (0, 1)) for down in range(rows) for across in range(columns)]
    for one, other in itertools.combinations(range(rows), 2):
        found.append(cells.index_copy(0, torch.tensor([one, other]), cells[[other, one]]))
    for one, other in itertools.combinations(range(columns), 2):
        found.append(cells.index_copy(1, torch.tensor([one, other]), cells[:, [other, one]]))
    flat = [move.flatten() for move in found]
    for one, other in itertools.combinations(range(rows * columns), 2):
        flat.append(flat[0].index_copy(0, torch.tensor([one, other]), torch.tensor([other, one])))
    return torch.stack(flat)


def _look_up(table: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Sums (G, M) of entries of tables (G, n, m) at indices (G, M, K)."""
    places = first * table.shape[-1] + second
    return table.flatten(1).gather(1, places.flatten(1)).view_as(places).sum(-1)


def _rows(table: Tensor, chosen: Tensor) -> Tensor:
    """Rows (G, W, m) of tables (G, n, m) at indices (G, W)."""
    return table.gather(1, chosen.unsqueeze(-1).expand(-1, -1, table.shape[-1]))
