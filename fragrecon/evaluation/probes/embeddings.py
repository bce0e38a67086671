"""Embeddings of whole images, in the three parts that a classifier learns from, is chosen by and is reported on.

Shapes: M images (C, H, W) in 0..1, cut into ``cells`` fragments; D numbers an embedding. Where widths are free, models
see images as they are, and what is simpler sees them squeezed to the nominal size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from fragrecon import files
from fragrecon.data.module import FragmentData
from fragrecon.data.puzzles import Indices, cut, fragment_size
from fragrecon.data.store import Split
from fragrecon.data.widths import groups
from fragrecon.errors import TrainingError
from fragrecon.evaluation.clustering import baselines
from fragrecon.evaluation.probes.classifiers import Samples
from fragrecon.models.base import FragmentModel
from fragrecon.seeds import numpy_generator

PARTS: dict[str, Split] = {"training": "train", "validation": "train", "test": "test"}
"""Of the images, and the split that each is of."""

Embed = Callable[[Tensor], Tensor]
"""From images (M, C, H, W), float on the device, to embeddings (M, D)."""

ROUNDING = 1e-10
"""Share of the greatest variance that is taken for none."""

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Embedded:
    """The images of all parts as somebody sees them.

    Attributes:
        training: to learn from.
        validation: to choose by.
        test: to report on.
        key: stands for all that the embeddings follow from, but for the code that computes them.
    """

    training: Samples
    validation: Samples
    test: Samples
    key: str


class WholeImages:
    """The images of a data set, by part.

    Training images come in an order by chance, as a store may hold class after class: the first are a sample of all.

    Attributes:
        ids: of each part, places (M,) in the store of its split.
        labels: of each part, classes (M,), -1 where unknown.

    Args:
        data: whose images.
        most: training images at most.
        at_once: images that are embedded at once.
        device: where.
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
        return sum(map(len, self.ids.values()))

    def by_model(
        self, model: FragmentModel, checkpoint: Path, settings: Mapping[str, Any], advance: Callable[[int], None]
    ) -> Embedded:
        """As a model sees the images, or saw them when that was kept.

        A model of fragments gets each image as a puzzle of its own; the embeddings of its fragments are averaged.

        Args:
            model: in eval mode, on the device.
            checkpoint: the file with its weights.
            settings: of the model.
            advance: told how many images are done.

        Raises:
            TrainingError: the embeddings hold numbers that are not finite.
        """
        facts = {
            "checkpoint": files.file_digest(checkpoint),
            "model": dict(settings),
            "fragment_shape": list(model.fragment_shape),
            **self.facts,
        }

        def embed(images: Tensor) -> Tensor:
            return model.encode(cut(images, fragment_size(images, self.data.grid))).mean(1)

        path = self.data.cache / "embeddings" / f"model-{files.digest([facts, baselines.code()])[:24]}.npz"
        found = kept(path, lambda: self._embed(embed, advance), lambda: advance(len(self)))
        if not all(np.isfinite(part).all() for part in found.values()):
            raise TrainingError("the model's embeddings hold numbers that are not finite; they tell nothing of classes")
        return self._embedded(found, files.digest(facts))

    def by_pixels(self) -> Embedded:
        """As the values of their pixels."""
        return self._embedded(self._embed(lambda images: self._alike(images).flatten(1)), files.digest(self.facts))

    def by_components(self, most: int) -> Embedded:
        """As the leading principal components of the training images, exactly; as many as these have at most."""
        count, pixels = len(self.ids["training"]), math.prod(self.data.config.image_shape)
        path = self.data.cache / "embeddings" / f"exact_pca-{files.digest([self.facts, baselines.code()])[:24]}.npz"
        parts = (self._alike(images) for _, images in self._read("train", self.ids["training"]))
        found = kept(path, lambda: principal_components(parts, count, pixels))
        mean, directions = (torch.from_numpy(found[name]).to(self.device) for name in ("mean", "directions"))
        embeddings = self._embed(lambda images: (self._alike(images).flatten(1) - mean) @ directions[:, :most])
        return self._embedded(embeddings, files.digest([self.facts, most]))

    def _embedded(self, embeddings: Arrays, key: str) -> Embedded:
        parts = {part: Samples(torch.from_numpy(embeddings[part]), self.labels[part]) for part in PARTS}
        return Embedded(**parts, key=key)

    @torch.inference_mode()
    def _embed(self, embed: Embed, advance: Callable[[int], None] = lambda count: None) -> Arrays:
        """Embeddings (M, D) float32 of each part."""
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
        """Images (M, C, H, W) on the device, some at a time, all of one width, with their places (M,) among ``ids``."""
        store = self.data.store(split)
        for places in groups(store.widths[ids], self.at_once):
            yield places, torch.from_numpy(store.read(ids[places])).to(self.device).float().div_(255)

    def _alike(self, images: Tensor) -> Tensor:
        """Images of the nominal size, which all have unless widths are free."""
        size = self.data.config.image_shape[1:]
        return images if images.shape[2:] == size else functional.adaptive_avg_pool2d(images, size)


def principal_components(parts: Iterable[Tensor], count: int, pixels: int) -> Arrays:
    """Mean and principal components of images, by the covariance of their pixels or, where that is smaller, by the
    products of the images with each other.

    Args:
        parts: images (M, C, H, W), part by part.
        count: of all images.
        pixels: P, values of an image.

    Returns:
        ``mean`` (P,) and, as columns, ``directions`` (P, R), that of greatest variance first; R is the number of those
        in which the images vary.
    """
    # Around a half, so that their mean takes few digits from the variance.
    rows = (images.flatten(1).cpu().double() - 0.5 for images in parts)
    if count < pixels:
        whole = torch.cat(list(rows))
        mean = whole.mean(0)
        whole -= mean
        variances, vectors = torch.linalg.eigh(whole @ whole.T)
    else:
        total, products = torch.zeros(pixels).double(), torch.zeros(pixels, pixels).double()
        for some in rows:
            total += some.sum(0)
            products.addmm_(some.T, some)
        mean = total / count
        variances, vectors = torch.linalg.eigh(products - count * torch.outer(mean, mean))
    vectors = vectors[:, variances >= ROUNDING * variances[-1]].flip(1)
    directions = functional.normalize(whole.T @ vectors, dim=0) if count < pixels else vectors
    return {"mean": (mean + 0.5).float().numpy(), "directions": directions.float().numpy()}


def kept(path: Path, compute: Callable[[], Arrays], have: Callable[[], None] = lambda: None) -> Arrays:
    """Arrays that were kept in a file, after a call of ``have``; computed and kept where it is missing or damaged."""
    found = baselines.read_kept(path)
    if found is not None:
        have()
        return found
    found = compute()
    files.write_arrays(path, found)
    return found
