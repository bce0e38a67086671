"""Baselines of inpainting: mean colour, interpolation and exact linear prediction.

Shapes: M images (C, H, W) in [0, 1] of P patches, of which V are visible; d = C * H * W.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
from scipy.spatial import QhullError
from torch import Tensor

from fragrecon.data.module import FragmentData
from fragrecon.data.puzzles import batches
from fragrecon.evaluation.clustering.baselines import training_fragments
from fragrecon.evaluation.pixels.reconstruction import Fill, pixels_of
from fragrecon.models.base import PatchGrid
from fragrecon.progress import progress

LINEAR = "linear_prediction"
"""Name of the baseline that is fitted on training images."""

FITTED = 50_000
"""Maximum number of training fragments that the linear prediction is fitted on."""

RIDGE = 1e-4
"""Variance added to every pixel, slightly more than that of rounding to 1/255, so that covariances are invertible."""


def mean_colour(images: Tensor, mask: Tensor, patches: PatchGrid) -> Tensor:
    """Fill images (M, C, H, W) with the mean colour of their visible patches."""
    visible = ~pixels_of(mask, patches, images.shape)
    mean = (images * visible).sum((2, 3), keepdim=True) / visible.sum((2, 3), keepdim=True)
    return mean.expand_as(images)


def bilinear(images: Tensor, mask: Tensor, patches: PatchGrid) -> Tensor:
    """Fill masked pixels by linear interpolation on the Delaunay triangulation of the visible pixels.

    Outside the triangulation, the nearest visible pixel is copied.

    Returns:
        Images (M, C, H, W).
    """
    visible = ~pixels_of(mask, patches, images.shape)[:, 0]
    rows, columns = np.mgrid[: images.shape[2], : images.shape[3]]
    places = np.stack([rows.ravel(), columns.ravel()], 1)
    filled = []
    for image, seen in zip(images.cpu().numpy(), visible.flatten(1).cpu().numpy(), strict=True):
        values = image.reshape(len(image), -1).T  # (H * W, C)
        output = NearestNDInterpolator(places[seen], values[seen])(places)
        try:
            between = LinearNDInterpolator(places[seen], values[seen])(places)
            output = np.where(np.isnan(between), output, between)
        except QhullError:  # all visible pixels lie on one line
            pass
        filled.append(torch.from_numpy(output.T.reshape(image.shape)))
    return torch.stack(filled).to(images)


class ConditionalMean:
    """The exact linear prediction: the conditional mean of the hidden pixels under a Gaussian model of images.

    ``E[x_h | x_v] = m_h + S_hv S_vv^-1 (x_v - m_v)``, with mean m and covariance S of training images.

    Args:
        images: training images (M, C, H, W) in [0, 1] to fit on.
        patches: grid of patches.
    """

    def __init__(self, images: Tensor, patches: PatchGrid) -> None:
        self.patches = patches
        rows = patches.cut(images).flatten(1).double()  # (M, d), patch by patch
        self.mean = rows.mean(0)
        centred = rows - self.mean
        self.covariance = centred.T @ centred / (len(rows) - 1)
        self.covariance.diagonal().add_(RIDGE)

    def __call__(self, images: Tensor, mask: Tensor, batch: int = 32) -> Tensor:
        """Fill images (M, C, H, W) where ``mask`` (M, P) is True; all must have the same number of visible patches."""
        rows = self.patches.cut(images).flatten(1).double().cpu() - self.mean
        values = rows.shape[1] // self.patches.count
        places = (~mask).cpu().nonzero()[:, 1].view(len(mask), -1, 1) * values + torch.arange(values)
        places = places.flatten(1)  # (M, V * values)
        filled = []
        for part in batches(len(rows), batch):
            seen = places[part]
            among = self.covariance[seen.unsqueeze(2), seen.unsqueeze(1)]
            weights = torch.cholesky_solve(rows[part].gather(1, seen).unsqueeze(2), torch.linalg.cholesky(among))
            at_places = torch.zeros_like(rows[part]).scatter_(1, seen, weights.squeeze(2))
            filled.append(at_places @ self.covariance)  # one product for all masks of the batch
        output = (torch.cat(filled) + self.mean).to(images)
        return self.patches.join(output.view(-1, self.patches.count, values)).clamp(0, 1)


def inpainting_baselines(data: FragmentData, patches: PatchGrid) -> dict[str, Fill]:
    """Return the inpainting baselines by name.

    Args:
        data: data module; the linear prediction is fitted on its training images on first use.
        patches: grid of patches.

    Returns:
        The baselines.
    """

    @cache
    def linear() -> ConditionalMean:
        with progress("fitting the linear prediction"):
            fragments = training_fragments(data, max(1, FITTED // data.cells), "linear prediction")
            return ConditionalMean(fragments, patches)

    return {
        "mean_colour": lambda images, mask: mean_colour(images, mask, patches),
        "bilinear": lambda images, mask: bilinear(images, mask, patches),
        LINEAR: lambda images, mask: linear()(images, mask),
    }
