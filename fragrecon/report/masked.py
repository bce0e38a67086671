"""Pictures of masked images and what was filled in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fragrecon.evaluation.reconstruction import Filling, psnr

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HIDDEN = 0.5
"""The grey of masked patches."""


def masked_figure(filling: Filling) -> Figure:
    """A column an image: as it is, what was visible, all that the model says, and that only where nothing was visible.

    Below each, the peak signal-to-noise ratio of the masked patches.
    """
    from matplotlib.figure import Figure

    visible = torch.where(filling.hidden, HIDDEN, filling.images)
    composite = torch.where(filling.hidden, filling.output, filling.images)
    rows = {"image": filling.images, "visible": visible, "output": filling.output, "composite": composite}
    hidden = filling.hidden.sum((1, 2, 3)) * filling.images.shape[1]
    ratios = psnr(((composite - filling.images).square()).sum((1, 2, 3)) / hidden)
    columns = len(filling.images)
    figure = Figure(figsize=(1.1 * columns + 0.7, 1.1 * len(rows) + 0.3), dpi=160)
    panels = figure.subplots(len(rows), columns, squeeze=False)
    figure.subplots_adjust(
        left=0.7 / (1.1 * columns + 0.7), right=0.995, top=0.995, bottom=0.06, wspace=0.06, hspace=0.06
    )
    for (name, images), line in zip(rows.items(), panels, strict=True):
        for image, axes in zip(images, line, strict=True):
            pixels = image.movedim(0, -1).numpy()
            grey = pixels.shape[-1] == 1
            axes.imshow(pixels[..., 0] if grey else pixels, cmap="gray" if grey else None, vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        line[0].set_ylabel(name, fontsize=7, rotation=0, ha="right", va="center")
    for axes, ratio in zip(panels[-1], ratios.tolist(), strict=True):
        axes.set_xlabel(f"{ratio:.1f} dB", fontsize=7)
    return figure
