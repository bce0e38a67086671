"""Pictures of what a model decodes of latents: drawn at random, or on the way from one image to another.

Pixels are enlarged by a whole number and stay what they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fragrecon.evaluation.pixels.generation import COLUMNS, Generated, pairs_of
from fragrecon.report.figures.pictures import sheet
from fragrecon.report.figures.views import ink

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TILE, GAP = 96, 6
"""About the side of an image, and the space around it, in pixels."""
LEFT, APART = 160, 10
"""Pixels for words on the left, and between what does not belong together."""
ABOVE = 24
"""Pixels for words above."""
DPI = 128
"""A power of two, by which sizes in inches are whole pixels without rounding."""
FONT = 8


class _Page(NamedTuple):
    """Pixels (3, H, W) uint8, how far they lie from the left and from the top, and what is said of them, and where."""

    pixels: Tensor
    left: int
    top: int
    words: str
    above: bool = False


def generated_figure(generated: Generated) -> Figure:
    """Test images, what is decoded of their embeddings, and what is decoded of normal distributions."""
    example, cells = generated.example, generated.example.grid[0] * generated.example.grid[1]
    assert example.decoded is not None
    assert generated.samples is not None
    # Of images in several fragments, the one in the middle of each.
    middle = example.grid[0] // 2 * example.grid[1] + example.grid[1] // 2
    order = torch.argsort(example.batch.source_ids[0] * cells + example.batch.positions[0])[middle::cells]
    what = "images" if cells == 1 else "fragments"
    rows = {
        f"test {what}": example.batch.fragments[0, order],
        "reconstructions": example.decoded[0, order],
        "samples of the\nstandard normal": generated.samples,
    }
    if generated.fitted is not None:
        rows["samples of a normal\nfitted to embeddings"] = generated.fitted
    pages, top = [], 0
    for words, pictures in rows.items():
        page = sheet(list(ink(pictures, TILE)), COLUMNS, GAP)
        pages.append(_Page(page, LEFT, top, words))
        top += page.shape[1] + APART
    return _figure(pages)


def interpolations_figure(generated: Generated) -> Figure:
    """A row a pair of images: the one, what is decoded on the straight line between their embeddings, the other."""
    assert generated.between is not None
    images = generated.example.images
    first, second = (images[list(ends)] for ends in zip(*pairs_of(len(images)), strict=True))
    steps = generated.between.shape[1]
    columns = [
        ("image", first, 1),
        ("decoded on the straight line between their embeddings", generated.between.flatten(0, 1), steps),
        ("image", second, 1),
    ]
    pages, left = [], 0
    for words, pictures, wide in columns:
        page = sheet(list(ink(pictures, TILE)), wide, GAP)
        pages.append(_Page(page, left, ABOVE, words, above=True))
        left += page.shape[2] + APART
    return _figure(pages)


def _figure(pages: Sequence[_Page]) -> Figure:
    """Each page pixel by pixel, with its words to the left or above."""
    from matplotlib.figure import Figure

    width = max(page.left + page.pixels.shape[2] for page in pages)
    height = max(page.top + page.pixels.shape[1] for page in pages)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    for page in pages:
        down, across = page.pixels.shape[1:]
        figure.figimage(page.pixels.movedim(0, -1).numpy(), page.left, height - page.top - down, origin="upper")
        if page.above:
            x, y, align = page.left + across / 2, page.top - ABOVE / 2, "center"
        else:
            x, y, align = page.left - GAP, page.top + down / 2, "right"
        figure.text(x / width, 1 - y / height, page.words, fontsize=FONT, ha=align, va="center")
    return figure
