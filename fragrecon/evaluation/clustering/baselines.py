"""What every model is compared with, on the same puzzles: chance, pixels, colours, and exact principal components.

Shapes: B puzzles of F fragments (C, h, w), M fragments in all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits
from torch import Tensor

from fragrecon import files
from fragrecon.data.module import FixedPuzzles, FragmentData
from fragrecon.data.puzzles import FragmentBatch, cut, draw_images
from fragrecon.data.store import Split
from fragrecon.errors import DataError
from fragrecon.evaluation.clustering.protocol import ClusteringProtocol, Embed, Score, evaluate
from fragrecon.evaluation.statistics import Scores

log = logging.getLogger(__name__)

VERSION = 1
"""Of cached scores and embeddings; raised with every change of the code that alters what it computes."""

LEVELS = {1: 64, 3: 8}
"""Steps that a colour histogram divides a channel into, by the number of channels."""
COMPONENTS, WHITENED = 128, 3
"""Principal components that are kept: as they are, and brought to equal variance."""
FITTED_IMAGES = 2000
"""Training images that principal components are fitted on."""


def raw_pixels(batch: FragmentBatch) -> Tensor:
    """The fragments' pixel values (B, F, C * h * w)."""
    return batch.fragments.flatten(2)


def colour_histogram(batch: FragmentBatch, levels: int | None = None) -> Tensor:
    """Square roots of the shares (B, F, cells) of a fragment's pixels in each cell of colour space.

    Their Euclidean distance is Hellinger's, up to a factor. Each channel is divided into ``levels`` steps: 8 x 8 x 8
    cells of colours or 64 of grey, if nothing is said.
    """
    puzzles, count, channels, height, width = batch.fragments.shape
    levels = levels or LEVELS[channels]
    level = (batch.fragments * levels).long().clamp_(max=levels - 1)
    weights = levels ** torch.arange(channels, device=level.device)
    cells = (level * weights.view(-1, 1, 1)).sum(2).flatten(2)  # (B, F, h * w)
    shares = torch.zeros(puzzles, count, levels**channels, device=cells.device)
    shares.scatter_add_(2, cells, torch.ones_like(cells, dtype=shares.dtype))
    return (shares / (height * width)).sqrt()


class PrincipalComponents:
    """The leading principal components of the pixels of fragments, exactly.

    Args:
        fragments: (M, C, h, w) to fit on.
        most: components to keep, if the fragments have as many.
    """

    def __init__(self, fragments: Tensor, most: int = COMPONENTS) -> None:
        pixels = fragments.flatten(1).double().numpy()
        keep = min(most, *pixels.shape)
        # By the covariance matrix as long as that is small beside the pixels; by Lanczos steps from then on.
        solver = "covariance_eigh" if pixels.shape[1] <= 1024 or keep == min(pixels.shape) else "arpack"
        with threadpool_limits(torch.get_num_threads()):
            fitted = PCA(keep, svd_solver=solver, random_state=0).fit(pixels)
        self.mean = torch.from_numpy(fitted.mean_)
        self.directions = torch.from_numpy(fitted.components_.T.copy())
        self.deviations = torch.from_numpy(np.sqrt(fitted.explained_variance_))

    def __call__(self, batch: FragmentBatch, count: int = COMPONENTS, whitening: float = 0.0) -> Tensor:
        """Embed the fragments by their ``count`` leading components (B, F, count).

        Args:
            batch: with fragments as float.
            count: components.
            whitening: each component is divided by its deviation to this power; 1 brings them to equal variance.
        """
        pixels = batch.fragments.flatten(2).double()
        mean, directions = self.mean.to(pixels), self.directions[:, :count].to(pixels)
        deviations = self.deviations[:count].to(pixels)
        # Directions in which fragments hardly vary are not blown up.
        scale = deviations.clamp(min=1e-6 * float(deviations.max()) or 1.0) ** -whitening
        return (((pixels - mean) @ directions) * scale).float()


def training_fragments(data: FragmentData) -> Tensor:
    """The fragments (M, C, h, w) in [0, 1] that principal components are fitted on: none of validation images."""
    images = data.training_images()
    count = min(FITTED_IMAGES, len(images))
    drawn = draw_images(images, 1, 0, count, data.puzzle_seed, "principal components")
    pixels = torch.from_numpy(data.store("train").read(np.sort(drawn.flatten())))
    return cut(pixels, data.config.fragment_shape[1:]).flatten(0, 1).float() / 255


class Baselines:
    """The baselines on a data set's test puzzles.

    Their scores are kept on disk, so that the runs of a sweep compute them once. A file is named after all that its
    scores follow from, the code and the packages that computed them included.

    Args:
        data: whose puzzles.
        protocol: how they are scored.
        folder: where scores are kept.
    """

    def __init__(self, data: FragmentData, protocol: ClusteringProtocol, folder: Path) -> None:
        self.data, self.protocol, self.folder = data, protocol, folder

    @property
    def methods(self) -> dict[str, Score]:
        """How each baseline scores a batch; those that need training images are left out where there are none."""

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
            log.warning("no exact principal components beside the model: %s", error)
            return methods
        return methods | {
            "exact_pca": scored(lambda batch: self.components(batch)),
            "whitened_pca": scored(lambda batch: self.components(batch, WHITENED, whitening=1.0)),
        }

    @cached_property
    def components(self) -> PrincipalComponents:
        """Of fragments of training images as they are, without augmentation."""
        return PrincipalComponents(training_fragments(self.data))

    def score(
        self, puzzles: FixedPuzzles, *, condition: str = "", advance: Callable[[int], None], **how: Any
    ) -> dict[str, dict[str, Scores]]:
        """Scores (puzzles,) by baseline and metric, computed where they are not known yet.

        Args:
            puzzles: what to score on.
            condition: name of what is done to the fragments first.
            advance: told how many puzzles are done, for a progress bar.
            how: further arguments of `evaluate`.
        """
        methods = self.methods
        paths = {name: self._path(name, len(puzzles), condition) for name in methods}
        return kept_scores(puzzles, methods, paths, advance=advance, **how)

    def _path(self, method: str, puzzles: int, condition: str) -> Path:
        data, protocol = self.data, self.protocol
        splits: tuple[Split, ...] = ("test", "train") if method.endswith("pca") else ("test",)
        facts = {
            "stores": [asdict(data.store(split).manifest) for split in splits],
            "fragment_shape": data.config.fragment_shape,
            "images_per_puzzle": data.config.images_per_puzzle,
            "puzzle_seed": data.puzzle_seed,
            "puzzles": puzzles,
            "condition": condition,
            "backend": protocol.backend.__name__,
            "restarts": protocol.restarts,
            "seed": protocol.seed,
            "code": code(),
        }
        return self.folder / f"{method}-{files.digest(facts)[:24]}.npz"


def kept_scores(
    puzzles: FixedPuzzles,
    methods: Mapping[str, Score],
    paths: Mapping[str, Path],
    *,
    advance: Callable[[int], None],
    **how: Any,
) -> dict[str, dict[str, Scores]]:
    """Scores (puzzles,) by method and metric: read where they were kept, computed and kept where not.

    Args:
        puzzles: what to score on.
        methods: by name.
        paths: where the scores of each are kept.
        advance: told how many puzzles are done, for a progress bar.
        how: further arguments of `evaluate`.
    """
    known = {name: scores for name, path in paths.items() if (scores := read_kept(path))}
    missing = {name: score for name, score in methods.items() if name not in known}
    if missing:
        for name, scores in evaluate(puzzles, missing, advance=advance, **how).items():
            files.write_arrays(paths[name], scores)
            known[name] = scores
    else:
        advance(len(puzzles))
    return {name: known[name] for name in methods}


def read_kept(path: Path) -> dict[str, Scores] | None:
    """Arrays that were kept, or None where there are none or the file is damaged."""
    try:
        return files.read_arrays(path) if path.is_file() else None
    except (OSError, EOFError, ValueError, BadZipFile) as error:
        log.warning("%s is damaged and computed anew: %s", path, error)
        return None


@cache
def code() -> str:
    """Identifies what cached scores depend on besides their inputs: `VERSION` and the packages that compute them."""
    packages = ("torch", "numpy", "scipy", "scikit-learn", "kmedoids")
    return files.digest([VERSION, [metadata.version(name) for name in packages]])
