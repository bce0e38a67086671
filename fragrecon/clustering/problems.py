"""What all clusterings of many small problems share: checks of their points, distances, and how many go at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

MEMORY = 32 * 2**20
"""Bytes that the work on one batch of problems may take, if nothing else is said. Somewhat more than a cache holds is
the fastest on a CPU; a GPU wants more.
"""

ROUNDING = 16
"""Units of rounding that an inner product may be off by."""


def check_points(points: Tensor, k: int) -> None:
    """Refuse what a clustering could only answer with nonsense.

    Raises:
        ValueError: wrong shape, more clusters than points, or numbers that are not finite (which some libraries take
            silently).
    """
    if points.ndim != 3:
        raise ValueError(f"points should be (P, n, D), not {tuple(points.shape)}")
    if not 1 <= k <= points.shape[1]:
        raise ValueError(f"{k} clusters cannot be made of {points.shape[1]} points")
    if points.shape[2] == 0:
        raise ValueError("the points to cluster have no dimension")
    # A finite sum is the proof in one pass; an infinite one may be a mere overflow.
    if not torch.isfinite(points.sum()) and not torch.isfinite(points).all():
        raise ValueError("the points to cluster hold numbers that are not finite")


def parts(problems: int, bytes_each: int, memory: int) -> Iterator[slice]:
    """Slices of as many problems as fit into ``memory`` bytes, at least one, that cover 0..problems-1."""
    size = max(1, memory // bytes_each)
    return (slice(start, min(start + size, problems)) for start in range(0, problems, size))


def centred(points: Tensor) -> tuple[Tensor, Tensor]:
    """Points (P, n, D) about their mean, over the largest coordinate of their problem; and that scale (P,), float64.

    Neither changes a clustering, and both keep squares within the range and the precision of the type: float64 as it
    came, float32 for all others.
    """
    points = points if points.dtype == torch.float64 else points.float()
    size = _largest(points)
    points = points / size  # first, so that not even a sum overflows
    points = points - points.mean(1, keepdim=True)
    spread = _largest(points)
    return points.div_(spread), size.double().flatten() * spread.double().flatten()


def _largest(points: Tensor) -> Tensor:
    """Of the absolute values of a problem, (P, 1, 1), or 1 where all are 0."""
    largest = points.abs().amax((1, 2), keepdim=True)
    return largest.where(largest > 0, 1.0)


def squared_distances(points: Tensor) -> Tensor:
    """Between all points (P, n, D) of a problem, (P, n, n), by way of their inner products.

    The rounding error is that of the square of the points' norm, so they should be `centred`; what is not above it
    is 0, as between equal points.
    """
    products = points @ points.mT
    norms = products.diagonal(dim1=1, dim2=2).clone()
    distances = products.mul_(-2).add_(norms.unsqueeze(1)).add_(norms.unsqueeze(2))
    rounding = ROUNDING * torch.finfo(points.dtype).eps * norms.amax(1)
    return distances.mul_(distances > rounding.view(-1, 1, 1))


def rows_of(matrices: Tensor, chosen: Tensor) -> Tensor:
    """Rows (P, ..., m) of matrices (P, n, m) at the places ``chosen`` (P, ...)."""
    problems, n, m = matrices.shape
    starts = torch.arange(0, problems * n, n, device=chosen.device).view(-1, *[1] * (chosen.ndim - 1))
    return matrices.view(problems * n, m).index_select(0, (chosen + starts).flatten()).view(*chosen.shape, m)


def nearest_of(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By scores (..., k, n) of k clusters for n points: indicators (..., k, n) of the least, how many points each
    cluster has (..., k, 1), and the least scores (..., n).

    Comparing with the minimum writes the indicators in one pass; of equal scores, the first counts.
    """
    least = scores.amin(-2, keepdim=True)
    members = torch.eq(scores, least, out=torch.empty_like(scores))
    counts = members.sum(-1, keepdim=True)
    if bool((counts.sum(-2) > scores.shape[-1]).any()):
        members *= members.cumsum(-2) == 1
        counts = members.sum(-1, keepdim=True)
    return members, counts, least.squeeze(-2)
