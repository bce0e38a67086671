"""Pictures of masked images: what was filled in, how the model came to it, and where it looked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fragrecon.evaluation.pixels.inpainting_examples import Inpainted
from fragrecon.objectives.reconstruction import psnr

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HIDDEN = 0.5
"""The grey of masked patches."""
IMAGES, STEPS, HEADS = 4, 9, 8
"""That are shown at most where steps or heads stand beside each other."""
CHOSEN = "tab:red"


def masked_figure(filling: Inpainted) -> Figure:
    """A column an image: as it is, what was visible, all that the model says, and that only where nothing was visible.

    Below each, the peak signal-to-noise ratio of the masked patches.
    """
    rows = {"image": filling.images, "visible": visible(filling), "output": filling.output}
    rows["composite"] = filling.composite
    figure, panels = _grid(len(rows), len(filling.images), left=0.7, above=0.05, below=0.2)
    for (name, images), line in zip(rows.items(), panels, strict=True):
        for image, axes in zip(images, line, strict=True):
            _draw(axes, image)
        line[0].set_ylabel(name, fontsize=7, rotation=0, ha="right", va="center")
    for axes, ratio in zip(panels[-1], masked_psnr(filling, filling.output).tolist(), strict=True):
        axes.set_xlabel(f"{ratio:.1f} dB", fontsize=7)
    return figure


def descent_figure(filling: Inpainted) -> Figure:
    """A row an image: what was visible, what the model fills in after so many steps, and the image itself.

    Below, for all images, how far the energy has fallen since a block of weights began, and the peak signal-to-noise
    ratio of the masked patches: the mean, black, and image by image.
    """
    from matplotlib.ticker import MaxNLocator

    assert filling.steps is not None
    output, energies = filling.steps.output, filling.steps.energies
    shown, few = _spread(len(output), STEPS), filling.first(IMAGES)
    titles = ["visible", *("no step" if step == 0 else f"step {step}" for step in shown), "image"]
    figure, panels = _grid(len(few.images), len(titles), below=1.7)
    for number, line in enumerate(panels):
        composites = torch.where(few.hidden[number], output[shown, number], few.images[number])
        for axes, picture in zip(line, [visible(few)[number], *composites, few.images[number]], strict=True):
            _draw(axes, picture)
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title, fontsize=7, pad=3)

    width, height = figure.get_size_inches()
    left = figure.add_axes((0.55 / width, 0.4 / height, 0.42, 1.0 / height))
    right = figure.add_axes((0.56, 0.4 / height, 0.42, 1.0 / height))
    ratios = torch.stack([masked_psnr(filling, step) for step in output])  # (S + 1, M)
    steps = energies.shape[1] - 1
    for number, block in enumerate(energies):
        places = np.arange(steps + 1) + number * steps
        _course(left, places, block - block[0])
    _course(right, np.arange(len(ratios)), ratios)
    for axes, name in ((left, "energy, from its start"), (right, "masked PSNR, dB")):
        axes.set_xlabel("step", fontsize=7)
        axes.set_title(name, fontsize=7, pad=3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelsize=6)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def attention_figure(filling: Inpainted) -> Figure:
    """A row an image: itself, what was visible, and where its framed patch attends: all heads' mean, and each head.

    The darker, the more, up to the most in each picture.
    """
    assert filling.attention is not None
    few = filling.first(IMAGES)
    assert few.attention is not None
    heads = min(few.attention.weights.shape[1], HEADS)
    titles = ["image", "visible", "all heads", *(f"head {head + 1}" for head in range(heads))]
    figure, panels = _grid(len(few.images), len(titles))
    rows, columns = few.attention.weights.shape[-2:]
    for number, line in enumerate(panels):
        chosen = divmod(int(few.attention.chosen[number]), columns)
        weights = few.attention.weights[number]
        for axes, picture in zip(line, [few.images[number], visible(few)[number]], strict=False):
            _draw(axes, picture)
            _frame(axes, chosen, (picture.shape[1] / rows, picture.shape[2] / columns))
        for axes, map_ in zip(line[2:], [weights.mean(0), *weights[:heads]], strict=True):
            axes.imshow(map_.numpy(), cmap="Greys", vmin=0)
            _bare(axes)
            _frame(axes, chosen, (1, 1))
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title, fontsize=7, pad=3)
    return figure


def visible(filling: Inpainted) -> Tensor:
    """The images (M, C, H, W) as the model saw them, with grey where they were hidden."""
    return torch.where(filling.hidden, HIDDEN, filling.images)


def masked_psnr(filling: Inpainted, output: Tensor) -> Tensor:
    """The peak signal-to-noise ratio (M,) of the hidden pixels, in dB; best where none was hidden."""
    errors = ((output - filling.images).square() * filling.hidden).sum((1, 2, 3))
    return psnr(errors.double() / (filling.hidden.sum((1, 2, 3)) * output.shape[1]).clamp(min=1))


def _spread(count: int, most: int) -> list[int]:
    """Up to so many of ``count`` places, evenly, with the first and the last."""
    return torch.linspace(0, count - 1, min(count, most)).round().int().tolist()


def _grid(
    rows: int, columns: int, left: float = 0.05, above: float = 0.2, below: float = 0.05
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of small pictures, with so many inches around them."""
    from matplotlib.figure import Figure

    width, height = 1.1 * columns + left + 0.05, 1.1 * rows + below + above
    figure = Figure(figsize=(width, height), dpi=160)
    panels = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(
        left=left / width,
        right=1 - 0.05 / width,
        top=1 - above / height,
        bottom=below / height,
        wspace=0.06,
        hspace=0.06,
    )
    return figure, panels.tolist()


def _draw(axes: Axes, image: Tensor) -> None:
    """A picture (C, H, W), grey or coloured."""
    pixels = image.movedim(0, -1).numpy()
    grey = pixels.shape[-1] == 1
    axes.imshow(pixels[..., 0] if grey else pixels, cmap="gray" if grey else None, vmin=0, vmax=1)
    _bare(axes)


def _bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _frame(axes: Axes, cell: tuple[int, int], size: tuple[float, float]) -> None:
    from matplotlib.patches import Rectangle

    corner = cell[1] * size[1] - 0.5, cell[0] * size[0] - 0.5
    axes.add_patch(Rectangle(corner, size[1], size[0], fill=False, edgecolor=CHOSEN, linewidth=1.2))


def _course(axes: Axes, places: np.ndarray, values: Tensor) -> None:
    """Of values (S + 1, M), each image and the mean."""
    axes.plot(places, values.numpy(), color="0.8", linewidth=0.6)
    axes.plot(places, values.mean(1).numpy(), "o-", color="black", linewidth=1.2, markersize=3)
