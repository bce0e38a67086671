"""The reference back end: KMeans of scikit-learn and FasterPAM of the ``kmedoids`` package, one puzzle after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Clustering(Protocol):
    """Clusters many small problems; a back end of the clustering protocol.

    Both methods take points (P, n, D), the number of clusters k and a seed for each problem, and return labels (P, n)
    in 0..k-1. A problem's labels follow from its points and its seed alone.
    """

    def kmeans(self, points: Tensor, k: int, seeds: Sequence[int]) -> Tensor: ...

    def kmedoids(self, points: Tensor, k: int, seeds: Sequence[int]) -> Tensor: ...


class Libraries:
    """Clustering by scikit-learn and ``kmedoids``.

    Args:
        restarts: of KMeans, each from a k-means++ start; the one of least inertia counts.
    """

    def __init__(self, restarts: int = 10) -> None:
        if restarts < 1:
            raise ValueError(f"restarts={restarts} should be at least 1")
        self.restarts = restarts

    def kmeans(self, points: Tensor, k: int, seeds: Sequence[int]) -> Tensor:
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits

        check_points(points, k)
        labels = torch.empty(points.shape[:2], dtype=torch.int64)
        # On a problem this small OpenMP's threads cost more than they do.
        with threadpool_limits(1):
            for problem, seed in enumerate(seeds):
                solver = KMeans(k, init="k-means++", n_init=self.restarts, random_state=seed % 2**32)
                labels[problem] = torch.from_numpy(solver.fit(points[problem].numpy()).labels_)
        return labels

    def kmedoids(self, points: Tensor, k: int, seeds: Sequence[int]) -> Tensor:
        """FasterPAM (Schubert and Rousseeuw, 2021) on Euclidean distances, from a BUILD start, which needs no seed."""
        from kmedoids import fasterpam

        check_points(points, k)
        distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").float()
        labels = torch.empty(points.shape[:2], dtype=torch.int64)
        for problem in range(len(points)):
            found = fasterpam(distances[problem].numpy(), k, init="build", n_cpu=1)
            labels[problem] = torch.from_numpy(found.labels.astype("int64"))
        return labels


def check_points(points: Tensor, k: int) -> None:
    """Refuse what a clustering could only answer with nonsense.

    Raises:
        ValueError: wrong shape, numbers that are not finite (kmedoids would return silently on them), or more clusters than points.
    """
    if points.ndim != 3:
        raise ValueError(f"points should be (P, n, D), not {tuple(points.shape)}")
    if not 1 <= k <= points.shape[1]:
        raise ValueError(f"{k} clusters cannot be made of {points.shape[1]} points")
    if not torch.isfinite(points).all():
        raise ValueError("the points to cluster hold numbers that are not finite")
