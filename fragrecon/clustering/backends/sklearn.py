"""Reference backend: KMeans of scikit-learn and FasterPAM of the ``kmedoids`` package, one problem after another."""

from __future__ import annotations

import warnings

import torch
from kmedoids import fasterpam
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits
from torch import Tensor

from fragrecon.clustering.problems import check_points


def kmeans(points: Tensor, k: int, keys: Tensor, restarts: int, memory: int) -> Tensor:
    """Labels (P, n) of scikit-learn's KMeans; ``memory`` is ignored."""
    check_points(points, k)
    labels = torch.empty(points.shape[:2], dtype=torch.int64)
    # For problems this small, OpenMP threads cost more time than they save.
    with threadpool_limits(1), warnings.catch_warnings():
        # A collapsed model may give fewer distinct points than clusters; it is scored as it is.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for found, problem, key in zip(labels, points.float().cpu(), keys.tolist(), strict=True):
            solver = KMeans(k, init="k-means++", n_init=restarts, random_state=key % 2**32)
            found[:] = torch.from_numpy(solver.fit(problem.numpy()).labels_)
    return labels.to(points.device)


def kmedoids(points: Tensor, k: int, memory: int) -> Tensor:
    """Labels (P, n) of FasterPAM (Schubert and Rousseeuw, Information Systems 2021); ``memory`` is ignored."""
    check_points(points, k)
    labels = torch.empty(points.shape[:2], dtype=torch.int64)
    for found, problem in zip(labels, points.float().cpu(), strict=True):
        distances = torch.cdist(problem, problem, compute_mode="donot_use_mm_for_euclid_dist").float()
        solved = fasterpam(distances.numpy(), k, init="build", n_cpu=1)
        found[:] = torch.from_numpy(solved.labels.astype("int64"))
    return labels.to(points.device)
