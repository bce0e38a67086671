"""Rebuild images: count the images of a puzzle, and place the fragments of each.

Shapes: B puzzles of F fragments, k images of n = rows * columns cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fragrecon.clustering.count import estimate_count
from fragrecon.clustering.problems import MEMORY
from fragrecon.reassembly.clues import Clues
from fragrecon.reassembly.exchange import exchange
from fragrecon.reassembly.place import WIDTH, improve, place


@dataclass(frozen=True)
class Placement:
    """Image and cell of each fragment of a puzzle.

    Attributes:
        images: images (B, F) in 0..k-1.
        cells: cells (B, F), row by row.
        rotations: counterclockwise quarter turns (B, F) by which the fragments were rotated, to be undone.
    """

    images: Tensor
    cells: Tensor
    rotations: Tensor


def count_images(embeddings: Tensor, cells: int, memory: int = MEMORY) -> int:
    """Estimate the number of images of one puzzle.

    If the fragments fill a whole number of images, or are fewer than four, the smallest possible number is returned;
    otherwise it is estimated by the eigengap.

    Args:
        embeddings: embeddings (1, F, D).
        cells: number of cells per image.
        memory: working memory in bytes.

    Returns:
        The number of images, enough for all fragments.

    Example:
        >>> count_images(torch.zeros(1, 8, 2), cells=4)
        2
    """
    fragments = embeddings.shape[1]
    least = -(-fragments // cells)
    if fragments % cells == 0 or fragments < 4:
        return least
    return max(least, int(estimate_count(embeddings, max(3, fragments // 4), memory)))


def rebuild(
    clues: Clues,
    images: Tensor,
    grid: tuple[int, int],
    *,
    rotations: Tensor | None = None,
    regroup: bool = False,
    width: int = WIDTH,
    memory: int = MEMORY,
) -> Placement:
    """Place the fragments of each image.

    Args:
        clues: placement scores of whole puzzles.
        images: image (B, F) of each fragment.
        grid: rows and columns of an image.
        rotations: rotations (B, F) that the scores assume to be undone; by default none.
        regroup: whether fragments may be exchanged between images afterwards.
        width: width of the beam search.
        memory: working memory in bytes.

    Returns:
        Image, cell and rotation of each fragment.

    Raises:
        ValueError: an image has more fragments than cells.
    """
    puzzles, fragments = images.shape
    n, k = grid[0] * grid[1], int(images.max()) + 1
    members = members_of(images, k, n)  # (B, k, n)
    placed = members.gather(-1, place(_of_images(clues, members), grid, width, memory).view_as(members))
    if regroup:
        placed = _regroup(clues, placed, grid)
    at = torch.empty(puzzles, fragments + 1, dtype=torch.int64, device=images.device)
    at.scatter_(1, placed.flatten(1), torch.arange(k * n, device=images.device).expand(puzzles, -1))
    rotations = torch.zeros_like(images) if rotations is None else rotations
    return Placement(at[:, :fragments] // n, at[:, :fragments] % n, rotations)


def _regroup(clues: Clues, placed: Tensor, grid: tuple[int, int]) -> Tensor:
    """Alternate exchanges between images and moves within them until neither helps; returns fragments (B, k, n)."""
    while True:
        exchanged = exchange(clues, placed.flatten(1), grid).view_as(placed)
        if torch.equal(exchanged, placed):
            return placed
        start = torch.arange(placed.shape[-1], device=placed.device).expand(exchanged[..., 0].numel(), -1)
        placed = exchanged.gather(-1, improve(_of_images(clues, exchanged), start, grid).view_as(placed))


def _of_images(clues: Clues, members: Tensor) -> Clues:
    """Return the scores of the fragments (B, k, n) of each image, for B * k groups; an empty cell (F) scores 0."""
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


def members_of(images: Tensor, k: int, most: int) -> Tensor:
    """List the fragments of each image.

    Args:
        images: image (B, F) of each fragment, in 0..k-1.
        k: number of images.
        most: number of places of an image.

    Returns:
        Fragments (B, k, most), in ascending order, padded with F.

    Raises:
        ValueError: an image has more fragments than places.
    """
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
