"""How pictures are drawn for the page.

Shapes: pictures (3, H, W) uint8.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SIDE = 512
"""Least width of pictures, in pixels: Gradio misplaces clicks on one that is shown larger than it is."""

ACCENT = (0.93, 0.42, 0.1)
"""Of what is attended to, and of the step that is shown."""

FRAME = (0.1, 0.4, 0.95)
"""Of what is chosen."""


def ink(image: Tensor) -> Tensor:
    """An image (C, H, W) in 0..1, grey or coloured, as a picture."""
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).expand(3, -1, -1)


def drawn_size(image: Tensor) -> tuple[int, int]:
    """Height and width of an image's picture on the page."""
    times = _times(image, SIDE)
    return image.shape[-2] * times, image.shape[-1] * times


def enlarged(picture: Tensor, side: int = SIDE) -> Tensor:
    """With each pixel repeated, by a whole number, to a width of at least ``side``."""
    times = _times(picture, side)
    return picture.repeat_interleave(times, 1).repeat_interleave(times, 2)


def ruled(picture: Tensor, grid: tuple[int, int]) -> Tensor:
    """With thin lines between the cells of a grid."""
    height, width = picture.shape[-2] // grid[0], picture.shape[-1] // grid[1]
    lines = torch.zeros(picture.shape[-2:], dtype=torch.bool)
    for first in (0, 1):  # of two pixels
        lines[height - 1 + first :: height] = True
        lines[:, width - 1 + first :: width] = True
    return torch.where(lines, (picture.int() + 2 * 255) // 3, picture.int()).to(torch.uint8)


def framed_cell(picture: Tensor, cell: int, grid: tuple[int, int], line: int = 4) -> Tensor:
    """With a frame along the inner edge of one cell of a grid."""
    height, width = picture.shape[-2] // grid[0], picture.shape[-1] // grid[1]
    top, left = cell // grid[1] * height, cell % grid[1] * width
    found = picture.clone()
    inside = found[:, top : top + height, left : left + width]
    kept = inside[:, line:-line, line:-line].clone()
    inside[:] = (torch.tensor(FRAME) * 255).round().to(torch.uint8).view(3, 1, 1)
    inside[:, line:-line, line:-line] = kept
    return found


def _times(picture: Tensor, side: int) -> int:
    return math.ceil(side / picture.shape[-1])
