"""Implementations of the clusterings of the evaluation protocol, chosen by ``evaluation.backend``.

``batched`` is this project's implementation, which solves all problems at once, on the device of the points.
``sklearn`` is the reference: KMeans of scikit-learn and FasterPAM of the ``kmedoids`` package, one problem at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fragrecon.clustering.kmeans import KMeans, kmeans
from fragrecon.clustering.kmedoids import KMedoids, kmedoids
from fragrecon.clustering.problems import check_points


class Backend(NamedTuple):
    """An implementation of both clusterings.

    Attributes:
        name: value of ``evaluation.backend``.
        kmeans: function of points (P, n, D), the number of clusters, the keys of the problems (P,), the number of
            restarts, and the working memory in bytes; see `fragrecon.clustering.kmeans.kmeans`.
        kmedoids: function of points (P, n, D), the number of clusters, and the working memory in bytes; see
            `fragrecon.clustering.kmedoids.kmedoids`.
    """

    name: str
    kmeans: Callable[[Tensor, int, Tensor, int, int], KMeans]
    kmedoids: Callable[[Tensor, int, int], KMedoids]


def _sklearn_kmeans(points: Tensor, k: int, keys: Tensor, restarts: int, memory: int) -> KMeans:
    """KMeans of scikit-learn; ``memory`` is ignored."""
    import sklearn.cluster
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    check_points(points, k)
    labels, inertia = torch.empty(points.shape[:2], dtype=torch.int64), torch.empty(len(points), dtype=torch.float64)
    # For problems this small, OpenMP threads cost more time than they save.
    with threadpool_limits(1), warnings.catch_warnings():
        # A collapsed model may give fewer distinct points than clusters; that is scored like any other result.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for place, (problem, key) in enumerate(zip(points.float().cpu(), keys.tolist(), strict=True)):
            solver = sklearn.cluster.KMeans(k, init="k-means++", n_init=restarts, random_state=key % 2**32)
            labels[place] = torch.from_numpy(solver.fit(problem.numpy()).labels_)
            inertia[place] = solver.inertia_
    return KMeans(labels.to(points.device), inertia.to(points.device))


def _fasterpam(points: Tensor, k: int, memory: int) -> KMedoids:
    """FasterPAM (Schubert and Rousseeuw, Information Systems 2021) from BUILD; ``memory`` is ignored."""
    from kmedoids import fasterpam

    check_points(points, k)
    labels, medoids = (torch.empty(len(points), size, dtype=torch.int64) for size in (points.shape[1], k))
    loss = torch.empty(len(points), dtype=torch.float64)
    for place, problem in enumerate(points.float().cpu()):
        distances = torch.cdist(problem, problem, compute_mode="donot_use_mm_for_euclid_dist").float()
        solved = fasterpam(distances.numpy(), k, init="build", n_cpu=1)
        labels[place] = torch.from_numpy(solved.labels.astype("int64"))
        # Fewer distinct points than clusters give fewer medoids; some are then repeated.
        medoids[place] = torch.from_numpy(np.resize(solved.medoids.astype("int64"), k))
        loss[place] = solved.loss
    return KMedoids(labels.to(points.device), loss.to(points.device), medoids.to(points.device))


BACKENDS = {
    backend.name: backend
    for backend in (Backend("batched", kmeans, kmedoids), Backend("sklearn", _sklearn_kmeans, _fasterpam))
}
"""Backends by name; the names are the choices of ``evaluation.backend``."""
