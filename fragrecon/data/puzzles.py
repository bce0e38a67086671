"""From whole images to puzzles of shuffled fragments: pure functions of a seed and a position.

Shapes: B puzzles, N images a puzzle, cells = rows * columns of the grid, F = N * cells fragments a puzzle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
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
        source_ids: (B, F), which of its puzzle's N images a fragment comes from: 0..N-1, counted in each puzzle anew.
        positions: (B, F), the fragment's cell in the grid of its image, row by row.
        labels: (B, F), class of the source image, -1 where unknown.
        image_ids: (B, N), place in the split of the images of each puzzle.
        step: the number of the training batch, or of the first puzzle of an evaluation; random draws are keyed on it.
    """

    fragments: Tensor
    source_ids: Tensor
    positions: Tensor
    labels: Tensor
    image_ids: Tensor
    step: int = 0

    def __len__(self) -> int:
        return len(self.fragments)

    @property
    def images_per_puzzle(self) -> int:
        return self.image_ids.shape[1]

    @property
    def fragment_size(self) -> tuple[int, int]:
        """(h, w); w differs from batch to batch where the width of images is free."""
        return self.fragments.shape[-2], self.fragments.shape[-1]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> FragmentBatch:
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> FragmentBatch:
        return self._each(Tensor.pin_memory)

    def as_float(self) -> FragmentBatch:
        """The same batch with fragments as float32 in [0, 1]."""
        if self.fragments.dtype.is_floating_point:
            return self
        return self._each(lambda tensor: tensor.float().div_(255) if tensor is self.fragments else tensor)

    def _each(self, change: Any) -> FragmentBatch:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return FragmentBatch(
            **{name: change(value) if isinstance(value, Tensor) else value for name, value in values.items()}
        )


def grid_of(image_size: tuple[int, int], fragment_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the grid that fragments of (h, w) cut an image of (H, W) into.

    Raises:
        ConfigError: the fragment does not divide the image; the message lists the sizes that do.
    """
    for side, image, fragment in zip(("height", "width"), image_size, fragment_size, strict=True):
        if fragment < 1 or image % fragment:
            divisors = [str(size) for size in range(1, image + 1) if image % size == 0]
            raise ConfigError(
                f"data.fragment_size: {side} {fragment} does not divide the image's {side} {image}; "
                f"sizes that do: {', '.join(divisors)}"
            )
    return image_size[0] // fragment_size[0], image_size[1] // fragment_size[1]


def fragment_size(images: Tensor, grid: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of the fragments that a grid of rows and columns cuts images (..., C, H, W) into."""
    return images.shape[-2] // grid[0], images.shape[-1] // grid[1]


def cut(images: Tensor, fragment_size: tuple[int, int]) -> Tensor:
    """Cut images (..., C, H, W) into a grid of fragments (..., cells, C, h, w), row by row."""
    *batch, channels, height, width = images.shape
    rows, columns = grid_of((height, width), fragment_size)
    h, w = fragment_size
    tiles = images.reshape(*batch, channels, rows, h, columns, w)
    return tiles.movedim((-4, -2), (-5, -4)).reshape(*batch, rows * columns, channels, h, w)


def join(fragments: Tensor, grid: tuple[int, int]) -> Tensor:
    """The inverse of `cut`: fragments (..., cells, C, h, w) to images (..., C, H, W)."""
    rows, columns = grid
    *batch, _, channels, h, w = fragments.shape
    tiles = fragments.reshape(*batch, rows, columns, channels, h, w).movedim((-5, -4), (-4, -2))
    return tiles.reshape(*batch, channels, rows * h, columns * w)


def in_place(fragments: Tensor, batch: FragmentBatch, grid: tuple[int, int]) -> Tensor:
    """Images (N, C, H, W) of fragments (1, F, C, h, w), each where that of a batch of one puzzle was cut from."""
    cells = grid[0] * grid[1]
    order = torch.argsort(batch.source_ids[0] * cells + batch.positions[0])
    return join(fragments[0, order].reshape(-1, cells, *fragments.shape[2:]), grid)


def draw_images(
    available: Indices, per_puzzle: int, first: int, count: int, seed: int, purpose: str, group: int = 1
) -> Indices:
    """Images of puzzles ``first .. first + count - 1`` of an endless sequence: (count, per_puzzle) members of
    ``available``.

    The sequence is made of passes. A pass is a random order of all available images, cut into puzzles, so within a
    pass no image is drawn twice and a puzzle never holds an image twice. What is left at the end of a pass, fewer
    images than a puzzle needs, is left out of that pass. With ``group``, a pass that holds as many puzzles ends with a
    whole group of them, so a batch of that size holds no image twice either.

    Raises:
        DataError: there are fewer images than one puzzle needs.
    """
    per_pass = len(available) // per_puzzle
    if per_pass == 0:
        raise DataError(
            f"a puzzle needs {per_puzzle} images, but the {purpose} split has {len(available)}; "
            "use more images or set data.images_per_puzzle lower"
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
    """An independent random order of the fragments for each puzzle: (puzzles, fragments)."""
    return generator.permuted(np.tile(np.arange(fragments), (puzzles, 1)), axis=1)


def make_batch(
    images: Tensor, labels: Tensor, image_ids: Tensor, orders: Tensor, fragment_size: tuple[int, int], step: int = 0
) -> FragmentBatch:
    """Cut and shuffle whole images into puzzles.

    Args:
        images: (B, N, C, H, W).
        labels: (B, N), class of each image.
        image_ids: (B, N).
        orders: (B, F), which fragment, counted image by image, comes to each place.
        fragment_size: (h, w).
        step: handed on.
    """
    fragments = cut(images, fragment_size)
    puzzles, _, cells = fragments.shape[:3]
    rows = torch.arange(puzzles).unsqueeze(1)
    sources = orders // cells
    return FragmentBatch(
        fragments=fragments.flatten(1, 2)[rows, orders],
        source_ids=sources,
        positions=orders % cells,
        labels=labels.gather(1, sources),
        image_ids=image_ids,
        step=step,
    )


@lru_cache(maxsize=4)
def split_train_validation(count: int, share: float = 0.05) -> tuple[Indices, Indices]:
    """Divide training images 0..count-1 into a part to train on and a fixed part, ``share`` of them, for validation.

    An image's side follows from a hash of its index alone, not from a seed or from the other images, so it is the same
    in every run.
    """
    held = uniforms(torch.zeros(1, dtype=torch.int64), count)[0].numpy() < share
    return np.flatnonzero(~held), np.flatnonzero(held)


def fixed_puzzles(
    available: Indices, first: int, count: int, per_puzzle: int, cells: int, seed: int, purpose: str
) -> tuple[Indices, Indices]:
    """Puzzles ``first .. first + count - 1`` of an endless row: images (count, N) and orders (count, F)."""
    images = draw_images(available, per_puzzle, first, count, seed, purpose)
    bits = random_bits(keys_of(seed, f"orders/{purpose}", first, count), per_puzzle * cells)
    return images, bits.argsort(1).numpy()


def batches(total: int, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` that cover 0..total-1."""
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def neighbours(source_ids: Tensor, positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which fragment abuts each side, (B, F, 4), in the order of `fragrecon.seams.SIDES`; F where none does.

    Args:
        source_ids: (B, F), images 0..N-1, each with one fragment a cell.
        positions: (B, F), cells.
        grid: rows and columns.
    """
    count, (rows, columns) = source_ids.shape[1], grid
    row, column = positions // columns, positions % columns
    places = source_ids * rows * columns + positions
    holders = places.argsort(1)  # which fragment lies at a place
    found = []
    for down, across in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        inside = (row + down >= 0) & (row + down < rows) & (column + across >= 0) & (column + across < columns)
        beside = torch.where(inside, places + down * columns + across, 0)
        found.append(torch.where(inside, holders.gather(1, beside), count))
    return torch.stack(found, -1)


def same_source(source_ids: Tensor) -> Tensor:
    """Whether two fragments are of one image: (B, F) to (B, F, F)."""
    return source_ids.unsqueeze(-1) == source_ids.unsqueeze(-2)


def adjacent(source_ids: Tensor, positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Whether two fragments share a side in their image: (B, F, F), for cells (B, F) of a grid."""
    row, column = positions // grid[1], positions % grid[1]
    apart = (row.unsqueeze(-1) - row.unsqueeze(-2)).abs() + (column.unsqueeze(-1) - column.unsqueeze(-2)).abs()
    return same_source(source_ids) & (apart == 1)
