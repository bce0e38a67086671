"""Shared parts of the batched clusterings: checks, distances, and the division into batches that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

MEMORY = 32 * 2**20
"""Default working memory of one batch of problems in bytes. Slightly more than the CPU cache is fastest on a CPU; a GPU
benefits from more.
"""

ROUNDING = 16
"""Rounding error of an inner product, in units of the machine epsilon."""


def check_points(points: Tensor, k: int) -> None:
    """Check the points of a clustering.

    Args:
        points: points, which should be (P, n, D).
        k: number of clusters.

    Raises:
        ValueError: wrong shape, fewer points than clusters, or values that are not finite (some libraries accept these
            silently).
    """
    if points.ndim != 3:
        raise ValueError(f"points must be (P, n, D), not {tuple(points.shape)}")
    if not 1 <= k <= points.shape[1]:
        raise ValueError(f"k={k} must be in 1..{points.shape[1]}, the number of points")
    if points.shape[2] == 0:
        raise ValueError("the points have no dimensions")
    # A finite sum proves it in one pass; an infinite sum may be an overflow.
    if not torch.isfinite(points.sum()) and not torch.isfinite(points).all():
        raise ValueError("the points are not all finite")


def parts(problems: int, bytes_each: int, memory: int) -> Iterator[slice]:
    """Divide problems into batches whose work fits into memory.

    Args:
        problems: number of problems.
        bytes_each: working memory of one problem.
        memory: working memory of one batch; a batch has at least one problem.

    Returns:
        Slices that cover 0..problems-1.

    Example:
        >>> list(parts(5, 10, 25))
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    size = max(1, memory // bytes_each)
    return (slice(start, min(start + size, problems)) for start in range(0, problems, size))


def centred(points: Tensor) -> tuple[Tensor, Tensor]:
    """Subtract the mean of each problem's points and divide by the largest coordinate.

    This changes no clustering; it keeps squares within the range and the precision of the type.

    Args:
        points: (P, n, D); float64 stays float64, other types become float32.

    Returns:
        The points (P, n, D), and the scale (P,), float64, they were divided by.
    """
    points = points if points.dtype == torch.float64 else points.float()
    size = _largest(points)
    points = points / size  # first, so that not even a sum overflows
    points.sub_(points.mean(1, keepdim=True))
    spread = _largest(points)
    return points.div_(spread), size.double().flatten() * spread.double().flatten()


def _largest(points: Tensor) -> Tensor:
    """Largest absolute value of each problem, (P, 1, 1); 1 where all values are 0."""
    largest = torch.maximum(points.amax((1, 2), keepdim=True), -points.amin((1, 2), keepdim=True))  # faster than by abs
    return largest.where(largest > 0, 1.0)


def squared_distances(products: Tensor) -> Tensor:
    """Squared Euclidean distances between all points of a problem, from their inner products.

    The rounding error is relative to the squared norms, so the points should be `centred`. Distances no larger than the
    rounding error become 0, as between equal points.

    Args:
        products: inner products X Xt, (P, n, n), of points X; overwritten.

    Returns:
        (P, n, n).

    Example:
        >>> points = torch.tensor([[[0.0, 0.0], [3.0, 4.0]]])
        >>> squared_distances(points @ points.mT)
        tensor([[[ 0., 25.],
                 [25.,  0.]]])
    """
    norms = products.diagonal(dim1=1, dim2=2).clone()
    distances = products.mul_(-2).add_(norms.unsqueeze(1)).add_(norms.unsqueeze(2))
    rounding = ROUNDING * torch.finfo(norms.dtype).eps * norms.amax(1)
    return distances.mul_(distances > rounding.view(-1, 1, 1))


def rows_of(matrices: Tensor, chosen: Tensor) -> Tensor:
    """Select rows of each problem's matrix.

    Args:
        matrices: (P, n, m).
        chosen: row indices, (P, ...).

    Returns:
        (P, ..., m).

    Example:
        >>> rows_of(torch.arange(6.0).view(1, 3, 2), torch.tensor([[2, 0]]))
        tensor([[[4., 5.],
                 [0., 1.]]])
    """
    problems, n, m = matrices.shape
    starts = torch.arange(0, problems * n, n, device=chosen.device).view(-1, *[1] * (chosen.ndim - 1))
    return matrices.view(problems * n, m).index_select(0, (chosen + starts).flatten()).view(*chosen.shape, m)


def nearest_of(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the cluster of lowest score for each point; of equal scores, the first is used.

    Comparing with the minimum writes the indicators in one pass.

    Args:
        scores: (..., k, n).

    Returns:
        Indicators (..., k, n) of the least score, number of points in each cluster (..., k, 1), least scores (..., n).

    Example:
        >>> members, counts, least = nearest_of(torch.tensor([[1.0, 5.0, 2.0], [3.0, 4.0, 2.0]]))
        >>> members.tolist(), counts.flatten().tolist(), least.tolist()
        ([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]], [2.0, 1.0], [1.0, 4.0, 2.0])
    """
    least = scores.amin(-2, keepdim=True)
    members = torch.eq(scores, least, out=torch.empty_like(scores))
    counts = members.sum(-1, keepdim=True)
    if bool((counts.sum(-2) > scores.shape[-1]).any()):
        members *= members.cumsum(-2) == 1
        counts = members.sum(-1, keepdim=True)
    return members, counts, least.squeeze(-2)
