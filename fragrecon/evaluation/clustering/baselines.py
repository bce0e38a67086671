"""Baselines of clustering on the same puzzles: chance, raw pixels, colours and exact principal components.

Shapes: B puzzles of F fragments (C, h, w), M fragments in all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fragrecon.data.module import FixedPuzzles, FragmentData
from fragrecon.data.puzzles import FragmentBatch, cut, draw_images
from fragrecon.errors import DataError
from fragrecon.evaluation.cache import cached_scores
from fragrecon.evaluation.clustering.protocol import ClusteringProtocol, Embed, Score
from fragrecon.evaluation.components import PrincipalComponents
from fragrecon.evaluation.statistics import Scores
from fragrecon.progress import progress

log = logging.getLogger(__name__)

LEVELS = {1: 64, 3: 8}
"""Bins per channel of the colour histogram, by the number of channels."""
COMPONENTS, WHITENED = 128, 3
"""Number of principal components of the baselines ``exact_pca`` and ``whitened_pca``."""
FITTED_IMAGES = 2000
"""Maximum number of training images that principal components are fitted on."""
FITTED = ("exact_pca", "whitened_pca")
"""Baselines that are fitted on training images."""


def raw_pixels(batch: FragmentBatch) -> Tensor:
    """Return the pixel values of the fragments, (B, F, C * h * w)."""
    return batch.fragments.flatten(2)


def colour_histogram(batch: FragmentBatch, levels: int | None = None) -> Tensor:
    """Return the square roots of the fragments' colour histograms; their Euclidean distance is the Hellinger distance
    up to a factor.

    Args:
        batch: batch with float fragments.
        levels: bins per channel; by default 8 for colour and 64 for grey.

    Returns:
        Embeddings (B, F, levels**C).
    """
    puzzles, count, channels, height, width = batch.fragments.shape
    levels = levels or LEVELS[channels]
    level = (batch.fragments * levels).long().clamp_(max=levels - 1)
    weights = levels ** torch.arange(channels, device=level.device)
    cells = (level * weights.view(-1, 1, 1)).sum(2).flatten(2)  # (B, F, h * w)
    shares = torch.zeros(puzzles, count, levels**channels, device=cells.device)
    shares.scatter_add_(2, cells, torch.ones_like(cells, dtype=shares.dtype))
    return (shares / (height * width)).sqrt()


def training_fragments(data: FragmentData, most: int = FITTED_IMAGES, purpose: str = "principal components") -> Tensor:
    """Return fragments of training images, without augmentation, for fitting baselines.

    Args:
        data: data module.
        most: maximum number of images.
        purpose: name that seeds the random choice of images.

    Returns:
        Fragments (M, C, h, w) in [0, 1].
    """
    images = data.training_images()
    drawn = draw_images(images, 1, 0, min(most, len(images)), data.puzzle_seed, purpose)
    pixels = torch.from_numpy(data.store("train").read(np.sort(drawn.flatten())))
    return cut(pixels, data.config.fragment_shape[1:]).flatten(0, 1).float() / 255


class Baselines:
    """The baselines on the test puzzles of a data set, with cached scores.

    Args:
        data: data whose test puzzles are scored.
        protocol: clustering protocol.
        folder: cache folder.
    """

    def __init__(self, data: FragmentData, protocol: ClusteringProtocol, folder: Path) -> None:
        self.data, self.protocol, self.folder = data, protocol, folder

    @property
    def methods(self) -> dict[str, Score]:
        """Scoring functions by baseline; those that need training images are omitted if there are none."""

        def scored(embed: Embed) -> Score:
            return lambda batch: self.protocol.score_fully(embed(batch), batch)

        methods: dict[str, Score] = {
            "random": self.protocol.score_random,
            "raw_pixels": scored(raw_pixels),
            "colour_histogram": scored(colour_histogram),
        }
        try:
            self.data.store("train")
        except DataError as error:
            log.warning("the baselines of principal components are skipped: %s", error)
            return methods
        return methods | {
            "exact_pca": scored(lambda batch: self.components(raw_pixels(batch), COMPONENTS).float()),
            "whitened_pca": scored(lambda batch: self.components(raw_pixels(batch), WHITENED, whitening=1.0).float()),
        }

    @cached_property
    def components(self) -> PrincipalComponents:
        """Principal components of the pixels of training fragments, without augmentation."""
        with progress("fitting principal components"):
            return PrincipalComponents(training_fragments(self.data).flatten(1), COMPONENTS)

    def score(
        self, puzzles: FixedPuzzles, *, condition: str = "", advance: Callable[[int], None], **settings: Any
    ) -> dict[str, dict[str, Scores]]:
        """Score the baselines on puzzles, or read their scores from the cache.

        Args:
            puzzles: puzzles to score on.
            condition: name of the change to the fragments, if any.
            advance: called with the number of puzzles done, for a progress bar.
            settings: further arguments of `evaluate`.

        Returns:
            Scores (puzzles,) by baseline and metric.
        """
        facts = {
            "condition": condition,
            "backend": self.protocol.backend.name,
            "restarts": self.protocol.restarts,
            "seed": self.protocol.seed,
            "estimate_count": self.protocol.estimate_count,
        }
        return cached_scores(puzzles, self.methods, self.folder, facts, fitted=FITTED, advance=advance, **settings)
