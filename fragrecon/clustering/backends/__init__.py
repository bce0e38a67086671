"""Ways to compute the clusterings of the protocol. A back end is a module here, chosen by its name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor

from fragrecon.errors import ConfigError, nearest


class Backend(Protocol):
    """What a back end's module offers.

    Both functions take points (P, n, D) on the CPU, the number of clusters k and a seed for each problem, and return
    labels (P, n)
    in 0..k-1. A problem's labels follow from its points and its seed alone.
    """

    def kmeans(self, points: Tensor, k: int, seeds: Sequence[int], restarts: int = 10) -> Tensor:
        """KMeans from k-means++ starts, the one of least inertia of ``restarts``."""

    def kmedoids(self, points: Tensor, k: int, seeds: Sequence[int]) -> Tensor:
        """K-medoids by Euclidean distance."""


def load_backend(name: str) -> Backend:
    """The back end of that name; raises `ConfigError` where there is none."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    if name not in names:
        raise ConfigError(f"evaluation.backend='{name}' is not known{nearest(name, names)}")
    return cast(Backend, importlib.import_module(f"{__name__}.{name}"))


def check_points(points: Tensor, k: int) -> None:
    """Refuse what a clustering could only answer with nonsense.

    Raises:
        ValueError: wrong shape, more clusters than points, or numbers that are not finite (which some libraries take
            silently).
    """
    if points.ndim != 3:
        raise ValueError(f"points should be (P, n, D), not {tuple(points.shape)}")
    if not 1 <= k <= points.shape[1]:
        raise ValueError(f"{k} clusters cannot be made of {points.shape[1]} points")
    if not torch.isfinite(points).all():
        raise ValueError("the points to cluster hold numbers that are not finite")
