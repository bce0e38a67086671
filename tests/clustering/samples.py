"""Problems to cluster, and slow measures of their answers that know nothing of the code under test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import Tensor

from fragrecon.clustering.agreement import adjusted_rand_index, contingency
from fragrecon.data.puzzles import cut
from fragrecon.data.readers.imagenet64 import ImageNet64
from tests import layouts

Floats = npt.NDArray[np.float64]


def blobs(problems: int, k: int, size: int, spread: float, dim: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points (P, k * size, dim) in shuffled order about far apart centres, and the blob of each."""
    random = torch.Generator().manual_seed(seed)
    truth = torch.stack([torch.randperm(k * size, generator=random) % k for _ in range(problems)])
    centres = torch.randn(problems, k, dim, generator=random)
    noise = torch.randn(*truth.shape, dim, generator=random)
    return centres.gather(1, truth.unsqueeze(-1).expand(-1, -1, dim)) + spread * noise, truth


def uniform(problems: int, n: int, dim: int, seed: int = 0) -> Tensor:
    return torch.rand(problems, n, dim, generator=torch.Generator().manual_seed(seed))


def fragments(real_data: Path, problems: int, images: int = 10, size: int = 16) -> tuple[Tensor, Tensor]:
    """Raw pixels (P, n, D) of the fragments of real images, in shuffled order, and the image of each."""
    block = next(iter(ImageNet64(layouts.real(real_data, "imagenet64")).blocks("test")))
    pixels = torch.from_numpy(block.images[: problems * images]).float() / 255
    points = cut(pixels.view(problems, images, *pixels.shape[1:]), (size, size)).flatten(3).flatten(1, 2)
    random = torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(points.shape[1], generator=random) for _ in range(problems)])
    return points.gather(1, order.unsqueeze(-1).expand_as(points)), order // (points.shape[1] // images)


FAMILIES: dict[str, Callable[[int], tuple[Tensor, Tensor | None]]] = {
    "tight blobs in 2 dimensions": lambda n: blobs(5 * n, 10, 16, 0.1, 2, 1),
    "wide blobs in 2 dimensions": lambda n: blobs(5 * n, 10, 16, 0.4, 2, 2),
    "blobs in 3 dimensions": lambda n: blobs(5 * n, 10, 16, 0.6, 3, 3),
    "uniform in 2 dimensions": lambda n: (uniform(3 * n, 100, 2, 4), None),
    "uniform in 3 dimensions": lambda n: (uniform(3 * n, 160, 3, 5), None),
    "blobs in 16 dimensions": lambda n: blobs(2 * n, 10, 16, 0.8, 16, 6),
    "tight blobs in 128 dimensions": lambda n: blobs(n, 10, 16, 0.5, 128, 7),
    "wide blobs in 128 dimensions": lambda n: blobs(3 * n, 10, 16, 3.0, 128, 8),
    "blobs in 128 dimensions that are hard to tell": lambda n: blobs(2 * n, 10, 16, 6.0, 128, 9),
    "uniform in 128 dimensions": lambda n: (uniform(2 * n, 160, 128, 10), None),
}
"""Points, and the blob of each, by a number that the number of problems is proportional to.

In few dimensions, algorithms end in many local optima, so the mean loss is known to 0.1% only for many problems.
"""


def distances(points: Tensor) -> Tensor:
    """Euclidean, (P, n, n), float64, without products of the points."""
    wide = points.double()
    return torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist")


def means(points: Tensor, labels: Tensor, k: int) -> Tensor:
    """Means (P, k, D) of the clusters, float64; those of empty ones are not finite."""
    members = torch.nn.functional.one_hot(labels, k).double().mT
    return members @ points.double() / members.sum(-1, keepdim=True)


def inertia(points: Tensor, labels: Tensor, k: int) -> Tensor:
    """Sums of squared distances to the mean of the own cluster (P,), float64."""
    own = means(points, labels, k).gather(1, labels.unsqueeze(-1).expand(-1, -1, points.shape[-1]))
    return (points.double() - own).square().sum((1, 2))


def ari(one: Tensor, other: Tensor) -> Floats:
    found: Floats = adjusted_rand_index(contingency(one, other)).numpy()
    return found


def is_not_lower(ours: Floats, theirs: Floats) -> bool:
    """Whether paired values give no ground, at the level of 1%, to think that ours are lower on average."""
    if np.ptp(ours - theirs) == 0:
        return bool((ours >= theirs).all())
    return float(stats.ttest_rel(ours, theirs, alternative="less").pvalue) > 0.01
