"""The reference: KMeans of scikit-learn and FasterPAM of the ``kmedoids`` package, one problem after another."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from kmedoids import fasterpam
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits
from torch import Tensor

from fragrecon.clustering.backends import check_points


def kmeans(points: Tensor, k: int, seeds: Sequence[int], restarts: int = 10) -> Tensor:
    check_points(points, k)
    labels = torch.empty(points.shape[:2], dtype=torch.int64)
    # On a problem this small OpenMP's threads cost more than they do.
    with threadpool_limits(1), warnings.catch_warnings():
        # Fewer distinct points than clusters is a fair answer of a collapsed model, and scored as such.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for found, problem, seed in zip(labels, points, seeds, strict=True):
            solver = KMeans(k, init="k-means++", n_init=restarts, random_state=seed % 2**32)
            found[:] = torch.from_numpy(solver.fit(problem.numpy()).labels_)
    return labels


def kmedoids(points: Tensor, k: int, seeds: Sequence[int]) -> Tensor:
    """FasterPAM (Schubert and Rousseeuw, Information Systems 2021) from a BUILD start, which needs no seed."""
    check_points(points, k)
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").float()
    labels = torch.empty(points.shape[:2], dtype=torch.int64)
    for problem in range(len(points)):
        found = fasterpam(distances[problem].numpy(), k, init="build", n_cpu=1)
        labels[problem] = torch.from_numpy(found.labels.astype("int64"))
    return labels
