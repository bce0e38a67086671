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

from fragrecon.clustering.kmeans import inner_products, kmeans
from fragrecon.clustering.problems import MEMORY, centred, check_points, nearest_of, parts

MAX_STEPS = 100
TEMPERATURES, ITERATIONS = (0.3, 0.1, 0.03), 4
"""Of Sinkhorn: temperatures, relative to how far scores are below the best on average, and iterations at each."""
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
    values = scores.detach().double().mT
    return _assign(values, _size(n, k, size), values.new_zeros(problems, k, 1))[0]


def _assign(scores: Tensor, size: int, prices: Tensor) -> tuple[Tensor, Tensor]:
    """Assign points as `assign` does.

    Args:
        scores: score of each point in each cluster, (P, k, n) float64.
        size: maximum number of points per cluster.
        prices: prices (P, k, 1) to start from; zero if not all clusters will be full.

    Returns:
        Labels (P, n), and better prices.

    Raises:
        ValueError: a score is not finite.
    """
    if not torch.isfinite(scores).all():
        raise ValueError("the scores are not all finite")
    k, n = scores.shape[1:]
    if n == k * size:
        prices = _prices(scores, size, prices)
    priced = (scores + prices).cpu()
    # Sending each point to its best cluster at these prices is optimal if no cluster has too many points.
    members, counts, _ = nearest_of(-priced)
    labels = (torch.arange(k, dtype=members.dtype) @ members).long()
    for place in (counts > size).flatten(1).any(1).nonzero().flatten().tolist():
        costs = -priced[place].numpy()
        if n > SMALL and size > 1:
            found = _ship(costs.T, size)
        else:  # a cluster has `size` places
            found = linear_sum_assignment(costs.repeat(size, 0).T)[1] // size
        labels[place] = torch.from_numpy(found)
    return labels.to(scores.device), prices


def _prices(scores: Tensor, size: int, prices: Tensor) -> Tensor:
    """Approximate prices of clusters at which each is the best of ``size`` points.

    Source: Sinkhorn iterations (Cuturi, "Sinkhorn distances", NeurIPS 2013) at falling temperatures.

    Args:
        scores: score of each point in each cluster, (P, k, n), with n = k * size.
        size: number of points per cluster.
        prices: prices (P, k, 1) to start from.

    Returns:
        Prices (P, k, 1), to be added to the scores.
    """
    below = scores - scores.amax(1, keepdim=True)
    unit = below.mean((1, 2), keepdim=True).neg_().clamp_(min=torch.finfo(scores.dtype).tiny)
    below, found = (below / unit).float(), (prices / unit).float()
    for temperature in TEMPERATURES:
        for _ in range(ITERATIONS):
            wanted = ((below + found) / temperature).softmax(1).sum(2, keepdim=True)
            found -= temperature * (wanted / size).clamp_(min=torch.finfo(wanted.dtype).tiny).log_()
    return found * unit


def _ship(costs: _Array, size: int) -> npt.NDArray[np.int64]:
    """Assign points to clusters of at most ``size`` points at the minimal sum of costs.

    All points begin in their cheapest cluster. While a cluster has too many, one point moves on along the cheapest path
    from such a cluster to one with room; prices of clusters keep the reduced costs of all moves at zero or above. At
    most n moves are needed, each with a search in k steps of k operations.

    Source: successive shortest paths with potentials, Ahuja, Magnanti and Orlin, "Network Flows", 1993, section 9.7.

    Args:
        costs: cost of each point in each cluster, (n, k).
        size: maximum number of points per cluster.

    Returns:
        Labels (n,) in 0..k-1.
    """
    n, k = costs.shape
    prices, every = np.zeros(k), np.arange(k)
    labels: npt.NDArray[np.int64] = costs.argmin(1)
    counts, cheapest = np.bincount(labels, minlength=k), costs == costs.min(1, keepdims=True)
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

    It is `balance`, from the clusters that `kmeans` finds.

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
    _size(points.shape[1], k, size)  # before the work
    return balance(points, kmeans(points, k, keys, restarts, memory).labels, k, memory, size)


def balance(points: Tensor, labels: Tensor, k: int, memory: int = MEMORY, size: int | None = None) -> Tensor:
    """Move points between clusters until each has exactly n / k points, or at most ``size``, as close as possible.

    Alternates between the update of the centres and the best balanced assignment of points to centres, until no label
    changes, for at most 100 steps.

    Source: Malinen and Fraenti, "Balanced K-Means for Clustering", 2014.

    Args:
        points: (P, n, D).
        labels: clusters (P, n) in 0..k-1 whose centres are the start.
        k: number of clusters.
        memory: working memory in bytes, as for `kmeans`.
        size: maximum number of points per cluster.

    Returns:
        Labels (P, n) in 0..k-1.

    Raises:
        ValueError: as for `kmeans`, or the points do not fit into the clusters.

    Example:
        >>> balance(torch.tensor([[[0.0], [1.0], [2.0], [9.0]]]), torch.tensor([[0, 0, 0, 1]]), 2)
        tensor([[0, 0, 1, 1]])
    """
    check_points(points, k)
    n, dim = points.shape[1:]
    size, labels = _size(n, k, size), labels.clone()
    for part in parts(len(points), 8 * n * (3 * dim + 6 * k + n), memory):
        labels[part] = _settle(centred(points[part].double())[0], labels[part], k, size)
    return labels


def _settle(points: Tensor, labels: Tensor, k: int, size: int) -> Tensor:
    """Alternate assignment and centre update for points (P, n, D) from labels (P, n) until the labels settle."""
    labels, rows = labels.clone(), torch.arange(len(points), device=points.device)
    n, dim = points.shape[1:]
    products = points if 2 * dim < n else points @ points.mT
    prices = torch.zeros(len(points), k, 1, dtype=points.dtype, device=points.device)
    for _ in range(MAX_STEPS):
        members = torch.nn.functional.one_hot(labels[rows], k).to(points.dtype).mT
        counts = members.sum(-1, keepdim=True)
        weights = members / counts.clamp(min=1)  # of the points in the centres, (P, k, n)
        if bool((counts == 0).any()):  # at the start, or with clusters that need not be full
            _share(weights, counts.squeeze(-1))
        inner = inner_products(weights, products)
        scores = 2 * inner - (weights * inner).sum(-1, keepdim=True)
        moved, prices = _assign(scores, size, prices)
        changed = (moved != labels[rows]).any(1)
        labels[rows] = moved
        rows = rows[changed]
        if len(rows) == 0:
            break
        products, prices = products[changed], prices[changed]
    return labels


def _share(weights: Tensor, counts: Tensor) -> None:
    """Move the centre of each empty cluster, in place, to the cluster with the most points per centre.

    Args:
        weights: weights of the points in the centres, (P, k, n).
        counts: points of the clusters, (P, k).
    """
    rows, copies = torch.arange(len(counts), device=counts.device), torch.ones_like(counts)
    for cluster in range(counts.shape[1]):
        empty = counts[:, cluster] == 0
        crowded = (counts / copies).argmax(1)
        weights[rows[empty], cluster] = weights[rows[empty], crowded[empty]]
        copies[rows[empty], crowded[empty]] += 1


def _size(n: int, k: int, size: int | None) -> int:
    if k < 1 or (n % k if size is None else n > k * size):
        rule = "equal size" if size is None else f"at most {size} points"
        raise ValueError(f"{n} points do not fit into {k} clusters of {rule}")
    return n // k if size is None else size
