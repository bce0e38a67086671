"""Cut whole images into fragments and shuffle them into puzzles: pure functions of a seed and a position.

Shapes: B puzzles, N images in a puzzle, cells = rows * columns of the grid, F = N * cells fragments in a puzzle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fragrecon.errors import ConfigError, DataError
from fragrecon.seeds import keys_of, numpy_generator, random_bits, uniforms

Indices = npt.NDArray[np.int64]


@dataclass
class FragmentBatch:
    """A batch of puzzles, each with its fragments in shuffled order.

    Attributes:
        fragments: (B, F, C, h, w), uint8 as cut, float in [0, 1] once on the device.
        source_ids: (B, F), index 0..N-1, within its puzzle, of the image a fragment comes from.
        positions: (B, F), the fragment's cell in the grid of its image, row by row.
        rotations: (B, F), counterclockwise quarter turns by which a fragment was rotated, 0..3.
        labels: (B, F), class of the source image of each fragment, -1 if unknown.
        image_ids: (B, N), index in the split of each image of a puzzle.
        step: number of the training batch, or of the first puzzle of an evaluation; it seeds random draws.
    """

    fragments: Tensor
    source_ids: Tensor
    positions: Tensor
    rotations: Tensor
    labels: Tensor
    image_ids: Tensor
    step: int = 0

    def __len__(self) -> int:
        return len(self.fragments)

    @property
    def images_per_puzzle(self) -> int:
        """Number of images per puzzle, N."""
        return self.image_ids.shape[1]

    @property
    def fragment_size(self) -> tuple[int, int]:
        """Fragment size (h, w); with variable width, w differs between batches."""
        return self.fragments.shape[-2], self.fragments.shape[-1]

    def first(self, count: int) -> FragmentBatch:
        """Return the puzzles with only their first ``count`` fragments; the others are missing."""
        return self._each(lambda tensor: tensor if tensor is self.image_ids else tensor[:, :count])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> FragmentBatch:
        """Copy the batch to a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> FragmentBatch:
        """Copy the batch into pinned memory."""
        return self._each(Tensor.pin_memory)

    def as_float(self) -> FragmentBatch:
        """Return the same batch with fragments as float32 in [0, 1]."""
        if self.fragments.dtype.is_floating_point:
            return self
        return self._each(lambda tensor: tensor.float().div_(255) if tensor is self.fragments else tensor)

    def _each(self, change: Any) -> FragmentBatch:
        changed = {name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **changed)


def grid_of(image_size: tuple[int, int], fragment_size: tuple[int, int]) -> tuple[int, int]:
    """Compute the rows and columns of the grid of fragments in an image.

    Args:
        image_size: (H, W) of the image.
        fragment_size: (h, w) of a fragment.

    Returns:
        Rows and columns.

    Raises:
        ConfigError: the fragment does not divide the image; the message lists the sizes that do.

    Example:
        >>> grid_of((64, 32), (16, 16))
        (4, 2)
    """
    for side, image, fragment in zip(("height", "width"), image_size, fragment_size, strict=True):
        if fragment < 1 or image % fragment:
            divisors = [str(size) for size in range(1, image + 1) if image % size == 0]
            raise ConfigError(
                f"data.fragment_size: {side} {fragment} does not divide the image's {side} {image}; "
                f"use one of {', '.join(divisors)}"
            )
    return image_size[0] // fragment_size[0], image_size[1] // fragment_size[1]


def fragment_size(images: Tensor, grid: tuple[int, int]) -> tuple[int, int]:
    """Compute the size of the fragments of images on a grid.

    Args:
        images: (..., C, H, W).
        grid: rows and columns.

    Returns:
        (h, w).

    Example:
        >>> fragment_size(torch.zeros(3, 64, 32), (4, 2))
        (16, 16)
    """
    return images.shape[-2] // grid[0], images.shape[-1] // grid[1]


def cut(images: Tensor, fragment_size: tuple[int, int]) -> Tensor:
    """Cut images into fragments.

    Args:
        images: (..., C, H, W).
        fragment_size: (h, w).

    Returns:
        Fragments (..., cells, C, h, w), row by row of the grid.

    Example:
        >>> cut(torch.arange(8).view(1, 2, 4), (2, 2)).tolist()
        [[[[0, 1], [4, 5]]], [[[2, 3], [6, 7]]]]
    """
    *batch, channels, height, width = images.shape
    rows, columns = grid_of((height, width), fragment_size)
    h, w = fragment_size
    tiles = images.reshape(*batch, channels, rows, h, columns, w)
    return tiles.movedim((-4, -2), (-5, -4)).reshape(*batch, rows * columns, channels, h, w)


def join(fragments: Tensor, grid: tuple[int, int]) -> Tensor:
    """Join fragments to images; the inverse of `cut`.

    Args:
        fragments: (..., cells, C, h, w), row by row of the grid.
        grid: rows and columns.

    Returns:
        Images (..., C, H, W).

    Example:
        >>> images = torch.rand(5, 3, 8, 12)
        >>> join(cut(images, (4, 4)), (2, 3)).equal(images)
        True
    """
    rows, columns = grid
    *batch, _, channels, h, w = fragments.shape
    tiles = fragments.reshape(*batch, rows, columns, channels, h, w).movedim((-5, -4), (-4, -2))
    return tiles.reshape(*batch, channels, rows * h, columns * w)


def in_place(fragments: Tensor, batch: FragmentBatch, grid: tuple[int, int]) -> Tensor:
    """Join the fragments of one puzzle to its images.

    Args:
        fragments: (1, F, C, h, w), in the order of ``batch``.
        batch: batch of one puzzle, with the image and the cell of each fragment.
        grid: rows and columns of an image.

    Returns:
        Images (N, C, H, W).
    """
    cells = grid[0] * grid[1]
    order = torch.argsort(batch.source_ids[0] * cells + batch.positions[0])
    return join(fragments[0, order].reshape(-1, cells, *fragments.shape[2:]), grid)


def draw_images(
    available: Indices, per_puzzle: int, first: int, count: int, seed: int, purpose: str, group: int = 1
) -> Indices:
    """Draw the images of puzzles ``first .. first + count - 1`` of an endless sequence.

    The sequence consists of passes. A pass is a random order of all available images, divided into puzzles: no image is
    drawn twice in a pass, and no puzzle holds an image twice. Images left over at the end of a pass, fewer than a
    puzzle needs, are omitted from that pass. With ``group``, a pass of at least that many puzzles ends with a complete
    group, so that no batch of that size holds an image twice.

    Args:
        available: indices of the images to draw from.
        per_puzzle: number of images per puzzle.
        first: number of the first puzzle.
        count: number of puzzles.
        seed: seed of the run or of the evaluation.
        purpose: purpose of the puzzles; it seeds the draws.
        group: number of puzzles per batch.

    Returns:
        Members of ``available``, (count, per_puzzle).

    Raises:
        DataError: there are fewer images than one puzzle needs.

    Example:
        >>> puzzles = draw_images(np.arange(6), 2, first=0, count=3, seed=0, purpose="train")
        >>> sorted(puzzles.flatten().tolist())
        [0, 1, 2, 3, 4, 5]
    """
    per_pass = len(available) // per_puzzle
    if per_pass == 0:
        raise DataError(
            f"a puzzle needs {per_puzzle} images, but the {purpose} split has {len(available)}; "
            "use more images or a smaller data.images_per_puzzle"
        )
    if per_pass > group:
        per_pass -= per_pass % group
    numbers = np.arange(first, first + count)
    drawn = np.empty((count, per_puzzle), np.int64)
    for pass_number in np.unique(numbers // per_pass):
        order = _pass_order(len(available), seed, purpose, int(pass_number))
        rows = numbers // per_pass == pass_number
        puzzles = order[: per_pass * per_puzzle].reshape(per_pass, per_puzzle)
        drawn[rows] = puzzles[numbers[rows] % per_pass]
    return available[drawn]


@lru_cache(maxsize=8)
def _pass_order(count: int, seed: int, purpose: str, pass_number: int) -> Indices:
    return numpy_generator(seed, f"images/{purpose}", pass_number).permutation(count)


def draw_orders(puzzles: int, fragments: int, generator: np.random.Generator) -> Indices:
    """Draw an independent random order of the fragments of each puzzle, (puzzles, fragments)."""
    return generator.permuted(np.tile(np.arange(fragments), (puzzles, 1)), axis=1)


def make_batch(
    images: Tensor, labels: Tensor, image_ids: Tensor, orders: Tensor, fragment_size: tuple[int, int], step: int = 0
) -> FragmentBatch:
    """Cut images into fragments and shuffle them.

    Args:
        images: (B, N, C, H, W).
        labels: class of each image, (B, N).
        image_ids: index of each image in its split, (B, N).
        orders: permutations of the fragments, which are numbered image by image, (B, F).
        fragment_size: (h, w).
        step: number that is stored in the batch.

    Returns:
        The batch.

    Example:
        >>> images, labels, ids = torch.zeros(1, 2, 3, 4, 4), torch.tensor([[7, 8]]), torch.tensor([[0, 1]])
        >>> batch = make_batch(images, labels, ids, torch.arange(8).flip(0).unsqueeze(0), (2, 2))
        >>> batch.source_ids.tolist(), batch.positions.tolist()
        ([[1, 1, 1, 1, 0, 0, 0, 0]], [[3, 2, 1, 0, 3, 2, 1, 0]])
    """
    fragments = cut(images, fragment_size)
    puzzles, _, cells = fragments.shape[:3]
    rows = torch.arange(puzzles).unsqueeze(1)
    sources = orders // cells
    return FragmentBatch(
        fragments=fragments.flatten(1, 2)[rows, orders],
        source_ids=sources,
        positions=orders % cells,
        rotations=torch.zeros_like(sources),
        labels=labels.gather(1, sources),
        image_ids=image_ids,
        step=step,
    )


@lru_cache(maxsize=4)
def split_train_validation(count: int, share: float = 0.05) -> tuple[Indices, Indices]:
    """Split the training images into a part for training and a fixed part for validation.

    The split of an image is a hash of its index: it does not depend on a seed or on the other images.

    Args:
        count: number of training images.
        share: expected share of the images in the validation part.

    Returns:
        Indices of the images for training and for validation.

    Example:
        >>> train, validation = split_train_validation(100)
        >>> len(train) + len(validation), np.intersect1d(train, validation).size
        (100, 0)
    """
    held = uniforms(torch.zeros(1, dtype=torch.int64), count)[0].numpy() < share
    return np.flatnonzero(~held), np.flatnonzero(held)


def fixed_puzzles(
    available: Indices, first: int, count: int, per_puzzle: int, cells: int, seed: int, purpose: str
) -> tuple[Indices, Indices]:
    """Draw puzzles ``first .. first + count - 1`` of an endless sequence, independent of how they are batched.

    Args:
        available: indices of the images to draw from.
        first: number of the first puzzle.
        count: number of puzzles.
        per_puzzle: number of images per puzzle.
        cells: number of fragments per image.
        seed: seed of the evaluation.
        purpose: purpose of the puzzles; it seeds the draws.

    Returns:
        Indices of the images (count, N), and the orders of the fragments (count, F).
    """
    images = draw_images(available, per_puzzle, first, count, seed, purpose)
    bits = random_bits(keys_of(seed, f"orders/{purpose}", first, count), per_puzzle * cells)
    return images, bits.argsort(1).numpy()


def batches(total: int, size: int) -> Iterator[slice]:
    """Divide a range into slices.

    Args:
        total: length of the range.
        size: maximum length of a slice.

    Returns:
        Slices that cover 0..total-1.

    Example:
        >>> list(batches(5, 2))
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return (slice(start, min(start + size, total)) for start in range(0, total, size))
