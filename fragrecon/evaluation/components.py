"""Exact principal components, of points in memory or read in parts.

Shapes: M points of P values, R components.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional

LARGE = 1024
"""Above this number of values P, Lanczos steps are faster than an eigendecomposition of the covariance matrix."""

ROUNDING = 1e-10
"""Variances below this share of the largest count as zero."""


class PrincipalComponents:
    """The leading principal components of points in memory.

    Attributes:
        mean: mean (P,) of the points.
        directions: components (P, R) as columns, by decreasing variance.
        deviations: standard deviations (R,) along the components.

    Args:
        points: points (M, P).
        most: maximum number of components.
    """

    def __init__(self, points: Tensor, most: int) -> None:
        from sklearn.decomposition import PCA  # slow to import, and not needed where scores are cached

        values = points.double().numpy()
        keep = min(most, *values.shape)
        solver = "covariance_eigh" if values.shape[1] <= LARGE or keep == min(values.shape) else "arpack"
        with threadpool_limits(torch.get_num_threads()):
            fitted = PCA(keep, svd_solver=solver, random_state=0).fit(values)
        self.mean = torch.from_numpy(fitted.mean_)
        self.directions = torch.from_numpy(fitted.components_.T.copy())
        self.deviations = torch.from_numpy(np.sqrt(fitted.explained_variance_))

    def __call__(self, points: Tensor, count: int, whitening: float = 0.0) -> Tensor:
        """Project points onto the leading components.

        Args:
            points: points (..., P).
            count: number of components.
            whitening: each component is divided by this power of its standard deviation; 1 gives equal variances.

        Returns:
            Coordinates (..., count), float64.
        """
        values = points.double()
        mean, directions = self.mean.to(values), self.directions[:, :count].to(values)
        deviations = self.deviations[:count].to(values)
        # Do not amplify components of almost no variance.
        scale = deviations.clamp(min=1e-6 * float(deviations.max()) or 1.0) ** -whitening
        return ((values - mean) @ directions) * scale


def components_of_parts(parts: Iterable[Tensor], count: int, values: int) -> tuple[Tensor, Tensor]:
    """Compute all principal components of points that are read in parts.

    The eigenvectors are computed from the covariance matrix or, if it is smaller, from the Gram matrix.

    Args:
        parts: points (M, P) in [0, 1].
        count: total number of points.
        values: number of values P.

    Returns:
        Mean (P,) and components (P, R) as columns, by decreasing variance, without those of zero variance; float32.
    """
    # Values are centred at 0.5, so that subtracting the mean loses little precision in the variance.
    rows = (points.cpu().double() - 0.5 for points in parts)
    if count < values:
        whole = torch.cat(list(rows))
        mean = whole.mean(0)
        whole -= mean
        variances, vectors = torch.linalg.eigh(whole @ whole.T)
    else:
        total, products = torch.zeros(values).double(), torch.zeros(values, values).double()
        for some in rows:
            total += some.sum(0)
            products.addmm_(some.T, some)
        mean = total / count
        variances, vectors = torch.linalg.eigh(products - count * torch.outer(mean, mean))
    vectors = vectors[:, variances >= ROUNDING * variances[-1]].flip(1)
    directions = functional.normalize(whole.T @ vectors, dim=0) if count < values else vectors
    return (mean + 0.5).float(), directions.float()
