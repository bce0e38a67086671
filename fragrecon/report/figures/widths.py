"""Images of one height and many widths, each above what is decoded of its embedding.

Pixels are enlarged by a whole number and stay what they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fragrecon.evaluation.pixels.generation import Generated
from fragrecon.objectives.reconstruction import psnr
from fragrecon.report.figures.pictures import PAPER
from fragrecon.report.figures.views import enlarged

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEIGHT, ACROSS = 96, 1400
"""About the height of an image, and the width of a row of them, in pixels."""
GAP, BELOW, LEFT, WORDS = 6, 22, 64, 48
"""Pixels between images, for the words below them and for those on the left, and across what words take."""
DPI = 128
FONT = 6


def widths_figure(generated: Generated) -> Figure:
    """Images in rows, the narrowest first, above their reconstructions and how far these are off."""
    from matplotlib.figure import Figure

    columns, ratios = [], []
    for images, output in generated.reconstructions:
        times = max(1, round(HEIGHT / images.shape[2]))
        columns += [
            torch.stack(pair) for pair in zip(*(enlarged(some, times) for some in (images, output)), strict=True)
        ]
        ratios += psnr((output - images).square().mean((1, 2, 3))).tolist()
    tall = columns[0].shape[2]
    row = 2 * (tall + GAP) + BELOW
    widths = [max(WORDS, column.shape[3]) for column in columns]
    places = flow(widths)
    width = LEFT + GAP + max(left + across for across, (_, left) in zip(widths, places, strict=True))
    height = GAP + row * (1 + places[-1][0])
    page = torch.full((3, height, width), PAPER, dtype=torch.uint8)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)

    def write(words: str, x: float, y: float, align: str) -> None:
        figure.text(x / width, 1 - y / height, words, fontsize=FONT, ha=align, va="center")

    for column, ratio, (line, left) in zip(columns, ratios, places, strict=True):
        top, start, across = GAP + line * row, LEFT + left, column.shape[3]
        middle = start + max(WORDS, across) / 2
        for picture in column:
            page[:, top : top + tall, start : start + across] = picture
            top += tall + GAP
        write(f"{ratio:.1f} dB", middle, top + BELOW / 2 - GAP, "center")
    for line in range(1 + places[-1][0]):
        for words, down in (("image", tall / 2), ("decoded", tall * 3 / 2 + GAP), ("PSNR", row - BELOW / 2 - GAP)):
            write(words, LEFT - GAP, GAP + line * row + down, "right")
    figure.figimage(page.movedim(0, -1).numpy(), origin="upper")
    return figure


def flow(widths: list[int]) -> list[tuple[int, int]]:
    """Row and left edge of things of these widths, that follow each other like words; a row holds one at least."""
    places, line, left = [], 0, 0
    for width in widths:
        if left and left + width > ACROSS:
            line, left = line + 1, 0
        places.append((line, left))
        left += width + GAP
    return places
