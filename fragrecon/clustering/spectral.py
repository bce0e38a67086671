"""Spectral clustering of a batch of small problems, by how well their points go together.

Shapes: P problems of n points, k clusters.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fragrecon.clustering.kmeans import kmeans
from fragrecon.clustering.problems import MEMORY, centred, parts, squared_distances

NEIGHBOUR = 7


def spectral(affinity: Tensor, k: int, keys: Tensor, restarts: int = 10, memory: int = MEMORY) -> Tensor:
    """Labels (P, n) by KMeans in the `spectral_embedding` (Ng, Jordan and Weiss, NeurIPS 2001).

    Args:
        affinity: (P, n, n), not negative; its symmetric part counts.
        k: clusters.
        keys: (P,), as for `kmeans`.
        restarts: as for `kmeans`.
        memory: as for `kmeans`.
    """
    return kmeans(spectral_embedding(affinity, k, memory), k, keys, restarts, memory).labels


def spectral_embedding(affinity: Tensor, k: int, memory: int = MEMORY) -> Tensor:
    """The k leading eigenvectors of the normalised affinity, one row a point, of length 1: (P, n, k) float64."""
    if not 1 <= k <= affinity.shape[-1]:
        raise ValueError(f"{k} clusters cannot be made of {affinity.shape[-1]} points")
    vectors = [
        torch.linalg.eigh(_normalised(affinity[part])).eigenvectors[..., -k:] for part in _parts(affinity, memory)
    ]
    return torch.nn.functional.normalize(torch.cat(vectors), dim=-1)


def spectrum(affinity: Tensor, memory: int = MEMORY) -> Tensor:
    """Eigenvalues (P, n) of the normalised affinity, float64, from the greatest, which is 1, down."""
    values = [torch.linalg.eigvalsh(_normalised(affinity[part])) for part in _parts(affinity, memory)]
    return torch.cat(values).flip(-1)


def _parts(affinity: Tensor, memory: int) -> Iterator[slice]:
    # At least one part, if empty, so that what is wrong with it is told and what comes of it has a shape.
    return parts(max(1, len(affinity)), 8 * 6 * max(1, affinity.shape[-1]) ** 2, memory)


def local_affinity(points: Tensor) -> Tensor:
    """How near points (P, n, D) are on the scale of their surroundings: (P, n, n) in 0..1, float64.

    exp(-d_ij^2 / (s_i s_j)), s_i the distance of point i to its 7th neighbour (Zelnik-Manor and Perona, NeurIPS 2004).
    """
    distances = squared_distances(centred(points.double())[0])
    neighbour = min(NEIGHBOUR, points.shape[1] - 1)
    scale = distances.kthvalue(neighbour + 1, -1).values.sqrt()
    product = scale.unsqueeze(-1) * scale.unsqueeze(-2)
    return torch.where(product > 0, torch.exp(-distances / product.where(product > 0, 1.0)), (distances == 0).double())


def _normalised(affinity: Tensor) -> Tensor:
    """D^-1/2 A D^-1/2 in float64, with D the degrees.

    Raises:
        ValueError: wrong shape, or affinities that are negative or not finite.
    """
    if affinity.ndim != 3 or affinity.shape[1] != affinity.shape[2]:
        raise ValueError(f"affinities should be (P, n, n), not {tuple(affinity.shape)}")
    if not torch.isfinite(affinity).all() or bool((affinity < 0).any()):
        raise ValueError("affinities should be finite and not negative")
    symmetric = (affinity.double() + affinity.mT.double()) / 2
    # A point that goes with none gets a row of zeros, not of NaNs.
    scale = symmetric.sum(-1).clamp(min=torch.finfo(torch.float64).tiny).rsqrt()
    return symmetric * scale.unsqueeze(-1) * scale.unsqueeze(-2)
