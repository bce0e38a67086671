"""Backend of this project's own implementation: all problems at once, on the device of the points."""

from __future__ import annotations

from torch import Tensor

from fragrecon.clustering import kmeans as batched_kmeans
from fragrecon.clustering import kmedoids as batched_kmedoids


def kmeans(points: Tensor, k: int, keys: Tensor, restarts: int, memory: int) -> Tensor:
    """Labels (P, n) of `fragrecon.clustering.kmeans.kmeans`."""
    return batched_kmeans.kmeans(points, k, keys, restarts, memory).labels


def kmedoids(points: Tensor, k: int, memory: int) -> Tensor:
    """Labels (P, n) of `fragrecon.clustering.kmedoids.kmedoids`."""
    return batched_kmedoids.kmedoids(points, k, memory).labels
