"""Puzzles and data sets to score on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fragrecon.config.schema import DataConfig
from fragrecon.data.module import FragmentData
from fragrecon.data.puzzles import FragmentBatch
from fragrecon.data.store import Block, Source, Split
from fragrecon.errors import DataError
from tests import layouts

CPU = torch.device("cpu")


class Pictures:
    """A reader of pictures made on the spot.

    Args:
        shape: (C, H, W).
        train: images; there is no such split without them.
        test: images.
        seed: of all pictures.
    """

    def __init__(
        self, shape: tuple[int, int, int] = (3, 32, 32), train: int = 60, test: int = 60, seed: int = 0
    ) -> None:
        self.shape, self.seed, self.counts = shape, seed, {"train": train, "test": test}

    def source(self, split: Split) -> Source:
        if not self.counts[split]:
            raise DataError(f"there is no {split} split")
        return Source({"split": split, "seed": self.seed, **self.counts}, self.counts[split], ("one", "two"))

    def blocks(self, split: Split) -> Iterator[Block]:
        yield layouts.block(self.counts[split], self.shape, 2, seed=2 * self.seed + (0 if split == "train" else 1))


def config_of(reader: Pictures, cache: Path, **changes: Any) -> DataConfig:
    values: dict[str, Any] = {
        "name": "pictures",
        "reader": {},
        "root": None,
        "image_size": list(reader.shape[1:]),
        "channels": reader.shape[0],
        "fragment_size": 8,
        "images_per_puzzle": 4,
        "puzzles_per_batch": 2,
        "batches_per_epoch": None,
        "epochs": 1,
        "cache_dir": str(cache),
        "augment": {},
    }
    return DataConfig(**values | changes)


def data_of(cache: Path, reader: Pictures | None = None, puzzle_seed: int = 0, **changes: Any) -> FragmentData:
    """A data module of small pictures; keywords change the ``data`` section."""
    reader = reader or Pictures()
    config = config_of(reader, cache, **changes)
    return FragmentData(config, reader, seed=0, puzzle_seed=puzzle_seed, validation_puzzles=2)


def puzzles(count: int, images: int = 10, cells: int = 16, seed: int = 0) -> FragmentBatch:
    """Puzzles whose fragments are a random pixel each."""
    random = torch.Generator().manual_seed(seed)
    orders = torch.stack([torch.randperm(images * cells, generator=random) for _ in range(count)])
    fragments = torch.rand(count, images * cells, 3, 1, 1, generator=random)
    return batch_of(fragments, orders // cells, orders % cells, seed)


def batch_of(
    fragments: Tensor, sources: Tensor | None = None, positions: Tensor | None = None, step: int = 0
) -> FragmentBatch:
    """A batch of these fragments (B, F, C, h, w), of two images in turn if nothing else is said."""
    places = torch.arange(fragments.shape[1]).expand(fragments.shape[:2])
    sources = places % 2 if sources is None else sources
    positions = places // 2 if positions is None else positions
    images, count = int(sources.max()) + 1, len(sources)
    ids = torch.arange(count * images).view(count, images)
    zeros = torch.zeros_like(sources)
    return FragmentBatch(fragments, sources, positions, zeros, zeros, ids, step)


def one_hot(batch: FragmentBatch) -> Tensor:
    """Embeddings that are perfect."""
    return F.one_hot(batch.source_ids, batch.images_per_puzzle).float()


def noisy(batch: FragmentBatch, share: float = 0.3) -> Tensor:
    """Embeddings in clear clusters, which are those of the sources but for a share of the fragments."""
    random = torch.Generator().manual_seed(3)
    other = torch.randint(batch.images_per_puzzle, batch.source_ids.shape, generator=random)
    seen = torch.where(torch.rand(other.shape, generator=random) < share, other, batch.source_ids)
    tight = 0.01 * torch.randn(*other.shape, batch.images_per_puzzle, generator=random)
    return F.one_hot(seen, batch.images_per_puzzle) + tight


def alone_of(batch: FragmentBatch, puzzle: int) -> FragmentBatch:
    """A puzzle as a batch of its own."""
    own = slice(puzzle, puzzle + 1)
    return FragmentBatch(
        batch.fragments[own],
        batch.source_ids[own],
        batch.positions[own],
        batch.rotations[own],
        batch.labels[own],
        batch.image_ids[own],
        batch.step + puzzle,
    )
