"""What the page of a model that fills in shows.

Shapes: one image (C, H, W) in 0..1 of P patches; pictures (3, H', W') uint8.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fragrecon.demo.drawing import ACCENT, SIDE, enlarged, framed_cell, ink, ruled
from fragrecon.evaluation.pixels.inpainting_examples import Inpainted, inpaint
from fragrecon.models.base import Inpainter
from fragrecon.objectives.masked import draw_mask
from fragrecon.report.figures.inpainting import masked_psnr, visible
from fragrecon.seeds import torch_generator

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

THUMBNAIL = 192
"""Least width of pictures of single heads, in pixels."""

GREY = "0.5"
"""Of axes: to be read on light and on dark paper."""


@dataclass(frozen=True)
class Scene:
    """What a model is asked.

    Attributes:
        image: (C, H, W).
        mask: (P,), True where hidden.
        chosen: the patch whose attention is looked at; None for one next to the middle.
    """

    image: Tensor
    mask: Tensor
    chosen: int | None = None


def answer(model: Inpainter, scene: Scene, device: torch.device) -> Inpainted:
    """What a model on this device fills in of the scene's one image."""
    chosen = None if scene.chosen is None else torch.tensor([scene.chosen], device=device)
    return inpaint(model, scene.image.unsqueeze(0).to(device), scene.mask.unsqueeze(0).to(device), chosen)


def random_mask(patches: int, ratio: float, draw: int) -> Tensor:
    """A mask (P,) that hides this share of the patches, but at least one and never all.

    Of one ``draw`` the mask of a larger share hides all that the mask of a smaller one does.
    """
    return draw_mask(1, patches, ratio, torch_generator(draw, "demo"))[0]


def toggled(mask: Tensor, patch: int) -> Tensor:
    """A mask (P,) with one patch shown that was hidden, or hidden that was shown.

    It stays as it was where nothing or everything would be hidden then: models need something of both.
    """
    changed = mask.clone()
    changed[patch] = ~mask[patch]
    return mask if changed.all() or not changed.any() else changed


def patch_at(point: tuple[float, float], size: tuple[int, int], grid: tuple[int, int]) -> int:
    """The patch under a point.

    Args:
        point: x and y in a picture.
        size: height and width of that picture.
        grid: rows and columns of patches.
    """
    row, column = (
        min(max(int(at * cells / side), 0), cells - 1)
        for at, side, cells in zip(reversed(point), size, grid, strict=True)
    )
    return row * grid[1] + column


def steps_of(filling: Inpainted) -> int:
    """S, steps of the descent; 0 of a model that does not descend."""
    return len(filling.steps.output) - 1 if filling.steps else 0


def at_step(filling: Inpainted, step: int) -> Inpainted:
    """With the output after that many steps of the descent."""
    return replace(filling, output=filling.steps.output[step]) if filling.steps else filling


def ratios_of(filling: Inpainted) -> Tensor:
    """The masked PSNR (S + 1,) of the one image before the first step and after each, in dB."""
    outputs = [at_step(filling, step).output for step in range(steps_of(filling) + 1)]
    return torch.cat([masked_psnr(filling, output) for output in outputs])


def facts_of(filling: Inpainted, patches: int) -> dict[str, str]:
    """How much of the one image was hidden, and how well it is filled in."""
    hidden = round(float(filling.hidden.float().mean()) * patches)
    return {
        "hidden": f"{hidden} of {patches} patches",
        "masked PSNR": f"{float(masked_psnr(filling, filling.output)):.2f} dB",
    }


def question_pictures(filling: Inpainted, grid: tuple[int, int]) -> dict[str, Tensor]:
    """The one image, and what was visible of it, ruled into its patches."""
    return {
        "image": enlarged(ink(filling.images[0])),
        "visible": ruled(enlarged(ink(visible(filling)[0])), grid),
    }


def answer_pictures(filling: Inpainted) -> dict[str, Tensor]:
    """All that the model says, and that only where nothing was visible."""
    return {"output": enlarged(ink(filling.output[0])), "composite": enlarged(ink(filling.composite[0]))}


def mean_picture(filling: Inpainted) -> Tensor:
    """Where the chosen patch attends by the mean of all heads, as `attended` draws it on the composite."""
    assert filling.attention is not None
    return attended(filling.composite[0], filling.attention.weights[0].mean(0), int(filling.attention.chosen[0]))


def head_pictures(filling: Inpainted) -> dict[str, Tensor]:
    """The same for each head, by its number and the share that goes where most does."""
    assert filling.attention is not None
    chosen = int(filling.attention.chosen[0])
    return {
        f"{number}, up to {float(weights.max()):.0%}": attended(filling.composite[0], weights, chosen, THUMBNAIL)
        for number, weights in enumerate(filling.attention.weights[0], 1)
    }


def attended(image: Tensor, weights: Tensor, chosen: int, side: int = SIDE) -> Tensor:
    """An image in grey, its patches the more coloured the larger their weight (rows, columns), up to the largest; the
    chosen patch is framed.
    """
    grid = (weights.shape[0], weights.shape[1])
    sides = image.shape[-2] // grid[0], image.shape[-1] // grid[1]
    most = weights.max().clamp(min=1e-12)
    cover = (weights / most).repeat_interleave(sides[0], 0).repeat_interleave(sides[1], 1) * 0.85
    colour = torch.tensor(ACCENT).view(3, 1, 1)
    grey = 0.35 + 0.65 * image.mean(0, keepdim=True)
    return framed_cell(enlarged(ink(grey * (1 - cover) + colour * cover), side), chosen, grid)


def chosen_picture(filling: Inpainted, grid: tuple[int, int]) -> Tensor:
    """The composite, ruled into patches, the one whose attention is looked at framed."""
    assert filling.attention is not None
    return framed_cell(ruled(enlarged(ink(filling.composite[0])), grid), int(filling.attention.chosen[0]), grid)


def descent_figure(filling: Inpainted, step: int) -> Figure:
    """The energy and the masked PSNR before the first step and after each, with ``step`` marked.

    Each block of weights has an energy of its own.
    """
    from matplotlib.figure import Figure

    assert filling.steps is not None
    energies = filling.steps.energies[..., 0]  # (L, T + 1)
    length = energies.shape[1] - 1
    figure = Figure(figsize=(11, 2.1), facecolor="none")
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.065, right=0.995, top=0.87, bottom=0.24, wspace=0.13)
    for number, energy in enumerate(energies):
        left.plot(range(number * length, (number + 1) * length + 1), energy.numpy(), "o-", color=GREY, ms=3, lw=1.2)
    block = min(step // length, len(energies) - 1)
    _mark(left, step, float(energies[block, step - block * length]))
    ratios = ratios_of(filling)
    right.plot(range(len(ratios)), ratios.numpy(), "o-", color=GREY, ms=3, lw=1.2)
    _mark(right, step, float(ratios[step]))
    for axes, title in ((left, "energy"), (right, "masked PSNR, dB")):
        _plain(axes, title)
    return figure


def _mark(axes: Axes, step: int, value: float) -> None:
    axes.plot([step], [value], "o", color=ACCENT, ms=8)


def _plain(axes: Axes, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_facecolor("none")
    axes.set_title(title, fontsize=10, color=GREY)
    axes.set_xlabel("step", fontsize=9, color=GREY)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=8, colors=GREY)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
