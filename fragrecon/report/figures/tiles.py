"""Convert, enlarge, frame, lay out and save images.

Images are enlarged by whole factors without interpolation, so that nothing is blurred.

Shapes: images (..., C, H, W) in [0, 1]; pictures (..., C, H, W) uint8, where C is 1 or 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fragrecon import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER = 255
"""Value of the background."""

WRONG = (0.85, 0.1, 0.1)
"""Colour of the frames of misplaced fragments."""

SIDE, ACROSS = 96, 1400
"""Approximate height of an enlarged image, and maximum width of a row of them, in pixels."""
GAP, LINE, CAPTION = 6, 22, 56
"""Space between tiles, height of a line of captions, and minimum width of a caption, in pixels."""
DPI = 128
"""Resolution of figures: a power of two, so that sizes in inches convert to whole pixels exactly."""
FONT, LETTER = 7, 7
"""Font size in points, and approximate width of a letter in pixels."""


def to_pixels(images: Tensor) -> Tensor:
    """Convert images (..., C, H, W) in [0, 1] to pictures (..., 3, H, W) on the CPU."""
    pixels = (images.float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return pixels.expand(*pixels.shape[:-3], 3, -1, -1)


def enlarge(pictures: Tensor, times: int) -> Tensor:
    """Repeat each pixel ``times`` times in both directions."""
    return pictures.repeat_interleave(times, -2).repeat_interleave(times, -1)


def tiles(images: Tensor, side: int = SIDE) -> Tensor:
    """Convert images (..., C, H, W) in [0, 1] to pictures (..., 3, H', W') of a height of about ``side``."""
    return enlarge(to_pixels(images), max(1, round(side / images.shape[-2])))


def sheet(pictures: Sequence[Tensor], columns: int, gap: int) -> Tensor:
    """Lay out pictures of one size in rows of ``columns``, with ``gap`` pixels around each."""
    channels, height, width = pictures[0].shape
    rows = -(-len(pictures) // columns)
    size = rows * (height + gap) + gap, columns * (width + gap) + gap
    page = torch.full((channels, *size), PAPER, dtype=torch.uint8)
    for number, picture in enumerate(pictures):
        top, left = gap + number // columns * (height + gap), gap + number % columns * (width + gap)
        page[:, top : top + height, left : left + width] = picture
    return page


def framed(picture: Tensor, colour: Sequence[float], thickness: int) -> Tensor:
    """Surround a picture with a frame of an RGB colour in [0, 1]."""
    height, width = picture.shape[1:]
    page = (torch.tensor(colour) * 255).round().to(torch.uint8).view(3, 1, 1)
    page = page.repeat(1, height + 2 * thickness, width + 2 * thickness)
    page[:, thickness:-thickness, thickness:-thickness] = picture
    return page


def frame_cell(picture: Tensor, cell: int, grid: tuple[int, int], colour: Sequence[float], thickness: int) -> Tensor:
    """Draw a frame along the inner edge of one cell of a grid over an RGB picture."""
    height, width = picture.shape[1] // grid[0], picture.shape[2] // grid[1]
    top, left = cell // grid[1] * height, cell % grid[1] * width
    page = picture.clone()
    inside = page[:, top : top + height, left : left + width]
    inside[:] = framed(inside[:, thickness:-thickness, thickness:-thickness].clone(), colour, thickness)
    return page


def labelled(picture: Tensor, words: str) -> Tensor:
    """Add a line of words above a picture, at least `LINE` high and larger on a wide picture."""
    height = max(LINE, picture.shape[2] // 10)
    line, font = (
        Image.new("RGB", (picture.shape[2], height), (PAPER, PAPER, PAPER)),
        ImageFont.load_default(0.64 * height),
    )
    ImageDraw.Draw(line).text((0, height / 2), words, fill=(0, 0, 0), font=font, anchor="lm")
    return torch.cat([torch.from_numpy(np.array(line)).movedim(-1, 0), picture.expand(3, -1, -1)], 1)


def save(picture: Tensor, path: Path) -> None:
    """Write a picture (C, H, W) as a PNG file, atomically."""
    pixels = picture.movedim(0, -1).contiguous().numpy()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    with files.atomic_file(path) as file:
        image.save(file, format="png")


def fit(images: Tensor, side: int) -> Tensor:
    """Like `tiles`, but images (M, C, H, W) larger than ``side`` are reduced to it, by the mean of the pixels."""
    height, width = images.shape[-2:]
    if max(height, width) > side:
        size = max(1, side * height // max(height, width)), max(1, side * width // max(height, width))
        images = F.interpolate(images.float(), size, mode="area")
    return enlarge(to_pixels(images), max(1, side // max(images.shape[-2:])))


class Page:
    """A figure of pictures and words at given pixels, counted from the top left corner.

    Args:
        width: width in pixels.
        height: height in pixels.
        below: height in pixels left free at the bottom.
    """

    def __init__(self, width: int, height: int, below: int = 0) -> None:
        from matplotlib.figure import Figure

        self.pixels = torch.full((3, height, width), PAPER, dtype=torch.uint8)
        self.below, self.height, self.width = below, height + below, width
        self._figure = Figure(figsize=(width / DPI, self.height / DPI), dpi=DPI)

    def put(self, picture: Tensor, left: int, top: int) -> None:
        """Copy a picture (3, H, W) to a place."""
        self.pixels[:, top : top + picture.shape[1], left : left + picture.shape[2]] = picture

    def write(self, words: str, x: float, y: float, align: str = "center", **style: Any) -> None:
        """Write words whose vertical middle is at ``y``; ``x`` is their left, center or right, by ``align``."""
        style = {"fontsize": FONT, **style}
        self._figure.text(x / self.width, 1 - y / self.height, words, ha=align, va="center", **style)

    def figure(self) -> Figure:
        """Return the figure."""
        self._figure.figimage(self.pixels.movedim(0, -1).numpy(), 0, self.below, origin="upper")
        return self._figure


def rows_figure(
    rows: Sequence[tuple[str, Sequence[Tensor]]],
    captions: tuple[str, Sequence[str]] | None = None,
    across: float = ACROSS,
    below: int = 0,
) -> Figure:
    """Lay out rows of pictures as a figure, with the row names on the left.

    Args:
        rows: name and pictures (3, H, W) of each row. Pictures of a column have equal size; rows may differ in length.
        captions: name of the captions, and the caption below each column.
        across: maximum width in pixels; further columns continue below.
        below: height in pixels left free at the bottom.

    Returns:
        The figure.
    """
    names, longest = [name for name, _ in rows], max((pictures for _, pictures in rows), key=len)
    tall, widths = longest[0].shape[1], [picture.shape[2] for picture in longest]
    if captions:
        names, widths = [*names, captions[0]], [max(CAPTION, width) for width in widths]
    margin = LETTER * max(len(line) for name in names for line in name.split("\n")) + 2 * GAP
    places = flow(widths, across)
    band = len(rows) * (tall + GAP) + (LINE if captions else 0)
    bands = places[-1][0] + 1
    width = margin + GAP + max(left + taken for (_, left), taken in zip(places, widths, strict=True))
    page = Page(width, GAP + bands * band, below)
    for row, (_, pictures) in enumerate(rows):
        for picture, (line, left) in zip(pictures, places, strict=False):
            page.put(picture, margin + left, GAP + line * band + row * (tall + GAP))
    feet = len(rows) * (tall + GAP) + LINE / 2
    for caption, (line, left), taken in zip(captions[1] if captions else [], places, widths, strict=False):
        page.write(caption, margin + left + taken / 2, line * band + feet)
    for line in range(bands):
        for row, name in enumerate(names):
            middle = GAP + row * (tall + GAP) + tall / 2 if row < len(rows) else feet
            page.write(name, margin - GAP, line * band + middle, "right")
    return page.figure()


def flow(widths: Sequence[int], across: float) -> list[tuple[int, int]]:
    """Break columns into lines, like the words of a text.

    Args:
        widths: widths in pixels.
        across: maximum width of a line; a line has at least one column.

    Returns:
        The line and left edge of each column.
    """
    places, line, left = [], 0, 0
    for width in widths:
        if left and left + width > across:
            line, left = line + 1, 0
        places.append((line, left))
        left += width + GAP
    return places


def square(count: int) -> int:
    """Return the number of columns that lays out ``count`` tiles in about a square."""
    return math.ceil(math.sqrt(count))
