"""Baselines of inpainting: mean colour, interpolation and exact linear prediction.

Shapes: M images (C, H, W) in 0..1 of P patches, of which V are visible; d = C * H * W.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
from scipy.spatial import QhullError
from torch import Tensor

from fragrecon.data.module import FixedPuzzles, FragmentData
from fragrecon.data.puzzles import batches, cut, draw_images
from fragrecon.evaluation.cache import cache_path, cached_scores, puzzle_facts
from fragrecon.evaluation.pixels.reconstruction import Fill, Masking, filled, pixels_of
from fragrecon.evaluation.statistics import Scores
from fragrecon.models.base import PatchGrid

FITTED = 50_000
"""Greatest number of training images, or fragments, that the linear prediction is fitted on."""

RIDGE = 1e-4
"""Variance added to every pixel, a little more than that of rounding to 1/255, so that covariances can be inverted."""


def mean_colour(images: Tensor, mask: Tensor, patches: PatchGrid) -> Tensor:
    """Fill images (M, C, H, W) with the mean colour of their visible patches."""
    visible = ~pixels_of(mask, patches, images.shape)
    mean = (images * visible).sum((2, 3), keepdim=True) / visible.sum((2, 3), keepdim=True)
    return mean.expand_as(images)


def bilinear(images: Tensor, mask: Tensor, patches: PatchGrid) -> Tensor:
    """Fill masked pixels by linear interpolation on the Delaunay triangulation of the visible pixels.

    Outside of the triangulation, the nearest visible pixel is copied.

    Returns:
        Images, (M, C, H, W).
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
        images: training images (M, C, H, W) in 0..1 to fit on.
        patches: grid of patches.
    """

    def __init__(self, images: Tensor, patches: PatchGrid) -> None:
        self.patches = patches
        rows = patches.cut(images).flatten(1).double()  # (M, d), patch by patch
        self.mean = rows.mean(0)
        centred = rows - self.mean
        self.covariance = centred.T @ centred / (len(rows) - 1)
        self.covariance.diagonal().add_(RIDGE)

    def __call__(self, images: Tensor, mask: Tensor, patches: PatchGrid, batch: int = 32) -> Tensor:
        """Fill images (M, C, H, W) where ``mask`` (M, P) is True; all images have equally many visible patches."""
        rows = patches.cut(images).flatten(1).double().cpu() - self.mean
        values = rows.shape[1] // patches.count
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
        return patches.join(output.view(-1, patches.count, values)).clamp(0, 1)


class InpaintingBaselines:
    """The baselines of inpainting on a data set's test puzzles; their scores are cached.

    Args:
        data: data whose test puzzles are scored.
        masking: masks of the test images.
        patches: grid of patches.
        folder: folder of the cached scores.
    """

    def __init__(self, data: FragmentData, masking: Masking, patches: PatchGrid, folder: Path) -> None:
        self.data, self.masking, self.patches, self.folder = data, masking, patches, folder

    @property
    def methods(self) -> dict[str, Fill]:
        """Baselines by name."""
        return {
            "mean_colour": lambda images, mask: mean_colour(images, mask, self.patches),
            "bilinear": lambda images, mask: bilinear(images, mask, self.patches),
            "linear_prediction": lambda images, mask: self.linear(images, mask, self.patches),
        }

    @cached_property
    def linear(self) -> ConditionalMean:
        """Linear prediction fitted on training images, without augmentation."""
        images, cells = self.data.training_images(), self.data.cells
        count = min(max(1, FITTED // cells), len(images))
        drawn = draw_images(images, 1, 0, count, self.data.puzzle_seed, "linear prediction")
        pixels = torch.from_numpy(self.data.store("train").read(np.sort(drawn.flatten())))
        return ConditionalMean(
            cut(pixels, self.data.config.fragment_shape[1:]).flatten(0, 1).float() / 255, self.patches
        )

    def score(self, puzzles: FixedPuzzles, **settings: Any) -> dict[str, dict[str, Scores]]:
        """Score the baselines on puzzles, or read their scores from the cache.

        Args:
            puzzles: puzzles to score on.
            settings: further arguments of `cached_scores`.

        Returns:
            Scores (puzzles,) by baseline and metric.
        """
        facts = {
            **puzzle_facts(self.data, len(puzzles), ("test", "train")),
            "masking": asdict(self.masking),
            "patches": self.patches.count,
        }
        scores = {name: filled(fill, self.masking, self.patches) for name, fill in self.methods.items()}
        return cached_scores(
            puzzles, scores, {name: cache_path(self.folder, name, facts) for name in scores}, **settings
        )
