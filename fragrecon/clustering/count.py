"""Estimates of the number of clusters, for a batch of small problems."""

from __future__ import annotations

import torch
from torch import Tensor

from fragrecon.clustering.problems import MEMORY, check_points, parts
from fragrecon.clustering.spectral import local_affinity, spectrum


def estimate_count(points: Tensor, largest: int, memory: int = MEMORY) -> Tensor:
    """Estimate the number of clusters by the eigengap.

    The normalised affinity of k separate groups has k eigenvalues of 1, followed by smaller ones; for groups close to
    each other, the widest gap between neighbouring eigenvalues indicates k. The affinity is `local_affinity`. On
    embeddings of real fragments the estimate was better than the silhouette's, and many times faster
    (``experiments/count.py``).

    Source: von Luxburg, "A tutorial on spectral clustering", 2007, section 8.3.

    Args:
        points: (P, n, D).
        largest: largest number of clusters considered, less than n.
        memory: working memory in bytes.

    Returns:
        Numbers of clusters, (P,) in 2..largest.

    Raises:
        ValueError: ``largest`` is not in 2..n-1, or as for `kmeans`.

    Example:
        >>> points = torch.arange(10.0).add(torch.tensor([[0.0], [50.0], [100.0]])).view(1, 30, 1)
        >>> estimate_count(points, 5)
        tensor([3])
    """
    n = points.shape[1] if points.ndim == 3 else 0
    check_points(points, largest)
    if not 2 <= largest < n:
        raise ValueError(f"largest={largest} must be in 2..{n - 1} for {n} points")
    found = torch.empty(len(points), dtype=torch.int64, device=points.device)
    for part in parts(len(points), 8 * n * (5 * n + 2 * points.shape[2]), memory):
        values = spectrum(local_affinity(points[part]))[:, 1 : largest + 1]
        found[part] = (values[:, :-1] - values[:, 1:]).argmax(1) + 2
    return found
