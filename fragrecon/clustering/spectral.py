"""Spectral clustering of a batch of small problems, from affinities.

Shapes: P problems of n points, k clusters.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fragrecon.clustering.kmeans import kmeans
from fragrecon.clustering.problems import MEMORY, centred, parts, squared_distances

NEIGHBOUR = 7
"""Rank of the neighbour whose distance is the scale of a point's neighbourhood."""


def spectral(affinity: Tensor, k: int, keys: Tensor, restarts: int = 10, memory: int = MEMORY) -> Tensor:
    """Cluster points by KMeans of their `spectral_embedding`.

    Source: Ng, Jordan and Weiss, NeurIPS 2001.

    Args:
        affinity: non-negative affinities, (P, n, n); only the symmetric part counts.
        k: number of clusters.
        keys: random keys of the problems, (P,), as for `kmeans`.
        restarts: number of restarts of `kmeans`.
        memory: working memory in bytes, as for `kmeans`.

    Returns:
        Labels (P, n) in 0..k-1.

    Example:
        >>> affinity = torch.block_diag(torch.ones(2, 2), torch.ones(3, 3)).unsqueeze(0)
        >>> labels = spectral(affinity, 2, torch.tensor([0]))[0]
        >>> (labels == labels[0]).tolist()
        [True, True, False, False, False]
    """
    return kmeans(spectral_embedding(affinity, k, memory), k, keys, restarts, memory).labels


def spectral_embedding(affinity: Tensor, k: int, memory: int = MEMORY) -> Tensor:
    """Leading eigenvectors of the normalised affinity, with L2-normalised rows.

    Args:
        affinity: non-negative affinities, (P, n, n).
        k: number of eigenvectors.
        memory: working memory in bytes.

    Returns:
        (P, n, k) float64, one row per point.

    Raises:
        ValueError: k is not in 1..n, or the affinities are of the wrong shape, negative or not finite.
    """
    if not 1 <= k <= affinity.shape[-1]:
        raise ValueError(f"k={k} must be in 1..{affinity.shape[-1]}, the number of points")
    vectors = [
        torch.linalg.eigh(_normalised(affinity[part])).eigenvectors[..., -k:] for part in _parts(affinity, memory)
    ]
    return torch.nn.functional.normalize(torch.cat(vectors), dim=-1)


def spectrum(affinity: Tensor, memory: int = MEMORY) -> Tensor:
    """Eigenvalues of the normalised affinity.

    Args:
        affinity: non-negative affinities, (P, n, n).
        memory: working memory in bytes.

    Returns:
        (P, n) float64 in descending order; the first is 1.

    Example:
        >>> spectrum(torch.ones(1, 2, 2)).round(decimals=6).abs()
        tensor([[1., 0.]], dtype=torch.float64)
    """
    values = [torch.linalg.eigvalsh(_normalised(affinity[part])) for part in _parts(affinity, memory)]
    return torch.cat(values).flip(-1)


def _parts(affinity: Tensor, memory: int) -> Iterator[slice]:
    # At least one batch, possibly empty, so that its affinities are checked and the result has a shape.
    return parts(max(1, len(affinity)), 8 * 6 * max(1, affinity.shape[-1]) ** 2, memory)


def local_affinity(points: Tensor) -> Tensor:
    """Affinity of points on the scale of their neighbourhoods.

    It is exp(-d_ij^2 / (s_i s_j)), with s_i the distance of point i to its 7th neighbour.

    Source: Zelnik-Manor and Perona, NeurIPS 2004.

    Args:
        points: (P, n, D).

    Returns:
        Affinities in [0, 1], (P, n, n) float64.
    """
    about_mean, _ = centred(points.double())
    distances = squared_distances(about_mean @ about_mean.mT)
    neighbour = min(NEIGHBOUR, points.shape[1] - 1)
    scale = distances.kthvalue(neighbour + 1, -1).values.sqrt()
    product = scale.unsqueeze(-1) * scale.unsqueeze(-2)
    return torch.where(product > 0, torch.exp(-distances / product.where(product > 0, 1.0)), (distances == 0).double())


def _normalised(affinity: Tensor) -> Tensor:
    """Normalise affinities to D^-1/2 A D^-1/2, with D the degrees.

    Args:
        affinity: (P, n, n).

    Returns:
        (P, n, n) float64.

    Raises:
        ValueError: wrong shape, or affinities that are negative or not finite.
    """
    if affinity.ndim != 3 or affinity.shape[1] != affinity.shape[2]:
        raise ValueError(f"affinities must be (P, n, n), not {tuple(affinity.shape)}")
    if not torch.isfinite(affinity).all() or bool((affinity < 0).any()):
        raise ValueError("affinities must be finite and not negative")
    symmetric = (affinity.double() + affinity.mT.double()) / 2
    # A point without any affinity gets a row of zeros, not of NaNs.
    scale = symmetric.sum(-1).clamp(min=torch.finfo(torch.float64).tiny).rsqrt()
    return symmetric * scale.unsqueeze(-1) * scale.unsqueeze(-2)
