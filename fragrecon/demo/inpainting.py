"""Contents of the page of an inpainting model.

Shapes: one image (C, H, W) in [0, 1] of P patches; pictures (3, H', W') uint8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fragrecon.evaluation.pixels.inpainting_examples import Inpainted, inpaint
from fragrecon.models.base import Inpainter
from fragrecon.objectives.masked import draw_mask
from fragrecon.report.figures.inpainting import masked_psnr, visible
from fragrecon.report.figures.tiles import enlarge, frame_cell, to_pixels
from fragrecon.seeds import torch_generator

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDE, THUMBNAIL = 512, 192
"""Minimum width of pictures, and of those of single heads, in pixels: Gradio misplaces clicks on enlarged pictures."""

ACCENT, FRAME = (0.93, 0.42, 0.1), (0.1, 0.4, 0.95)
"""Colour of attention and the current step, and colour of the frame of the chosen patch."""
LINE = 4
"""Thickness of that frame in pixels."""

GREY = "0.5"
"""Colour of axes, legible on light and dark backgrounds."""


@dataclass(frozen=True)
class Scene:
    """The input of the model.

    Attributes:
        image: image (C, H, W).
        mask: mask (P,), True where hidden.
        chosen: patch whose attention is shown; by default a hidden one close to the centre.
    """

    image: Tensor
    mask: Tensor
    chosen: int | None = None


def answer(model: Inpainter, scene: Scene, device: torch.device) -> Inpainted:
    """Inpaint the image of a scene with a model on a device."""
    chosen = None if scene.chosen is None else torch.tensor([scene.chosen], device=device)
    return inpaint(model, scene.image.unsqueeze(0).to(device), scene.mask.unsqueeze(0).to(device), chosen)


def random_mask(patches: int, ratio: float, draw: int) -> Tensor:
    """Draw a mask (P,) that hides a share of the patches, but at least one and never all.

    For the same ``draw``, the mask of a larger share includes that of a smaller one.
    """
    return draw_mask(1, patches, ratio, torch_generator(draw, "demo"))[0]


def toggled(mask: Tensor, patch: int) -> Tensor:
    """Hide or show one patch of a mask (P,), unless none or all would be hidden; models need both."""
    changed = mask.clone()
    changed[patch] = ~mask[patch]
    return mask if changed.all() or not changed.any() else changed


def patch_at(point: tuple[float, float], size: tuple[int, int], grid: tuple[int, int]) -> int:
    """Find the patch at a point.

    Args:
        point: x and y in a picture.
        size: height and width of that picture.
        grid: rows and columns of patches.

    Returns:
        The index of the patch.
    """
    row, column = (
        min(max(int(at * cells / side), 0), cells - 1)
        for at, side, cells in zip(reversed(point), size, grid, strict=True)
    )
    return row * grid[1] + column


def steps_of(inpainted: Inpainted) -> int:
    """Return the number of steps of the descent, 0 for a model without one."""
    return len(inpainted.steps.output) - 1 if inpainted.steps else 0


def at_step(inpainted: Inpainted, step: int) -> Inpainted:
    """Replace the output by that after ``step`` steps of the descent."""
    return replace(inpainted, output=inpainted.steps.output[step]) if inpainted.steps else inpainted


def ratios_of(inpainted: Inpainted) -> Tensor:
    """Return the masked PSNR (S + 1,) in dB before the first step and after each step."""
    outputs = [at_step(inpainted, step).output for step in range(steps_of(inpainted) + 1)]
    return torch.cat([masked_psnr(inpainted, output) for output in outputs])


def facts_of(inpainted: Inpainted, patches: int) -> dict[str, str]:
    """Return the number of hidden patches and the score as text, by name."""
    hidden = round(float(inpainted.hidden.float().mean()) * patches)
    return {
        "hidden": f"{hidden} of {patches} patches",
        "masked PSNR": f"{float(masked_psnr(inpainted, inpainted.output)):.2f} dB",
    }


def input_pictures(inpainted: Inpainted, grid: tuple[int, int]) -> dict[str, Tensor]:
    """Draw the image, and its visible patches with lines between patches."""
    return {"image": picture(inpainted.images[0]), "visible": ruled(picture(visible(inpainted)[0]), grid)}


def output_pictures(inpainted: Inpainted) -> dict[str, Tensor]:
    """Draw the whole output, and the composite, which has the output in hidden patches only."""
    return {"output": picture(inpainted.output[0]), "composite": picture(inpainted.composite[0])}


def chosen_picture(inpainted: Inpainted, grid: tuple[int, int]) -> Tensor:
    """Draw the composite with a frame around the patch whose attention is shown."""
    assert inpainted.attention is not None
    composite = ruled(picture(inpainted.composite[0]), grid)
    return frame_cell(composite, int(inpainted.attention.chosen[0]), grid, FRAME, LINE)


def mean_picture(inpainted: Inpainted) -> Tensor:
    """Draw the attention averaged over heads."""
    assert inpainted.attention is not None
    return attended(inpainted.composite[0], inpainted.attention.weights[0].mean(0), int(inpainted.attention.chosen[0]))


def head_pictures(inpainted: Inpainted) -> dict[str, Tensor]:
    """Draw the attention of each head, named by its number and maximum weight."""
    assert inpainted.attention is not None
    chosen = int(inpainted.attention.chosen[0])
    return {
        f"{number}, up to {float(weights.max()):.0%}": attended(inpainted.composite[0], weights, chosen, THUMBNAIL)
        for number, weights in enumerate(inpainted.attention.weights[0], 1)
    }


def attended(image: Tensor, weights: Tensor, chosen: int, side: int = SIDE) -> Tensor:
    """Draw attention weights (rows, columns) in colour over a grey image, relative to their maximum.

    Args:
        image: image (C, H, W).
        weights: attention weights of the patches.
        chosen: index of the patch to frame.
        side: minimum width of the picture.

    Returns:
        The picture.
    """
    grid = (weights.shape[0], weights.shape[1])
    sides = image.shape[-2] // grid[0], image.shape[-1] // grid[1]
    most = weights.max().clamp(min=1e-12)
    cover = (weights / most).repeat_interleave(sides[0], 0).repeat_interleave(sides[1], 1) * 0.85
    colour = torch.tensor(ACCENT).view(3, 1, 1)
    grey = 0.35 + 0.65 * image.mean(0, keepdim=True)
    return frame_cell(picture(grey * (1 - cover) + colour * cover, side), chosen, grid, FRAME, LINE)


def picture(image: Tensor, side: int = SIDE) -> Tensor:
    """Enlarge an image by whole pixels to a width of at least ``side``."""
    return enlarge(to_pixels(image), math.ceil(side / image.shape[-1]))


def ruled(shown: Tensor, grid: tuple[int, int]) -> Tensor:
    """Draw thin lines between the cells of a grid."""
    lines = torch.zeros(shown.shape[-2:], dtype=torch.bool)
    height, width = lines.shape[0] // grid[0], lines.shape[1] // grid[1]
    for offset in (-1, 0):  # two pixels wide
        lines[height + offset :: height] = True
        lines[:, width + offset :: width] = True
    return torch.where(lines, (shown.int() + 2 * 255) // 3, shown.int()).to(torch.uint8)


def descent_figure(inpainted: Inpainted, step: int) -> Figure:
    """Plot the energy of each block and the masked PSNR over the steps, with the current ``step`` marked."""
    from matplotlib.figure import Figure

    assert inpainted.steps is not None
    energies, ratios = inpainted.steps.energies[..., 0], ratios_of(inpainted)  # (L, T + 1), (S + 1,)
    length = energies.shape[1] - 1
    block = min(step // length, len(energies) - 1)
    figure = Figure(figsize=(11, 2.1), facecolor="none")
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.065, right=0.995, top=0.87, bottom=0.24, wspace=0.13)
    for number, energy in enumerate(energies):
        _plot(left, number * length, energy, "energy")
    _plot(right, 0, ratios, "masked PSNR, dB")
    for axes, value in ((left, energies[block, step - block * length]), (right, ratios[step])):
        axes.plot([step], [float(value)], "o", color=ACCENT, ms=8)
    return figure


def _plot(axes: Axes, start: int, values: Tensor, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.plot(range(start, start + len(values)), values.numpy(), "o-", color=GREY, ms=3, lw=1.2)
    axes.set_facecolor("none")
    axes.set_title(title, fontsize=10, color=GREY)
    axes.set_xlabel("step", fontsize=9, color=GREY)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=8, colors=GREY)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
