"""Clustering into clusters of equal or bounded size, for a batch of small problems.

Shapes: P problems of n points in D dimensions, k clusters.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fragrecon.clustering.kmeans import kmeans
from fragrecon.clustering.problems import MEMORY, centred, check_points, parts

MAX_STEPS = 100


def assign(scores: Tensor, size: int | None = None) -> Tensor:
    """Assign points to clusters of bounded size so that the sum of scores is maximal.

    Args:
        scores: score of each point in each cluster, (P, n, k).
        size: maximum number of points per cluster; by default exactly n / k in each.

    Returns:
        Labels (P, n) in 0..k-1.

    Raises:
        ValueError: the points do not fit into the clusters, or a score is not finite.

    Example:
        >>> assign(torch.tensor([[[3.0, 0.0], [2.0, 0.0], [1.0, 0.0], [1.0, 0.5]]]))
        tensor([[0, 0, 1, 1]])
    """
    if scores.ndim != 3:
        raise ValueError(f"scores must be (P, n, k), not {tuple(scores.shape)}")
    problems, n, k = scores.shape
    size = _size(n, k, size)
    if not torch.isfinite(scores).all():
        raise ValueError("the scores are not all finite")
    labels = torch.empty(problems, n, dtype=torch.int64)
    # A linear assignment of points to places; a cluster has `size` places.
    places = scores.detach().double().cpu().repeat_interleave(size, 2).numpy()
    for found, problem in zip(labels, places, strict=True):
        found[:] = torch.from_numpy(linear_sum_assignment(problem, maximize=True)[1] // size)
    return labels.to(scores.device)


def balanced_kmeans(
    points: Tensor, k: int, keys: Tensor, restarts: int = 10, memory: int = MEMORY, size: int | None = None
) -> Tensor:
    """KMeans with exactly n / k points in each cluster, or at most ``size``.

    Starts from the centres that `kmeans` finds; then alternates between the best balanced assignment of points to
    centres and the update of the centres, until no label changes.

    Source: Malinen and Fraenti, "Balanced K-Means for Clustering", 2014.

    Args:
        points: (P, n, D).
        k: number of clusters.
        keys: random keys of the problems, (P,), as for `kmeans`.
        restarts: number of restarts of `kmeans`.
        memory: working memory in bytes, as for `kmeans`.
        size: maximum number of points per cluster.

    Returns:
        Labels (P, n) in 0..k-1.

    Raises:
        ValueError: as for `kmeans`, or the points do not fit into the clusters.

    Example:
        >>> points = torch.tensor([[[0.0], [1.0], [2.0], [9.0]]])
        >>> labels = balanced_kmeans(points, 2, torch.tensor([0]))[0]
        >>> labels.bincount().tolist(), bool(labels[0] == labels[1])
        ([2, 2], True)
    """
    check_points(points, k)
    size = _size(points.shape[1], k, size)
    labels = kmeans(points, k, keys, restarts, memory).labels
    n, dim = points.shape[1:]
    for part in parts(len(points), 8 * n * (3 * dim + 4 * k + 2 * n), memory):
        labels[part] = _settle(centred(points[part].double())[0], labels[part], k, size)
    return labels


def _settle(points: Tensor, labels: Tensor, k: int, size: int) -> Tensor:
    """Alternate assignment and centre update for points (P, n, D) from labels (P, n) until the labels settle."""
    labels, rows = labels.clone(), torch.arange(len(points), device=points.device)
    for _ in range(MAX_STEPS):
        own = points[rows]
        members = torch.nn.functional.one_hot(labels[rows], k).to(own.dtype).mT
        counts = members.sum(-1, keepdim=True)
        centres = members @ own / counts.clamp(min=1)
        if bool((counts == 0).any()):  # at the start, or with clusters that need not be full
            _share(centres, counts.squeeze(-1))
        moved = assign(2 * own @ centres.mT - centres.square().sum(-1).unsqueeze(1), size)
        changed = (moved != labels[rows]).any(1)
        labels[rows] = moved
        rows = rows[changed]
        if len(rows) == 0:
            break
    return labels


def _share(centres: Tensor, counts: Tensor) -> None:
    """Move the centre (P, k, D) of each empty cluster, in place, to the cluster with the most points per centre."""
    rows, copies = torch.arange(len(counts), device=counts.device), torch.ones_like(counts)
    for cluster in range(counts.shape[1]):
        empty = counts[:, cluster] == 0
        crowded = (counts / copies).argmax(1)
        centres[rows[empty], cluster] = centres[rows[empty], crowded[empty]]
        copies[rows[empty], crowded[empty]] += 1


def _size(n: int, k: int, size: int | None) -> int:
    if k < 1 or (n % k if size is None else n > k * size):
        rule = "equal size" if size is None else f"at most {size} points"
        raise ValueError(f"{n} points do not fit into {k} clusters of {rule}")
    return n // k if size is None else size
