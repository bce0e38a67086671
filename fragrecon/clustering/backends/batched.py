"""The project's own engine: all problems at once, where the points are."""

from __future__ import annotations

from torch import Tensor

from fragrecon.clustering import kmeans as batched_kmeans
from fragrecon.clustering import kmedoids as batched_kmedoids


def kmeans(points: Tensor, k: int, keys: Tensor, restarts: int, memory: int) -> Tensor:
    return batched_kmeans.kmeans(points, k, keys, restarts, memory).labels


def kmedoids(points: Tensor, k: int, memory: int) -> Tensor:
    return batched_kmedoids.kmedoids(points, k, memory).labels
