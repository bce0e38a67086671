"""What any model that fills in masked patches is compared with.

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

from fragrecon import files
from fragrecon.data.module import FixedPuzzles, FragmentData
from fragrecon.data.puzzles import batches, cut, draw_images
from fragrecon.evaluation.clustering.baselines import code, kept_scores
from fragrecon.evaluation.pixels.reconstruction import Fill, Masking, filled, pixels_of
from fragrecon.evaluation.statistics import Scores
from fragrecon.models.base import PatchGrid

FITTED = 50_000
"""Training images, or fragments, that the linear prediction is fitted on at most."""

RIDGE = 1e-4
"""Variance that is added to every pixel, that of rounding to 1/255 and a little more, so that covariances invert."""


def mean_colour(images: Tensor, mask: Tensor, patches: PatchGrid) -> Tensor:
    """Everywhere the mean colour of the visible patches."""
    visible = ~pixels_of(mask, patches, images.shape)
    mean = (images * visible).sum((2, 3), keepdim=True) / visible.sum((2, 3), keepdim=True)
    return mean.expand_as(images)


def bilinear(images: Tensor, mask: Tensor, patches: PatchGrid) -> Tensor:
    """Linear interpolation between visible pixels, over Delaunay's triangles; beyond them the nearest visible pixel."""
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
        except QhullError:  # what is visible lies on one line
            pass
        filled.append(torch.from_numpy(output.T.reshape(image.shape)))
    return torch.stack(filled).to(images)


class ConditionalMean:
    """The exact linear prediction: the mean of the hidden pixels given the visible ones, were images Gaussian.

    ``E[x_h | x_v] = m_h + S_hv S_vv^-1 (x_v - m_v)``, with mean m and covariance S of training images.

    Args:
        images: (M, C, H, W) in 0..1 of the training part, to fit on.
        patches: how they divide.
    """

    def __init__(self, images: Tensor, patches: PatchGrid) -> None:
        self.patches = patches
        rows = patches.of(images).flatten(1).double()  # (M, d), patch by patch
        self.mean = rows.mean(0)
        centred = rows - self.mean
        self.covariance = centred.T @ centred / (len(rows) - 1)
        self.covariance.diagonal().add_(RIDGE)

    def __call__(self, images: Tensor, mask: Tensor, patches: PatchGrid, batch: int = 32) -> Tensor:
        """Fill in; all images have equally many visible patches."""
        rows = patches.of(images).flatten(1).double().cpu() - self.mean
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


class Fillings:
    """The baselines of filling in, on a data set's test puzzles; their scores are kept as those of `Baselines` are.

    Args:
        data: whose puzzles.
        masking: which patches are hidden.
        patches: how images divide into them.
        folder: where scores are kept.
    """

    def __init__(self, data: FragmentData, masking: Masking, patches: PatchGrid, folder: Path) -> None:
        self.data, self.masking, self.patches, self.folder = data, masking, patches, folder

    @property
    def ways(self) -> dict[str, Fill]:
        return {
            "mean_colour": lambda images, mask: mean_colour(images, mask, self.patches),
            "bilinear": lambda images, mask: bilinear(images, mask, self.patches),
            "linear_prediction": lambda images, mask: self.linear(images, mask, self.patches),
        }

    @cached_property
    def linear(self) -> ConditionalMean:
        """Fitted on training images as they are, without augmentation."""
        images, cells = self.data.training_images(), self.data.cells
        count = min(max(1, FITTED // cells), len(images))
        drawn = draw_images(images, 1, 0, count, self.data.puzzle_seed, "linear prediction")
        pixels = torch.from_numpy(self.data.store("train").read(np.sort(drawn.flatten())))
        return ConditionalMean(
            cut(pixels, self.data.config.fragment_shape[1:]).flatten(0, 1).float() / 255, self.patches
        )

    def score(self, puzzles: FixedPuzzles, **how: Any) -> dict[str, dict[str, Scores]]:
        """Scores (puzzles,) by baseline and metric; ``how`` as for `kept_scores`."""
        facts = {
            "stores": [asdict(self.data.store(split).manifest) for split in ("test", "train")],
            "fragment_shape": self.data.config.fragment_shape,
            "images_per_puzzle": self.data.config.images_per_puzzle,
            "puzzle_seed": self.data.puzzle_seed,
            "puzzles": len(puzzles),
            "masking": asdict(self.masking),
            "patches": self.patches.count,
            "code": code(),
        }
        methods = {name: filled(fill, self.masking, self.patches) for name, fill in self.ways.items()}
        paths = {name: self.folder / f"{name}-{files.digest(facts)[:24]}.npz" for name in methods}
        return kept_scores(puzzles, methods, paths, **how)
