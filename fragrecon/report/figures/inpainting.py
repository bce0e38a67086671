"""Draw inpainted images: the output, the steps of energy descent, and the attention of a patch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fragrecon.evaluation.pixels.inpainting_examples import Inpainted
from fragrecon.objectives.reconstruction import psnr
from fragrecon.report.figures.plotting import tidy
from fragrecon.report.figures.tiles import DPI, frame_cell, rows_figure, tiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HATCH = 0.85, 0.4
"""Greys of hidden patches: the ground and the diagonal lines of a hatch, as images may be grey."""
STEPS, HEADS = 9, 8
"""Maximum number of steps and of attention heads shown."""
CHOSEN = (0.84, 0.15, 0.16)
"""Colour of the frame of the patch whose attention is shown."""
LINES = "grey: images, black: mean"
PLOTS = 260
"""Height of the plots below the steps, in pixels."""


def masked_figure(inpainted: Inpainted) -> Figure:
    """Draw one column per image: the image, its visible patches, the whole output, and the composite.

    The composite has the output in hidden patches only. Below each column is the PSNR of the hidden patches.
    """
    rows = {"image": inpainted.images, "visible patches": visible(inpainted), "model output": inpainted.output}
    rows["composite"] = inpainted.composite
    ratios = [f"{ratio:.1f} dB" for ratio in masked_psnr(inpainted, inpainted.output).tolist()]
    return rows_figure([(name, list(tiles(images))) for name, images in rows.items()], ("PSNR, hidden", ratios))


def descent_figure(inpainted: Inpainted) -> Figure:
    """Draw one column per image: its visible patches, the composite after some steps of the descent, and the image.

    The plots below show the change of the energy since the start of each block, and the PSNR of the hidden patches.
    Grey lines are single images, the black line is their mean.
    """
    from matplotlib.ticker import MaxNLocator

    assert inpainted.steps is not None
    output, energies = inpainted.steps.output, inpainted.steps.energies
    rows = {"visible patches": visible(inpainted)}
    for step in torch.linspace(0, len(output) - 1, min(len(output), STEPS)).round().int().tolist():
        composite = torch.where(inpainted.hidden, output[step], inpainted.images)
        rows[f"step {step}" if step else "start"] = composite
    rows["image"] = inpainted.images
    figure = rows_figure([(name, list(tiles(images))) for name, images in rows.items()], below=PLOTS)

    width, height = figure.get_size_inches()
    bottom, high = 0.45 / height, (PLOTS / DPI - 0.8) / height
    left, right = (figure.add_axes((x + 0.65 / width, bottom, 0.48 - 0.65 / width, high)) for x in (0, 0.5))
    steps = energies.shape[1] - 1
    for number, block in enumerate(energies):
        _plot_images(left, np.arange(steps + 1) + number * steps, block - block[0])
    _plot_images(right, np.arange(len(output)), torch.stack([masked_psnr(inpainted, step) for step in output]))
    for axes, name in ((left, f"change of energy ({LINES})"), (right, f"masked PSNR, dB ({LINES})")):
        tidy(axes)
        axes.set_xlabel("step", fontsize=7)
        axes.set_title(name, fontsize=7, pad=3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def attention_figure(inpainted: Inpainted) -> Figure:
    """Draw one column per image: the image, its visible patches, and the attention of the framed patch.

    The attention is averaged over heads, then shown per head. Darker is more. Black is the most that a patch other than
    the framed one gets in the map, or twice the mean if that is more, so that uniform attention is grey.
    """
    assert inpainted.attention is not None
    weights = inpainted.attention.weights[:, :HEADS]  # (M, H, rows, columns)
    maps = torch.cat([inpainted.attention.weights.mean(1, keepdim=True), weights], 1)
    others = maps.flatten(2).scatter(2, inpainted.attention.chosen.view(-1, 1, 1).expand(-1, maps.shape[1], 1), 0.0)
    most = torch.maximum(others.amax(2), 2 * maps.mean((2, 3)))[..., None, None]
    light = 1 - (maps / most.clamp(min=1e-12)).clamp(max=1)
    patch = inpainted.images.shape[-2] // maps.shape[2], inpainted.images.shape[-1] // maps.shape[3]
    light = light.repeat_interleave(patch[0], 2).repeat_interleave(patch[1], 3)
    rows = {"image": inpainted.images, "visible patches": visible(inpainted), "all heads": light[:, :1]}
    rows |= {f"head {head}": light[:, head : head + 1] for head in range(1, light.shape[1])}
    grid, chosen = (maps.shape[2], maps.shape[3]), inpainted.attention.chosen.tolist()
    framed = [
        (name, [frame_cell(tile, cell, grid, CHOSEN, 2) for tile, cell in zip(tiles(images), chosen, strict=True)])
        for name, images in rows.items()
    ]
    return rows_figure(framed)


def visible(inpainted: Inpainted) -> Tensor:
    """Return the images (M, C, H, W) with a hatch in place of hidden patches."""
    height, width = inpainted.images.shape[-2:]
    period = max(4, height // 16)
    places = torch.arange(height, device=inpainted.images.device)[:, None] + torch.arange(width)
    hatch = torch.where(places % period < period / 4, HATCH[1], HATCH[0])
    return torch.where(inpainted.hidden, hatch.to(inpainted.images), inpainted.images)


def masked_psnr(inpainted: Inpainted, output: Tensor) -> Tensor:
    """Return the PSNR (M,) of the hidden pixels of an output, in dB; 100 where none is hidden."""
    errors = ((output - inpainted.images).square() * inpainted.hidden).sum((1, 2, 3))
    return psnr(errors.double() / (inpainted.hidden.sum((1, 2, 3)) * output.shape[1]).clamp(min=1))


def _plot_images(axes: Axes, steps: np.ndarray, values: Tensor) -> None:
    """Plot the values (S + 1, M) of each image and their mean."""
    axes.plot(steps, values.numpy(), color="0.8", linewidth=0.6)
    axes.plot(steps, values.mean(1).numpy(), "o-", color="black", linewidth=1.2, markersize=3)
