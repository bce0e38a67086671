"""From a puzzle to images: fragments are grouped, and those of a group placed.

Shapes: B puzzles of F fragments, k images of n = rows * columns cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fragrecon.clustering.balanced import balanced_kmeans
from fragrecon.clustering.count import estimate_count
from fragrecon.clustering.problems import MEMORY
from fragrecon.reassembly.clues import Clues
from fragrecon.reassembly.exchange import exchange
from fragrecon.reassembly.place import WIDTH, improve, place


@dataclass(frozen=True)
class Placement:
    """Where each fragment of a puzzle went.

    Attributes:
        images: (B, F), 0..k-1.
        cells: (B, F), row by row.
    """

    images: Tensor
    cells: Tensor


def count_images(embeddings: Tensor, cells: int, memory: int = MEMORY) -> int:
    """How many images the fragments of one puzzle (1, F, D) come from.

    As many as they fill if they fill them all; where some are lost, the eigengap tells, but no fewer than they need.
    """
    fragments = embeddings.shape[1]
    least = -(-fragments // cells)
    if fragments % cells == 0 or fragments < 4:
        return least
    return max(least, int(estimate_count(embeddings, max(3, fragments // 4), memory)))


def group(embeddings: Tensor, k: int, cells: int, keys: Tensor, restarts: int = 10, memory: int = MEMORY) -> Tensor:
    """Images 0..k-1 of fragments, (B, F), none of which gets more than it has cells.

    Args:
        embeddings: (B, F, D).
        k: images.
        cells: of an image.
        keys: (B,), as for `kmeans`.
        restarts: as for `kmeans`.
        memory: as for `kmeans`.
    """
    return balanced_kmeans(embeddings, k, keys, restarts, memory, size=cells)


def rebuild(
    clues: Clues,
    images: Tensor,
    grid: tuple[int, int],
    *,
    regroup: bool = False,
    width: int = WIDTH,
    memory: int = MEMORY,
) -> Placement:
    """Place the fragments of each image.

    Args:
        clues: of the whole puzzles.
        images: (B, F), of which image each fragment is.
        grid: rows and columns of an image.
        regroup: whether fragments may then change places with those of other images.
        width: of the search's beam.
        memory: bytes that the work may take at once.

    Raises:
        ValueError: an image has more fragments than cells.
    """
    puzzles, fragments = images.shape
    n, k = grid[0] * grid[1], int(images.max()) + 1
    members = _members(images, k, n)  # (B, k, n)
    placed = members.gather(-1, place(_of_images(clues, members), grid, width, memory).view_as(members))
    if regroup:
        placed = _regroup(clues, placed, grid)
    at = torch.empty(puzzles, fragments + 1, dtype=torch.int64, device=images.device)
    at.scatter_(1, placed.flatten(1), torch.arange(k * n, device=images.device).expand(puzzles, -1))
    return Placement(at[:, :fragments] // n, at[:, :fragments] % n)


def _regroup(clues: Clues, placed: Tensor, grid: tuple[int, int]) -> Tensor:
    """What lies where (B, k, n) after exchanges between images and moves within them, in turn, until neither gains."""
    while True:
        exchanged = exchange(clues, placed.flatten(1), grid).view_as(placed)
        if torch.equal(exchanged, placed):
            return placed
        start = torch.arange(placed.shape[-1], device=placed.device).expand(exchanged[..., 0].numel(), -1)
        placed = exchanged.gather(-1, improve(_of_images(clues, exchanged), start, grid).view_as(placed))


def _of_images(clues: Clues, members: Tensor) -> Clues:
    """Clues on the fragments (B, k, n) of each image alone, for B * k groups; nothing (F) gains nothing anywhere."""
    fragments = clues.cells.shape[1]
    rows = torch.arange(len(members), device=members.device).view(-1, 1, 1)
    held, safe = (members < fragments).unsqueeze(-1), members.clamp(max=fragments - 1)
    pair = rows.unsqueeze(-1), safe.unsqueeze(-1), safe.unsqueeze(-2)
    both = held & held.mT
    return Clues(
        torch.where(held, clues.cells[rows, safe], 0.0).flatten(0, 1),
        torch.where(both, clues.across[pair], 0.0).flatten(0, 1),
        torch.where(both, clues.down[pair], 0.0).flatten(0, 1),
    )


def _members(images: Tensor, k: int, most: int) -> Tensor:
    """The fragments of each image, (B, k, most), filled up with F."""
    puzzles, fragments = images.shape
    order = torch.argsort(images, stable=True, dim=1)
    sorted_images = images.gather(1, order)
    counts = torch.zeros(puzzles, k, dtype=torch.int64, device=images.device)
    counts.scatter_add_(1, images, torch.ones_like(images))
    if int(counts.max()) > most:
        raise ValueError(f"an image of {most} cells cannot take {int(counts.max())} fragments")
    starts = counts.cumsum(1) - counts
    rank = torch.arange(fragments, device=images.device) - starts.gather(1, sorted_images)
    members = torch.full((puzzles, k * most), fragments, device=images.device)
    return members.scatter(1, sorted_images * most + rank, order).view(puzzles, k, most)
