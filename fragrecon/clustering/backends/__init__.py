"""Ways to compute the clusterings of the protocol. A back end is a module here, chosen by its name."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Protocol, cast

from torch import Tensor

from fragrecon.errors import ConfigError, nearest


class Backend(Protocol):
    """What a back end's module offers.

    Both functions take points (P, n, D) and the number of clusters k, and return labels (P, n) in 0..k-1 on the
    points' device. ``memory`` is how many bytes they may take for what they do at once.
    """

    __name__: str

    def kmeans(self, points: Tensor, k: int, keys: Tensor, restarts: int, memory: int) -> Tensor:
        """KMeans from k-means++ starts, the one of least inertia of ``restarts``.

        A problem's random numbers follow from its key alone, one of ``keys`` (P,), see `fragrecon.seeds`.
        """

    def kmedoids(self, points: Tensor, k: int, memory: int) -> Tensor:
        """K-medoids by Euclidean distance from a BUILD start, without random numbers."""


def load_backend(name: str) -> Backend:
    """The back end of that name; raises `ConfigError` where there is none."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    if name not in names:
        raise ConfigError(f"evaluation.backend='{name}' is not known{nearest(name, names)}")
    return cast(Backend, importlib.import_module(f"{__name__}.{name}"))
