"""Embeddings of whole images, in the three parts that probes are trained, selected and tested on.

Shapes: M images (C, H, W) in [0, 1], cut into ``cells`` fragments; D dimensions of an embedding. If widths are
variable, models get images in their own size, and baselines get them resized to the nominal size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fragrecon import files
from fragrecon.data.module import FragmentData
from fragrecon.data.puzzles import Indices, cut, fragment_size
from fragrecon.data.store import Split
from fragrecon.data.widths import groups
from fragrecon.errors import TrainingError
from fragrecon.evaluation.cache import Arrays, cache_path, cached_arrays
from fragrecon.evaluation.components import components_of_parts
from fragrecon.evaluation.probes.base import Advance, Samples
from fragrecon.models.base import FragmentModel
from fragrecon.seeds import numpy_generator

PARTS: dict[str, Split] = {"training": "train", "validation": "train", "test": "test"}
"""The split of each part."""

Embed = Callable[[Tensor], Tensor]
"""Maps float images (M, C, H, W) on the device to embeddings (M, D)."""


@dataclass(frozen=True)
class Embedded:
    """Embeddings of all parts.

    Attributes:
        training: training images.
        validation: validation images.
        test: test images.
        key: hash of everything that the embeddings depend on, except the code that computes them.
    """

    training: Samples
    validation: Samples
    test: Samples
    key: str


class WholeImages:
    """The images of a data set, by part.

    Training images are shuffled, so that the first ones are a sample of all, even if a store is sorted by class.

    Attributes:
        ids: indices (M,) of each part in the store of its split.
        labels: classes (M,) of each part, -1 if unknown.
        facts: facts about the data that the embeddings depend on, for `cache_path`.

    Args:
        data: data whose images are embedded.
        most: maximum number of training images; None for all.
        at_once: images per batch.
        device: device to embed on.
    """

    def __init__(self, data: FragmentData, most: int | None, *, at_once: int, device: torch.device) -> None:
        self.data, self.at_once, self.device = data, at_once, device
        order = numpy_generator(data.puzzle_seed, "probe images").permutation(data.training_images())
        self.ids: dict[str, Indices] = {
            "training": order[:most],
            "validation": data.validation_images(),
            "test": np.arange(len(data.store("test"))),
        }
        self.labels = {part: torch.from_numpy(data.store(PARTS[part]).labels[ids]) for part, ids in self.ids.items()}
        self.facts = {
            "stores": [asdict(data.store(split).manifest) for split in ("train", "test")],
            "training_images": len(self.ids["training"]),
            "seed": data.puzzle_seed,
        }

    def __len__(self) -> int:
        """Number of images in all parts."""
        return sum(map(len, self.ids.values()))

    def by_model(
        self, model: FragmentModel, checkpoint: Path, settings: Mapping[str, Any], advance: Advance = lambda count: None
    ) -> Embedded:
        """Embed the images with a model, or read the embeddings from the cache.

        Each image is a separate puzzle; the embeddings of its fragments are averaged.

        Args:
            model: model in eval mode, on the device.
            checkpoint: file with its weights.
            settings: ``model`` section of the config.
            advance: called with the number of images done, for a progress bar.

        Returns:
            The embeddings.

        Raises:
            TrainingError: an embedding is not finite.
        """
        facts = {
            "checkpoint": files.file_digest(checkpoint),
            "model": dict(settings),
            "fragment_shape": list(model.fragment_shape),
            **self.facts,
        }

        def embed(images: Tensor) -> Tensor:
            return model.encode(cut(images, fragment_size(images, self.data.grid))).mean(1)

        path = cache_path(self.data.cache / "embeddings", "model", facts)
        found = cached_arrays(path, lambda: self._embed(embed, advance), lambda: advance(len(self)))
        if not all(np.isfinite(part).all() for part in found.values()):
            raise TrainingError("the model's embeddings are not finite; no probe can be trained on them")
        return self._embedded(found, files.digest(facts))

    def by_pixels(self) -> Embedded:
        """Return the pixel values as embeddings."""
        return self._embedded(self._embed(lambda images: self._resized(images).flatten(1)), files.digest(self.facts))

    def by_components(self, most: int) -> Embedded:
        """Embed the images with exact principal components of the training images.

        Args:
            most: maximum number of components.

        Returns:
            The embeddings.
        """
        count, pixels = len(self.ids["training"]), math.prod(self.data.config.image_shape)
        path = cache_path(self.data.cache / "embeddings", "exact_pca", self.facts)

        def fit() -> Arrays:
            parts = (self._resized(images).flatten(1) for _, images in self._read("train", self.ids["training"]))
            mean, directions = components_of_parts(parts, count, pixels)
            return {"mean": mean.numpy(), "directions": directions.numpy()}

        found = cached_arrays(path, fit)
        mean, directions = (torch.from_numpy(found[name]).to(self.device) for name in ("mean", "directions"))
        embeddings = self._embed(lambda images: (self._resized(images).flatten(1) - mean) @ directions[:, :most])
        return self._embedded(embeddings, files.digest([self.facts, most]))

    def _embedded(self, embeddings: Arrays, key: str) -> Embedded:
        parts = {part: Samples(torch.from_numpy(embeddings[part]), self.labels[part]) for part in PARTS}
        return Embedded(**parts, key=key)

    @torch.inference_mode()
    def _embed(self, embed: Embed, advance: Callable[[int], None] = lambda count: None) -> Arrays:
        """Return embeddings (M, D) float32 of each part."""
        found = {}
        for part, split in PARTS.items():
            places, pieces = [], []
            for own, images in self._read(split, self.ids[part]):
                places.append(own)
                pieces.append(embed(images).float().cpu().numpy())
                advance(len(images))
            found[part] = np.concatenate(pieces)[np.argsort(np.concatenate(places))]
        return found

    def _read(self, split: Split, ids: Indices) -> Iterator[tuple[Indices, Tensor]]:
        """Yield batches of images (M, C, H, W) of one width on the device, with their positions (M,) in ``ids``."""
        store = self.data.store(split)
        for places in groups(store.widths[ids], self.at_once):
            yield places, torch.from_numpy(store.read(ids[places])).to(self.device).float().div_(255)

    def _resized(self, images: Tensor) -> Tensor:
        """Resize images to the nominal size, if widths are variable."""
        size = self.data.config.image_shape[1:]
        return images if images.shape[2:] == size else functional.adaptive_avg_pool2d(images, size)
