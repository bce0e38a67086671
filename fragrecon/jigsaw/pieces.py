"""Cut photographs into the pieces of one puzzle, and join pieces to images.

Shapes: n pieces (C, h, w) uint8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fragrecon.data import puzzles
from fragrecon.data.corruption import turn
from fragrecon.errors import ConfigError

Ints = npt.NDArray[np.int64]
Grid = tuple[int, int]
"""Rows and columns of pieces in an image."""


@dataclass(frozen=True)
class Arrangement:
    """Places of the pieces of a puzzle.

    Attributes:
        images: image (n,) of each piece.
        rows: row (n,) of each piece in its image, from 0.
        columns: column (n,) of each piece in its image, from 0.
        rotations: counterclockwise quarter turns (n,) by which the pieces are rotated, to be undone.
        grids: rows and columns of each image; cells may be empty.
    """

    images: Ints
    rows: Ints
    columns: Ints
    rotations: Ints
    grids: tuple[Grid, ...]


@dataclass(frozen=True)
class Jigsaw:
    """A puzzle.

    Attributes:
        pieces: pieces (n, C, h, w) uint8, in random order and perhaps rotated.
        truth: where the pieces belong, if known.
    """

    pieces: Tensor
    truth: Arrangement | None


def piece_size(images: Sequence[Tensor], grid: Grid) -> tuple[int, int]:
    """Return the largest size of pieces with which every image has a grid of pieces.

    Args:
        images: images (C, H, W).
        grid: rows and columns.

    Returns:
        Height and width of a piece.

    Raises:
        ConfigError: an image has fewer pixels than the grid has rows or columns.

    Example:
        >>> piece_size([torch.zeros(3, 100, 70), torch.zeros(3, 90, 90)], (3, 4))
        (30, 17)
    """
    height = min(image.shape[1] for image in images) // grid[0]
    width = min(image.shape[2] for image in images) // grid[1]
    if min(height, width) < 2:
        raise ConfigError(f"pieces.grid={list(grid)} is too fine for an image; pieces need 2x2 pixels or more")
    return height, width


def cut(images: Sequence[Tensor], size: tuple[int, int], grid: Grid | None = None) -> Jigsaw:
    """Cut images into pieces, in order; pixels at the right and lower border that fill no piece are cropped.

    Args:
        images: images (C, H, W) uint8.
        size: height and width of a piece in pixels.
        grid: rows and columns of every image; by default as many as fit.

    Returns:
        The pieces, image by image and row by row, with their places.

    Raises:
        ConfigError: an image is smaller than a piece.

    Example:
        >>> jigsaw = cut([torch.zeros(3, 9, 13, dtype=torch.uint8)], (4, 4))
        >>> jigsaw.pieces.shape, jigsaw.truth.grids
        (torch.Size([6, 3, 4, 4]), ((2, 3),))
    """
    h, w = size
    grids = [grid or (image.shape[1] // h, image.shape[2] // w) for image in images]
    for image, (rows, columns) in zip(images, grids, strict=True):
        if rows * columns == 0:
            raise ConfigError(
                f"an image of {image.shape[1]}x{image.shape[2]} pixels is smaller than one piece, {h}x{w}"
            )
    pieces = [
        puzzles.cut(image[:, : rows * h, : columns * w], size)
        for image, (rows, columns) in zip(images, grids, strict=True)
    ]
    cells = [np.arange(rows * columns) for rows, columns in grids]
    truth = Arrangement(
        np.repeat(np.arange(len(images)), [len(found) for found in cells]),
        np.concatenate([found // columns for found, (_, columns) in zip(cells, grids, strict=True)]),
        np.concatenate([found % columns for found, (_, columns) in zip(cells, grids, strict=True)]),
        np.zeros(sum(map(len, cells)), np.int64),
        tuple(grids),
    )
    return Jigsaw(torch.cat(pieces), truth)


def shuffle(jigsaw: Jigsaw, generator: torch.Generator, *, rotate: bool = False, missing: float = 0.0) -> Jigsaw:
    """Remove pieces, put the others in random order, and rotate each by 0, 90, 180 or 270 degrees.

    Args:
        jigsaw: the puzzle.
        generator: source of randomness, on the CPU.
        rotate: whether pieces are rotated.
        missing: share of the pieces that are removed, in [0, 1).

    Returns:
        The puzzle.

    Raises:
        ConfigError: pieces that are not square cannot be rotated.
    """
    count = len(jigsaw.pieces)
    check_square(jigsaw.pieces, rotate)
    order = torch.randperm(count, generator=generator)[: max(1, round(count * (1 - missing)))]
    turns = torch.randint(4, (len(order),), generator=generator) if rotate else torch.zeros_like(order)
    pieces = turn(jigsaw.pieces[order], turns) if rotate else jigsaw.pieces[order]
    return Jigsaw(pieces, reorder(jigsaw.truth, order.numpy(), turns.numpy()) if jigsaw.truth else None)


def check_square(pieces: Tensor, rotate: bool) -> None:
    """Check that pieces (n, C, h, w) can be rotated by quarter turns.

    Args:
        pieces: the pieces.
        rotate: whether they are or may be rotated.

    Raises:
        ConfigError: they are not square.
    """
    h, w = pieces.shape[-2:]
    if rotate and h != w:
        raise ConfigError(f"pieces of {h}x{w} pixels are not square, so pieces.rotation must be known")


def reorder(found: Arrangement, order: Ints, turns: Ints | int = 0) -> Arrangement:
    """Return the places of a selection of the pieces, rotated counterclockwise by further quarter turns."""
    rotations = (found.rotations[order] + turns) % 4
    return replace(
        found, images=found.images[order], rows=found.rows[order], columns=found.columns[order], rotations=rotations
    )


def erode(pieces: Tensor, pixels: int) -> Tensor:
    """Remove rows and columns of pixels from every side of pieces.

    Args:
        pieces: pieces (n, C, h, w).
        pixels: number of rows or columns per side.

    Returns:
        The smaller pieces.

    Raises:
        ConfigError: less than 2x2 pixels would be left.
    """
    h, w = pieces.shape[-2:]
    if min(h, w) - 2 * pixels < 2:
        raise ConfigError(f"pieces of {h}x{w} pixels cannot lose {pixels} pixels on every side")
    return pieces[..., pixels : h - pixels, pixels : w - pixels]


def looks(pieces: Tensor, rotations: bool) -> Ints:
    """Number the different contents of pieces, so that pieces that are equal pixel by pixel have the same number.

    Args:
        pieces: pieces (n, C, h, w) uint8.
        rotations: whether pieces may be rotated.

    Returns:
        Numbers (n, 4) of the contents after 0 to 3 counterclockwise quarter turns; all columns are equal without
        ``rotations``.

    Example:
        >>> looks(torch.tensor([0, 1, 0]).view(3, 1, 1, 1), rotations=False)[:, 0].tolist()
        [0, 1, 0]
    """
    turned = [torch.rot90(pieces, quarter if rotations else 0, (-2, -1)) for quarter in range(4)]
    contents = torch.stack(turned, 1).flatten(2).contiguous().numpy()
    numbers: dict[bytes, int] = {}
    return np.array([[numbers.setdefault(one.tobytes(), len(numbers)) for one in piece] for piece in contents])


def join(pieces: Tensor, found: Arrangement, background: int) -> list[Tensor]:
    """Join pieces (n, C, h, w), rotated upright, to images (C, H, W); empty cells have the background's value."""
    channels, h, w = pieces.shape[1:]
    upright = turn(pieces, -torch.from_numpy(found.rotations)) if h == w else pieces
    images = []
    for number, (rows, columns) in enumerate(found.grids):
        cells = torch.full((rows * columns, channels, h, w), background, dtype=pieces.dtype)
        own = found.images == number
        cells[found.rows[own] * columns + found.columns[own]] = upright[torch.from_numpy(own)]
        images.append(puzzles.join(cells, (rows, columns)))
    return images
