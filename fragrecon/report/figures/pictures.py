"""Fragments laid out as pictures, pixel by pixel.

Shapes: pictures (C, H, W) uint8.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from fragrecon import files

PAPER = 255
"""The colour that nothing lies on."""

WRONG = (0.85, 0.1, 0.1)


def sheet(pictures: Sequence[Tensor], columns: int, gap: int) -> Tensor:
    """Pictures of one size in rows of ``columns``, with ``gap`` pixels around each."""
    channels, height, width = pictures[0].shape
    rows = -(-len(pictures) // columns)
    size = rows * (height + gap) + gap, columns * (width + gap) + gap
    page = torch.full((channels, *size), PAPER, dtype=torch.uint8)
    for number, picture in enumerate(pictures):
        top, left = gap + number // columns * (height + gap), gap + number % columns * (width + gap)
        page[:, top : top + height, left : left + width] = picture
    return page


def framed(picture: Tensor, colour: Sequence[float], thickness: int) -> Tensor:
    """An RGB picture with a frame of a colour (values in 0..1) around it; the picture itself stays whole."""
    channels, height, width = picture.shape
    ink = (torch.tensor(colour) * 255).round().to(torch.uint8).view(3, 1, 1)
    page = ink.expand(3, height + 2 * thickness, width + 2 * thickness).clone()
    page[:, thickness:-thickness, thickness:-thickness] = picture.expand(3, -1, -1) if channels == 1 else picture
    return page


def colours(count: int) -> list[tuple[float, float, float]]:
    """As many colours that differ: by hue, in rings of a dozen between each other's hues, light and dark in turn."""
    rings, around = -(-count // 12), min(count, 12)
    return [
        colorsys.hsv_to_rgb((place / around + ring / (12 * rings)) % 1, 0.9, 0.6 if ring % 2 else 0.95)
        for ring, place in (divmod(number, 12) for number in range(count))
    ]


def save(picture: Tensor, path: Path) -> None:
    """Write a picture as PNG, whole or not at all."""
    pixels = picture.movedim(0, -1).contiguous().numpy()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    with files.atomic_file(path) as file:
        image.save(file, format="png")
