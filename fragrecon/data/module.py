"""The LightningDataModule: turns stores of splits into batches of puzzles, prefetched by a background thread."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import numpy as np
import platformdirs
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.utilities import rank_zero_only

from fragrecon.data import augment, puzzles
from fragrecon.data.batches import Accumulation, Batches, Start, batches_per_step, check_share
from fragrecon.data.corruption import Corruption
from fragrecon.data.puzzles import FragmentBatch, Indices
from fragrecon.data.store import Reader, Split, Store, open_or_build
from fragrecon.data.widths import TrainingGroups, commonest, groups
from fragrecon.errors import ConfigError, DataError
from fragrecon.seeds import numpy_generator, torch_generator

if TYPE_CHECKING:
    from fragrecon.config.schema import DataConfig

log = logging.getLogger(__name__)


class FragmentData(pl.LightningDataModule):
    """Training, validation and test puzzles of one data set.

    Args:
        config: the ``data`` section of the configuration.
        reader: reader of the source.
        seed: seed of the run, for the training puzzles and their augmentation.
        puzzle_seed: seed of the evaluation, for the validation and test puzzles; independent of the run's seed.
        validation_puzzles: number of puzzles scored per validation.
    """

    def __init__(
        self, config: DataConfig, reader: Reader, seed: int, puzzle_seed: int, validation_puzzles: int
    ) -> None:
        super().__init__()
        self.config, self.reader, self.seed = config, reader, seed
        self.puzzle_seed, self.validation_puzzles = puzzle_seed, validation_puzzles
        self.grid = puzzles.grid_of(config.image_shape[1:], config.fragment_shape[1:])
        self.strength = augment.Augmentation(**config.augment)
        self.corruption = Corruption(**config.corruption or {})
        self._stores: dict[Split, Store] = {}
        self.start = Start()

    @property
    def cache(self) -> Path:
        """Folder of the stores and of other results shared by all runs."""
        given = self.config.cache_dir
        cache = Path(given) if given else platformdirs.user_cache_path("fragrecon")
        return cache.expanduser().absolute()

    def variant(self, **changes: Any) -> FragmentData:
        """Return a copy with some ``data`` settings changed; it shares the opened stores."""
        config = dataclasses.replace(self.config, **changes)
        other = FragmentData(config, self.reader, self.seed, self.puzzle_seed, self.validation_puzzles)
        other._stores = self._stores
        return other

    def side_by_side(self, count: int) -> FragmentData:
        """Return data whose puzzles hold several images, so that pictures can show them side by side.

        If puzzles hold one image each, this is a copy with up to ``count`` images of equal width per puzzle.
        """
        if self.config.images_per_puzzle > 1:
            return self
        return self.variant(images_per_puzzle=min(count, len(self.alike("train", self.validation_images()))))

    def alike(self, split: Split, images: Indices) -> Indices:
        """Select the images of the most common width from the given images of a split; all if the width is fixed."""
        return images[commonest(self.store(split).widths[images])] if self.config.variable_width else images

    @property
    def cells(self) -> int:
        """Number of fragments per image."""
        return self.grid[0] * self.grid[1]

    def store(self, split: Split) -> Store:
        """Return the store of a split; it is opened (and built, if necessary) on first use.

        Raises:
            DataError: the splits have different classes, so their labels do not mean the same.
        """
        if split not in self._stores:
            store = open_or_build(self.reader, self.config.name, split, self.cache)
            for other in self._stores.values():
                if None not in (names := {store.manifest.classes, other.manifest.classes}) and len(names) > 1:
                    raise DataError(
                        f"the train and test images of data={self.config.name} have different classes or another order "
                        "of them, so the same label means two things; get both splits from the same source"
                    )
            self._stores[split] = store
        return self._stores[split]

    @rank_zero_only
    def warn_if_lossy(self) -> None:
        """Warn if images of the opened splits are lossy files of the size at which they are cut; to be called once."""
        found = [store.manifest for store in self._stores.values() if store.manifest.lossy]
        if found and self.cells > 1:
            log.warning(
                "%s images of %s are JPEG or lossy WebP files of the size at which they are cut, so colours at a "
                "border contain those of the neighbouring fragment: the scores of models that compare borders are too "
                "high; use larger or lossless files, or see data.augment.compression",
                *(" and ".join(f"{one.lossy} of {one.count} {one.split}" for one in found), self.config.name),
            )

    def training_images(self) -> Indices:
        """Return the indices of the training images, without those held out for validation."""
        return puzzles.split_train_validation(len(self.store("train")))[0]

    def validation_images(self) -> Indices:
        """Return the indices of the training images that are held out for validation."""
        return puzzles.split_train_validation(len(self.store("train")))[1]

    def check(self) -> None:
        """Open the training images and raise errors that would otherwise occur during the job.

        Raises:
            DataError: the split is missing, malformed or has fewer images than one puzzle needs.
            ConfigError: an epoch would have no batch, or the corruptions cannot be applied to the fragments.
        """
        per_puzzle = self.config.images_per_puzzle
        channels, height, nominal = self.config.fragment_shape
        for width in np.unique(self.store("train").widths).tolist() if self.config.variable_width else [nominal]:
            self.corruption.check((channels, height, width))
        puzzles.draw_images(self.validation_images(), per_puzzle, 0, 1, 0, "validation")
        puzzles.draw_images(self.training_images(), per_puzzle, 0, 1, 0, "train")
        if self.batches_per_epoch == 0:
            raise ConfigError(
                f"data.puzzles_per_batch={self.config.puzzles_per_batch} puzzles of "
                f"data.images_per_puzzle={per_puzzle} images need more than the {len(self.training_images())} training "
                "images; lower one of the two, or set data.batches_per_epoch"
            )
        if self.config.images_range and len(self.training_images()) < per_puzzle * self.config.puzzles_per_batch:
            raise DataError(
                f"with data.images_range, a batch needs {per_puzzle * self.config.puzzles_per_batch} different "
                f"training images, but there are {len(self.training_images())}; set data.puzzles_per_batch lower"
            )

    def check_test(self, test_puzzles: int) -> None:
        """Check that the test split has enough images, unless no test puzzles are scored."""
        if test_puzzles:
            puzzles.draw_images(np.arange(len(self.store("test"))), self.config.images_per_puzzle, 0, 1, 0, "test")

    def epoch_length(self, limit: int | float) -> int:
        """Return the batches per epoch under Lightning's ``limit_train_batches``, a number of batches or a share."""
        return min(limit, self.batches_per_epoch) if isinstance(limit, int) else int(self.batches_per_epoch * limit)

    @property
    def batches_per_epoch(self) -> int:
        """Global batches per epoch; by default one pass over the training images."""
        if self.config.batches_per_epoch is not None:
            return self.config.batches_per_epoch
        if self.config.variable_width:
            return self._groups.per_pass
        return len(self.training_images()) // (self.config.images_per_puzzle * self.config.puzzles_per_batch)

    def train_batch(self, number: int, rank: int = 0, world_size: int = 1) -> FragmentBatch:
        """Return a rank's share of a training batch.

        A pure function of the run's seed and the arguments. Every rank draws the global batch and takes its
        slice, so a step uses the same images for any number of ranks, except with ``data.images_range``: each rank
        then drops the images of its slice that do not fill a puzzle.

        Args:
            number: batch number, counted from the start of training.
            rank: rank of the process.
            world_size: number of processes.

        Returns:
            The batch, with uint8 fragments.

        Raises:
            ConfigError: the batch cannot be shared equally by the processes.
        """
        config = self.config
        check_share(config, world_size)
        most, ids = config.puzzles_per_batch * config.images_per_puzzle, self._drawn(number, world_size)
        share = len(ids) // world_size
        part = slice(rank * share, (rank + 1) * share)
        per_puzzle = self._images_of(number)
        rows = share // per_puzzle  # puzzles of a rank; with a range, some of its images may be dropped
        own = slice(rank * rows, (rank + 1) * rows)

        generator = numpy_generator(self.seed, "orders/train", number)
        orders = puzzles.draw_orders(rows * world_size, per_puzzle * self.cells, generator)
        draws = augment.draw(most, self.strength, torch_generator(self.seed, "augment", number))

        ids = ids[part][: rows * per_puzzle].reshape(rows, per_puzzle)
        pixels, labels = self._read("train", ids)
        drawn = draws[part][: rows * per_puzzle]
        varied = augment.apply(pixels.flatten(0, 1), drawn, self.strength).view_as(pixels)
        size = puzzles.fragment_size(varied, self.grid)
        batch = puzzles.make_batch(varied, labels, torch.from_numpy(ids), torch.from_numpy(orders[own]), size, number)
        return self.corruption.apply(batch, self.seed, number * most + own.start)

    def _drawn(self, number: int, world_size: int) -> Indices:
        """Return the image indices (M,) of a global training batch.

        With variable width, all images of a batch have the same width; rare widths give smaller batches. Indices are
        repeated to make the batch divisible by the number of ranks.
        """
        config, images = self.config, self.training_images()
        if config.variable_width:
            ids = images[self._groups[number]]
            return np.resize(ids, -(-len(ids) // world_size) * world_size)
        each, count = config.images_per_puzzle, config.puzzles_per_batch
        return puzzles.draw_images(images, each, number * count, count, self.seed, "train", group=count).reshape(-1)

    @cached_property
    def _groups(self) -> TrainingGroups:
        """Groups of training images of equal width, for variable width."""
        widths = self.store("train").widths[self.training_images()]
        return TrainingGroups(widths, self.config.puzzles_per_batch, self.seed)

    def _images_of(self, number: int) -> int:
        """Number of images per puzzle of a training batch; drawn log-uniformly if ``images_range`` is set."""
        if self.config.images_range is None:
            return self.config.images_per_puzzle
        least, most = self.config.images_range
        drawn = numpy_generator(self.seed, "images a puzzle", number).uniform()
        return int(least * ((most + 1) / least) ** drawn)

    def validation_set(self) -> FixedPuzzles:
        """Return the validation puzzles."""
        return FixedPuzzles(self, "train", self.validation_images(), self.validation_puzzles, "validation")

    def test_set(self, count: int) -> FixedPuzzles:
        """Return the first ``count`` test puzzles."""
        return FixedPuzzles(self, "test", np.arange(len(self.store("test"))), count, "test")

    def _read(self, split: Split, ids: Indices) -> tuple[torch.Tensor, torch.Tensor]:
        """Read images (B, N, C, H, W) uint8 and their labels (B, N)."""
        store = self.store(split)
        images = torch.from_numpy(store.read(ids.reshape(-1)))
        return images.view(*ids.shape, *images.shape[1:]), torch.from_numpy(store.labels[ids])

    def train_dataloader(self) -> Iterable[FragmentBatch]:
        """Return the remaining batches of the current epoch; called by Lightning."""
        trainer = self.trainer
        assert trainer is not None
        accumulation, per_epoch = accumulation_of(trainer), self.epoch_length(trainer.limit_train_batches)

        def numbers() -> range:
            """Remaining batch numbers of the current epoch."""
            epoch, step = self.start.place(trainer.global_step, per_epoch, accumulation)
            begun = step * batches_per_step(accumulation, epoch)
            return range(epoch * per_epoch + begun, (epoch + 1) * per_epoch)

        def make(number: int) -> FragmentBatch:
            return self._pinned(self.train_batch(number, trainer.global_rank, trainer.world_size))

        return Batches(make, numbers, per_epoch)

    def val_dataloader(self) -> Iterable[FragmentBatch]:
        """Return batches of the validation puzzles; called by Lightning."""
        trainer = self.trainer
        assert trainer is not None
        validation = self.validation_set()
        return validation.loader(self.config.puzzles_per_batch, trainer.global_rank, trainer.world_size, self._pinned)

    def transfer_batch_to_device(
        self, batch: FragmentBatch, device: torch.device, dataloader_idx: int
    ) -> FragmentBatch:
        """Copy a batch to the device without waiting for it, which Lightning does for tensors only."""
        return batch.to(device, non_blocking=device.type == "cuda")

    def on_after_batch_transfer(self, batch: FragmentBatch, dataloader_idx: int) -> FragmentBatch:
        """Convert the fragments to floats; called by Lightning on the device."""
        return batch.as_float()

    def _pinned(self, batch: FragmentBatch) -> FragmentBatch:
        assert self.trainer is not None
        return batch.pin_memory() if self.trainer.strategy.root_device.type == "cuda" else batch


def accumulation_of(trainer: pl.Trainer) -> Accumulation:
    """Return the batches per optimizer step of a trainer, or their schedule."""
    callbacks = cast(Any, trainer).callbacks  # missing from its annotations
    schedules = (found for found in callbacks if isinstance(found, GradientAccumulationScheduler))
    schedule = next(schedules, None)
    return schedule.scheduling if schedule else trainer.accumulate_grad_batches


class FixedPuzzles:
    """Fixed evaluation puzzles, independent of batch size, generated on access.

    They depend only on the seed of the evaluation, the available images, and the numbers of images and fragments.

    With variable width, single-image puzzles are sorted by width and multi-image puzzles use only the most common
    width. Single-image puzzles never repeat an image.

    Args:
        data: data module that provides the images.
        split: split of the images.
        available: indices of the images to draw from.
        count: number of puzzles.
        purpose: purpose of the puzzles; it seeds the draws.
    """

    def __init__(self, data: FragmentData, split: Split, available: Indices, count: int, purpose: str) -> None:
        together = data.config.images_per_puzzle > 1
        self.available = data.alike(split, available) if together else available
        self.count = count if together else min(count, len(available))
        self.data, self.split, self.purpose = data, split, purpose

    def __len__(self) -> int:
        return self.count

    def parts(self, size: int) -> list[slice]:
        """Divide the puzzles into slices of at most ``size`` that can be read together."""
        if not self.data.config.variable_width:
            return list(puzzles.batches(self.count, size))
        return [slice(int(group[0]), int(group[-1]) + 1) for group in groups(self._by_width[2], size)]

    def read(self, part: slice) -> FragmentBatch:
        """Return the puzzles of a slice; with variable width, the slice must be one of `parts`."""
        data, (first, last, _) = self.data, part.indices(self.count)
        if data.config.variable_width:
            ids, orders = (values[first:last] for values in self._by_width[:2])
        else:
            ids, orders = self._draw(first, max(0, last - first))
        images, labels = data._read(self.split, ids)
        size = puzzles.fragment_size(images, data.grid)
        return puzzles.make_batch(images, labels, torch.from_numpy(ids), torch.from_numpy(orders), size, step=first)

    def _draw(self, first: int, count: int) -> tuple[Indices, Indices]:
        """Draw images (count, N) and orders (count, F)."""
        data = self.data
        per_puzzle, seed = data.config.images_per_puzzle, data.puzzle_seed
        return puzzles.fixed_puzzles(self.available, first, count, per_puzzle, data.cells, seed, self.purpose)

    @cached_property
    def _by_width(self) -> tuple[Indices, Indices, Indices]:
        """Images (count, N), orders (count, F) and widths (count,) of all puzzles, by ascending width."""
        ids, orders = self._draw(0, self.count)
        widths = self.data.store(self.split).widths[ids[:, 0]]
        order = np.argsort(widths, kind="stable")
        return ids[order], orders[order], widths[order]

    def loader(
        self,
        size: int,
        rank: int = 0,
        world_size: int = 1,
        finish: Callable[[FragmentBatch], FragmentBatch] = lambda batch: batch,
    ) -> Batches:
        """Return the rank's share of all puzzles in batches, which are distributed over the ranks in turn.

        Every rank gets the same number of batches, because ranks wait for each other; the last ones may be empty.

        Args:
            size: maximum number of puzzles in a batch.
            rank: rank of the process.
            world_size: number of processes.
            finish: function that is applied to each batch.

        Returns:
            The batches of the rank.
        """
        parts = self.parts(size)
        length = -(-len(parts) // world_size)
        parts += [slice(len(self), len(self))] * (length * world_size - len(parts))

        def make(index: int) -> FragmentBatch:
            return finish(self.read(parts[index * world_size + rank]))

        return Batches(make, lambda: range(length), length)
