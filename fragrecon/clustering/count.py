"""How many clusters there are, for a batch of small problems."""

from __future__ import annotations

import torch
from torch import Tensor

from fragrecon.clustering.problems import MEMORY, check_points, parts
from fragrecon.clustering.spectral import local_affinity, spectrum


def estimate_count(points: Tensor, largest: int, memory: int = MEMORY) -> Tensor:
    """Number of clusters (P,) in 2..largest of points (P, n, D), by the eigengap.

    In the normalised affinity of k groups apart, k eigenvalues are 1 and the next is less; of groups near each other,
    the widest gap between neighbouring eigenvalues tells k (von Luxburg, "A tutorial on spectral clustering", 2007,
    section 8.3). The affinity is `local_affinity`. On embeddings of real fragments this came nearer than the
    silhouette, and is many times as fast (``experiments/count.py``).

    Raises:
        ValueError: no room for two clusters and one more point, or as of `kmeans`.
    """
    n = points.shape[1] if points.ndim == 3 else 0
    check_points(points, largest)
    if not 2 <= largest < n:
        raise ValueError(f"the number of clusters of {n} points cannot be sought in 2..{largest}")
    found = torch.empty(len(points), dtype=torch.int64, device=points.device)
    for part in parts(len(points), 8 * n * (5 * n + 2 * points.shape[2]), memory):
        values = spectrum(local_affinity(points[part]))[:, 1 : largest + 1]
        found[part] = (values[:, :-1] - values[:, 1:]).argmax(1) + 2
    return found
