"""KMeans of many small problems at once, on any device.

Shapes: P problems of n points in D dimensions, R restarts, k clusters, T trials.

All computations use inner products. With W (k, n) the indicators of the clusters and G (n, n) = X Xt, the squared
distance of point i to the centre of cluster c is, up to a term that depends on i only::

    W_c G Wt_c / |c|^2 - 2 (W G)_ci / |c|

so one step of Lloyd's algorithm, for all restarts of all problems, is one batched product and a few passes over its
result. For small D, W G is cheaper to compute as (W X) Xt.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fragrecon.clustering.problems import (
    MEMORY,
    ROUNDING,
    centred,
    check_points,
    nearest_of,
    parts,
    rows_of,
    squared_distances,
)
from fragrecon.seeds import uniforms

MAX_STEPS = 300
TIGHT = 1e-3
"""Share of the total inertia below which the inertia of the clusters is recomputed from the points."""

ALIKE = 1e-5
"""Relative difference below which two inertias are considered equal."""


class KMeans(NamedTuple):
    """Result of `kmeans`.

    Attributes:
        labels: (P, n) in 0..k-1.
        inertia: sums of squared distances to the centres, (P,) float64.
    """

    labels: Tensor
    inertia: Tensor


def kmeans(points: Tensor, k: int, keys: Tensor, restarts: int = 10, memory: int = MEMORY) -> KMeans:
    """Cluster points by KMeans and keep the restart with the lowest inertia.

    Each restart is initialised by greedy k-means++ (Arthur and Vassilvitskii, SODA 2007, with 2 + log k trials per
    centre, as in their implementation) and runs Lloyd's algorithm until no label changes, for at most 300 steps. An
    empty cluster takes the point farthest from its own centre. With fewer distinct points than clusters, some clusters
    stay empty.

    Args:
        points: (P, n, D) of any floating type; computed in float32.
        k: number of clusters.
        keys: random keys of the problems, (P,) int64, see `fragrecon.seeds`. A problem's random numbers depend only on
            its key, not on its place in the batch.
        restarts: number of restarts.
        memory: working memory in bytes; it determines how many problems are solved at once.

    Returns:
        Labels and inertia of the best restart.

    Raises:
        ValueError: wrong shapes, fewer points than clusters, or values that are not finite.

    Example:
        >>> points = torch.tensor([[[0.0, 0.0], [0.0, 1.0], [5.0, 5.0], [5.0, 6.0]]])
        >>> labels, inertia = kmeans(points, 2, torch.tensor([0]))
        >>> (labels == labels[:, :1]).tolist(), round(float(inertia), 4)
        ([[True, True, False, False]], 1.0)
    """
    check_points(points, k)
    if keys.shape != points.shape[:1]:
        raise ValueError(f"keys must be ({len(points)},), not {tuple(keys.shape)}")
    if restarts < 1:
        raise ValueError(f"restarts={restarts} must be at least 1")
    n = points.shape[1]
    labels = torch.empty(points.shape[:2], dtype=torch.int64, device=points.device)
    inertia = torch.empty(len(points), dtype=torch.float64, device=points.device)
    bytes_each = 4 * n * (4 * n + 5 * points.shape[2] + 6 * restarts * k)
    with torch.autocast(points.device.type, enabled=False):  # products need the precision of float32
        for part in parts(len(points), bytes_each, memory):
            about_mean, scale = centred(points[part])
            labels[part], least = _solve(about_mean, k, keys[part].to(points.device), restarts)
            inertia[part] = least * scale.square()
    return KMeans(labels, inertia)


def _solve(points: Tensor, k: int, keys: Tensor, restarts: int) -> tuple[Tensor, Tensor]:
    """Labels (P, n) and inertia (P,), float64, of the best restart, for `centred` points (P, n, D)."""
    exact, points = points, points.float()
    problems, n, dim = points.shape
    products = points @ points.mT
    norms = products.diagonal(dim1=1, dim2=2).unsqueeze(1).clone()  # (P, 1, n)
    total = norms.sum((1, 2))
    distances = squared_distances(products.clone())
    trials = 2 + int(math.log(k))
    draws = uniforms(keys, restarts * k * trials).float().clamp_(max=1 - 2**-24).view(problems, restarts, k, trials)
    starts = rows_of(distances, _plus_plus(distances, draws))  # (P, R, k, n)
    del distances

    if 2 * dim < n:
        products = points
    best_labels = torch.empty(problems, restarts, n, dtype=torch.int64, device=points.device)
    best = torch.empty(problems, restarts, device=points.device)
    rows = torch.arange(problems, device=points.device).unsqueeze(1)
    slots = torch.arange(restarts, device=points.device).expand(problems, restarts)
    numbers = torch.arange(k, device=points.device).float()

    members, counts, _ = nearest_of(starts)
    for step in range(1, MAX_STEPS + 1):
        active = members.shape[1]
        sums = inner_products(members.view(len(members), active * k, n), products).view_as(members)
        own = (members * sums).sum(-1, keepdim=True)
        weights = 1 / counts.clamp(min=1)
        scores = sums.mul_(-2 * weights).add_(own * weights.square())
        if bool((counts == 0).any()):
            scores.masked_fill_(counts == 0, math.inf)
            moved, _, nearest = nearest_of(scores)
            rounding = ROUNDING * torch.finfo(norms.dtype).eps * norms.amax(-1, keepdim=True)
            moved = _fill_empty(moved, nearest + norms, rounding)
            counts = moved.sum(-1, keepdim=True)
        else:
            moved, counts, nearest = nearest_of(scores)
        stays = (moved * members).sum((2, 3)) == n
        members = moved
        if step == MAX_STEPS:
            stays = torch.ones_like(stays)
        if not bool(stays.any()):
            continue
        # Drop the converged restarts. A batched product needs the same number of restarts for every problem.
        ended = stays.nonzero(as_tuple=True)
        home = (rows.expand_as(stays)[ended], slots[ended])
        best[home] = (nearest + norms).sum(-1)[ended]
        best_labels[home] = (numbers @ members[ended]).long()
        going, problems_left = int((~stays).sum(1).max()), (~stays).any(1)
        if going == 0:
            break
        if going < active or not bool(problems_left.all()):
            order = stays.int().argsort(dim=1, stable=True)[:, :going]
            kept = torch.arange(len(members), device=points.device).unsqueeze(1)[problems_left], order[problems_left]
            members, counts = members[kept], counts[kept]
            slots, rows = slots.gather(1, order)[problems_left], rows[problems_left]
            products, norms = products[problems_left], norms[problems_left]
    inertia = best.double()
    # For clusters much tighter than the whole, the subtraction leaves mostly rounding errors.
    tight = inertia.amin(1) < TIGHT * total
    if bool(tight.any()):
        inertia[tight] = torch.stack([_inertia(exact[tight], found, k) for found in best_labels[tight].unbind(1)], 1)
    # Of restarts equal up to rounding the first is chosen, so that batches and threads make no difference.
    chosen = (inertia <= inertia.amin(1, keepdim=True) * (1 + ALIKE)).int().argmax(1, keepdim=True)
    labels = best_labels.gather(1, chosen.unsqueeze(-1).expand(-1, 1, n)).squeeze(1)
    return labels, inertia.gather(1, chosen).squeeze(1)


def _plus_plus(distances: Tensor, draws: Tensor) -> Tensor:
    """Greedy k-means++: initial points (P, R, k) from squared distances (P, n, n) and uniform numbers (P, R, k, T)."""
    (problems, restarts, k, _), n = draws.shape, distances.shape[1]
    chosen = torch.empty(problems, restarts, k, dtype=torch.int64, device=distances.device)
    chosen[..., 0] = (draws[..., 0, 0] * n).long()
    closest = rows_of(distances, chosen[..., 0])  # (P, R, n)
    for place in range(1, k):
        mass = closest.cumsum(-1)
        tried = torch.searchsorted(mass, draws[..., place, :] * mass[..., -1:], right=True).clamp_(max=n - 1)
        nearer = torch.minimum(rows_of(distances, tried), closest.unsqueeze(2))  # (P, R, T, n)
        best = nearer.sum(-1).argmin(-1, keepdim=True)
        chosen[..., place] = tried.gather(2, best).squeeze(2)
        closest = nearer.gather(2, best.unsqueeze(-1).expand(-1, -1, -1, n)).squeeze(2)
    return chosen


def inner_products(members: Tensor, products: Tensor) -> Tensor:
    """W G (P, Rk, n) for indicators W; ``products`` holds G (P, n, n), or points X (P, n, D) with G = X Xt."""
    if products.shape[1] == products.shape[2]:
        return members @ products
    return (members @ products) @ products.mT


def _fill_empty(members: Tensor, distances: Tensor, rounding: Tensor) -> Tensor:
    """Move the point farthest from its own centre into each empty cluster.

    Args:
        members: indicators, (P, R, k, n).
        distances: squared distances of the points to their centres, (P, R, n).
        rounding: (P, 1, 1); a point no farther than this lies on its centre and stays.

    Returns:
        Indicators, (P, R, k, n).
    """
    empty = members.sum(-1) == 0
    places = distances.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)  # 0 for the farthest
    clusters = empty.int().argsort(dim=-1, descending=True, stable=True)  # the empty ones first
    taken = (places < empty.sum(-1, keepdim=True)) & (distances > rounding)
    target = clusters.gather(-1, places.clamp(max=members.shape[2] - 1))
    ones = torch.zeros_like(members).scatter_(2, target.unsqueeze(2), 1.0)
    return torch.where(taken.unsqueeze(2), ones, members)


def _inertia(points: Tensor, labels: Tensor, k: int) -> Tensor:
    """Inertia (P,), float64, of points (P, n, D) about the centres of their clusters, by labels (P, n)."""
    wide, members = points.double(), torch.nn.functional.one_hot(labels, k).mT.double()
    centres = members @ wide / members.sum(-1, keepdim=True).clamp(min=1)
    return (wide - members.mT @ centres).square().sum((1, 2))
