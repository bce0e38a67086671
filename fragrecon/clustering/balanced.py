"""Clustering into clusters of equal or bounded size, for a batch of small problems.

Shapes: P problems of n points in D dimensions, k clusters.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fragrecon.clustering.kmeans import kmeans
from fragrecon.clustering.problems import MEMORY, centred, check_points, parts

MAX_STEPS = 100
SMALL = 500
"""Number of points up to which SciPy's assignment of points to single places is as fast as `_ship`."""

_Array = npt.NDArray[np.float64]


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
    return _assign(scores, _size(n, k, size), np.zeros((problems, k)))


def _assign(scores: Tensor, size: int, prices: _Array) -> Tensor:
    """Assign points as `assign` does; ``prices`` (P, k) of `_ship` are updated in place."""
    if not torch.isfinite(scores).all():
        raise ValueError("the scores are not all finite")
    labels = torch.empty(scores.shape[:2], dtype=torch.int64)
    for found, problem, own in zip(labels, scores.detach().double().cpu().numpy(), prices, strict=True):
        if len(problem) > SMALL and size > 1:
            found[:] = torch.from_numpy(_ship(-problem, size, own))
        else:  # a cluster has `size` places
            places = np.repeat(problem, size, 1)
            found[:] = torch.from_numpy(linear_sum_assignment(places, maximize=True)[1] // size)
    return labels.to(scores.device)


def _ship(costs: _Array, size: int, prices: _Array) -> npt.NDArray[np.int64]:
    """Assign points to clusters of at most ``size`` points at the minimal sum of costs.

    All points begin in their cheapest cluster. While a cluster has too many, one point moves on along the cheapest path
    from such a cluster to one with room; prices of clusters keep the reduced costs of all moves at zero or above. At
    most n moves are needed, each with a search in k steps of k operations.

    Source: successive shortest paths with potentials, Ahuja, Magnanti and Orlin, "Network Flows", 1993, section 9.7.

    Args:
        costs: cost of each point in each cluster, (n, k).
        size: maximum number of points per cluster.
        prices: of the clusters, (k,), updated in place; those of similar costs are a good start.

    Returns:
        Labels (n,) in 0..k-1.
    """
    n, k = costs.shape
    if n < k * size:  # a cluster with room has the price zero
        prices[:] = 0
    reduced = costs - prices
    labels: npt.NDArray[np.int64] = reduced.argmin(1)
    counts, every = np.bincount(labels, minlength=k), np.arange(k)
    cheapest = reduced == reduced.min(1, keepdims=True)
    for point in np.flatnonzero(cheapest.sum(1) > 1):  # equal points are spread at once
        counts[labels[point]] -= 1
        labels[point] = np.where(cheapest[point], counts, n).argmin()
        counts[labels[point]] += 1
    # The lowest extra cost of moving a point from a cluster to another, and this point.
    extra, mover = np.full((k, k), np.inf), np.zeros((k, k), np.int64)

    def survey(cluster: int) -> None:
        members = np.flatnonzero(labels == cluster)
        if len(members):
            added = costs[members] - costs[members, cluster, None]
            first = added.argmin(0)
            extra[cluster], mover[cluster] = added[first, every], members[first]
        else:
            extra[cluster] = np.inf

    for cluster in range(k):
        survey(cluster)
    while (counts > size).any():
        lengths, before, open_lengths = np.where(counts > size, 0.0, np.inf), np.full(k, -1), np.zeros(k)
        while True:  # Dijkstra's algorithm; `open_lengths` is infinite where a cluster has been visited
            here = int((lengths + open_lengths).argmin())
            if counts[here] < size:
                break
            open_lengths[here] = np.inf
            through = lengths[here] + np.maximum(extra[here] + prices[here] - prices, 0)
            better = (through < lengths) & (open_lengths == 0)
            lengths[better], before[better] = through[better], here
        prices += np.minimum(lengths, lengths[here])
        counts[here] += 1
        path = [here]
        while before[path[-1]] >= 0:
            path.append(int(before[path[-1]]))
        counts[path[-1]] -= 1
        for target, source in pairwise(path):
            labels[mover[source, target]] = target
        for cluster in path:
            survey(cluster)
    return labels


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
    prices = np.zeros((len(points), k))
    for _ in range(MAX_STEPS):
        own = points[rows]
        members = torch.nn.functional.one_hot(labels[rows], k).to(own.dtype).mT
        counts = members.sum(-1, keepdim=True)
        centres = members @ own / counts.clamp(min=1)
        if bool((counts == 0).any()):  # at the start, or with clusters that need not be full
            _share(centres, counts.squeeze(-1))
        moved = _assign(2 * own @ centres.mT - centres.square().sum(-1).unsqueeze(1), size, prices)
        changed = (moved != labels[rows]).any(1)
        labels[rows] = moved
        rows, prices = rows[changed], prices[changed.cpu().numpy()]
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
