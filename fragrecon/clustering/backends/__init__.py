"""Implementations of the clusterings of the evaluation protocol: each is a module here, chosen by its name."""

from __future__ import annotations

import importlib
from typing import Protocol, cast

from torch import Tensor


class Backend(Protocol):
    """Interface of a backend module.

    Both functions take points (P, n, D) and the number of clusters k, and return labels (P, n) in 0..k-1 on the device
    of the points. ``memory`` is their working memory in bytes.
    """

    __name__: str

    def kmeans(self, points: Tensor, k: int, keys: Tensor, restarts: int, memory: int) -> Tensor:
        """Run KMeans from k-means++ starts; the restart of least inertia counts.

        A problem's random numbers depend only on its key in ``keys`` (P,), see `fragrecon.seeds`.
        """

    def kmedoids(self, points: Tensor, k: int, memory: int) -> Tensor:
        """Run k-medoids by Euclidean distance from a BUILD start, without random numbers."""


def load_backend(name: str) -> Backend:
    """Import a backend by the name of its module, one of the choices of ``evaluation.backend``."""
    return cast(Backend, importlib.import_module(f"{__name__}.{name}"))
