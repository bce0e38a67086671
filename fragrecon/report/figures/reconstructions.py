"""Draw images and their reconstructions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from fragrecon.objectives.reconstruction import psnr
from fragrecon.report.figures.tiles import rows_figure, tiles

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def reconstructions_figure(pairs: Iterable[tuple[Tensor, Tensor]], names: Sequence[str] = ()) -> Figure:
    """Draw images above their reconstructions, with the PSNR of each.

    Args:
        pairs: images (N, C, H, W) with their reconstructions. All have the same height; pairs may differ in width.
        names: names of the images.

    Returns:
        The figure.
    """
    images, decoded, captions = [], [], []
    for originals, outputs in pairs:
        images += list(tiles(originals))
        decoded += list(tiles(outputs))
        captions += [f"{ratio:.1f} dB" for ratio in psnr((outputs - originals).square().mean((1, 2, 3))).tolist()]
    if names:
        captions = [f"{name}: {caption}" for name, caption in zip(names, captions, strict=True)]
    return rows_figure([("image", images), ("decoded", decoded)], ("PSNR", captions))
