"""Clusters of exactly equal size, for a batch of small problems.

Shapes: P problems of n points in D dimensions, k clusters of n / k points.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fragrecon.clustering.kmeans import kmeans
from fragrecon.clustering.problems import MEMORY, centred, check_points, parts

MAX_STEPS = 100


def assign(scores: Tensor, size: int | None = None) -> Tensor:
    """Labels (P, n) of the greatest sum of scores (P, n, k) that give none of k clusters more than ``size`` points.

    Args:
        scores: (P, n, k).
        size: by default exactly n / k, so that all clusters have as many.

    Raises:
        ValueError: the points cannot be shared so, or a score is not finite.
    """
    if scores.ndim != 3:
        raise ValueError(f"scores should be (P, n, k), not {tuple(scores.shape)}")
    problems, n, k = scores.shape
    size = _size(n, k, size)
    if not torch.isfinite(scores).all():
        raise ValueError("the scores to assign by hold numbers that are not finite")
    labels = torch.empty(problems, n, dtype=torch.int64)
    # An assignment to n places, of which every cluster has as many as points.
    places = scores.detach().double().cpu().repeat_interleave(size, 2).numpy()
    for found, problem in zip(labels, places, strict=True):
        found[:] = torch.from_numpy(linear_sum_assignment(problem, maximize=True)[1] // size)
    return labels.to(scores.device)


def balanced_kmeans(
    points: Tensor, k: int, keys: Tensor, restarts: int = 10, memory: int = MEMORY, size: int | None = None
) -> Tensor:
    """Labels (P, n) of KMeans with clusters of exactly n / k points, or of at most ``size``.

    From the centres that `kmeans` finds, points are assigned to centres in the best balanced way and centres moved to
    their points in turn, until no label changes (Malinen and Fraenti, "Balanced K-Means for Clustering", 2014).

    Args:
        points: (P, n, D).
        k: clusters.
        keys: (P,), as for `kmeans`.
        restarts: as for `kmeans`.
        memory: as for `kmeans`.
        size: most points of a cluster.

    Raises:
        ValueError: as of `kmeans`, and where the points cannot be shared so.
    """
    check_points(points, k)
    size = _size(points.shape[1], k, size)
    labels = kmeans(points, k, keys, restarts, memory).labels
    n, dim = points.shape[1:]
    for part in parts(len(points), 8 * n * (3 * dim + 4 * k + 2 * n), memory):
        labels[part] = _settle(centred(points[part].double())[0], labels[part], k, size)
    return labels


def _settle(points: Tensor, labels: Tensor, k: int, size: int) -> Tensor:
    """Labels (P, n) after assignments to the centres of points (P, n, D) that no longer change them."""
    labels, rows = labels.clone(), torch.arange(len(points), device=points.device)
    for _ in range(MAX_STEPS):
        own = points[rows]
        members = torch.nn.functional.one_hot(labels[rows], k).to(own.dtype).mT
        counts = members.sum(-1, keepdim=True)
        centres = members @ own / counts.clamp(min=1)
        if bool((counts == 0).any()):  # at the start, or where clusters need not be full
            _share(centres, counts.squeeze(-1))
        moved = assign(2 * own @ centres.mT - centres.square().sum(-1).unsqueeze(1), size)
        changed = (moved != labels[rows]).any(1)
        labels[rows] = moved
        rows = rows[changed]
        if len(rows) == 0:
            break
    return labels


def _share(centres: Tensor, counts: Tensor) -> None:
    """Let each empty cluster start from the centre (P, k, D) of the one with the most points for its sharers."""
    rows, copies = torch.arange(len(counts), device=counts.device), torch.ones_like(counts)
    for cluster in range(counts.shape[1]):
        empty = counts[:, cluster] == 0
        crowded = (counts / copies).argmax(1)
        centres[rows[empty], cluster] = centres[rows[empty], crowded[empty]]
        copies[rows[empty], crowded[empty]] += 1


def _size(n: int, k: int, size: int | None) -> int:
    if k < 1 or (n % k if size is None else n > k * size):
        how = "equally by" if size is None else f"by at most {size} to each of"
        raise ValueError(f"{n} points cannot be shared {how} {k} clusters")
    return n // k if size is None else size
