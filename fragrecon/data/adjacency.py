"""Which fragments of a puzzle come from one image, and which are neighbours.

Shapes: B puzzles of F fragments, N images in a puzzle.
"""

from __future__ import annotations

import torch
from torch import Tensor


def neighbours(source_ids: Tensor, positions: Tensor, grid: tuple[int, int], images: int) -> Tensor:
    """Find the fragment next to each side of each fragment.

    Args:
        source_ids: images 0..N-1, each with at most one fragment per cell, (B, F).
        positions: cells, (B, F).
        grid: rows and columns.
        images: number of images, N.

    Returns:
        Indices of the neighbours (B, F, 4), in the order of `fragrecon.seams.SIDES`; F where there is none.

    Example:
        >>> neighbours(torch.zeros(1, 2, dtype=torch.int64), torch.tensor([[0, 1]]), (1, 2), 1).tolist()
        [[[1, 2, 2, 2], [2, 2, 0, 2]]]
    """
    count, (rows, columns) = source_ids.shape[1], grid
    row, column = positions // columns, positions % columns
    places = source_ids * rows * columns + positions
    holders = places.new_full((len(places), images * rows * columns), count)  # the fragment at each place
    holders.scatter_(1, places, torch.arange(count, device=places.device).expand_as(places))
    found = []
    for down, across in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        inside = (row + down >= 0) & (row + down < rows) & (column + across >= 0) & (column + across < columns)
        beside = torch.where(inside, places + down * columns + across, 0)
        found.append(torch.where(inside, holders.gather(1, beside), count))
    return torch.stack(found, -1)


def meeting_sides(beside: Tensor, rotations: Tensor) -> Tensor:
    """Find the side of another fragment that meets each side of each fragment, with sides named as rotated.

    Args:
        beside: `neighbours` (B, F, 4) of the upright fragments.
        rotations: counterclockwise quarter turns of the fragments, (B, F).

    Returns:
        ``t * F + b`` for side t of fragment b, and ``4 F`` where there is none, (B, F, 4).

    Example:
        >>> beside = torch.tensor([[[1, 2, 2, 2], [2, 2, 0, 2]]])
        >>> meeting_sides(beside, torch.tensor([[0, 1]])).tolist()  # the second fragment's left side is now below
        [[[3, 8, 8, 8], [8, 0, 8, 8]]]
    """
    count = beside.shape[1]
    upright = (torch.arange(4, device=beside.device) + rotations.unsqueeze(-1)) % 4
    other = beside.gather(2, upright)
    turned = torch.nn.functional.pad(rotations, (0, 1)).gather(1, other.flatten(1)).view_as(other)
    return torch.where(other < count, (upright + 2 - turned) % 4 * count + other, 4 * count)


def same_source(source_ids: Tensor) -> Tensor:
    """Compute, for all pairs of fragments, whether they belong to one image.

    Args:
        source_ids: (B, F).

    Returns:
        (B, F, F) bool.

    Example:
        >>> same_source(torch.tensor([[0, 1, 0]]))[0, 0].tolist()
        [True, False, True]
    """
    return source_ids.unsqueeze(-1) == source_ids.unsqueeze(-2)


def adjacent(source_ids: Tensor, positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Compute, for all pairs of fragments, whether they share a side in their image.

    Args:
        source_ids: (B, F).
        positions: cells, (B, F).
        grid: rows and columns.

    Returns:
        (B, F, F) bool.

    Example:
        >>> adjacent(torch.zeros(1, 3, dtype=torch.int64), torch.tensor([[0, 1, 3]]), (2, 2))[0].int().tolist()
        [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    """
    row, column = positions // grid[1], positions % grid[1]
    apart = (row.unsqueeze(-1) - row.unsqueeze(-2)).abs() + (column.unsqueeze(-1) - column.unsqueeze(-2)).abs()
    return same_source(source_ids) & (apart == 1)
