"""Pictures of puzzles, drawn by matplotlib without a window."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fragrecon import files
from fragrecon.data.puzzles import FragmentBatch, join

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAP = 0.12
"""Space between fragments, as a share of their side."""


def puzzle_figure(batch: FragmentBatch, predicted: Tensor, grid: tuple[int, int], title: str) -> Figure:
    """The first puzzle of a batch three times: shuffled, as the images it was cut from, and grouped.

    Args:
        batch: with its fragments in any type.
        predicted: (B, F), cluster of each fragment.
        grid: rows and columns of fragments in an image.
        title: of the groups.
    """
    from matplotlib.figure import Figure

    fragments = batch.as_float().fragments[0].cpu()
    sources, positions, groups = batch.source_ids[0].cpu(), batch.positions[0].cpu(), predicted[0].cpu()
    images, cells = batch.images_per_puzzle, grid[0] * grid[1]
    longest = max(cells, int(torch.bincount(groups).max()))

    figure = Figure(figsize=(3.1 + 1.6 + 3.1 * longest / cells, 2.4), dpi=160, layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[cells, cells / 2, longest])
    for place, fragment in enumerate(fragments):
        _draw(left, fragment, place // cells, place % cells)
    _frame(left, f"{images * cells} shuffled fragments", images, cells)

    in_order = fragments[torch.argsort(sources * cells + positions)].view(images, cells, *fragments.shape[1:])
    names = [chr(ord("A") + i) if i < 26 else str(i) for i in range(images)]
    for number, image in enumerate(join(in_order, grid)):
        _draw(middle, image, number // 2, number % 2)
        middle.text(number % 2 - 0.46, number // 2, names[number], fontsize=5, ha="right", va="center")
    _frame(middle, f"the {images} images", -(-images // 2), 2)

    for row, group in enumerate(torch.unique(groups)):
        members = torch.nonzero(groups == group).flatten()
        counts = torch.bincount(sources[members], minlength=images)
        # The group's majority comes first; a fragment of another image carries that image's letter.
        order = members[torch.argsort(-(counts[sources[members]] * images) + sources[members])]
        majority = int(counts.argmax())
        for column, member in enumerate(order):
            _draw(right, fragments[member], row, column)
            if int(sources[member]) != majority:
                text = {"fontsize": 4, "color": "white", "ha": "center", "va": "center"}
                box = {"boxstyle": "circle,pad=0.15", "facecolor": "black", "edgecolor": "none", "alpha": 0.65}
                right.text(column, row, names[int(sources[member])], bbox=box, **text)
        right.text(-0.7, row, names[majority], fontsize=5, ha="right", va="center")
    _frame(right, title, images, longest)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with files.atomic_file(path) as file:
        figure.savefig(file, format="png")


def _draw(axes: Axes, image: Tensor, row: int, column: int) -> None:
    pixels: Any = image.movedim(0, -1).numpy()
    half = 0.5 - GAP / 2
    extent = (column - half, column + half, row + half, row - half)
    if pixels.shape[-1] == 1:
        axes.imshow(pixels[..., 0], extent=extent, cmap="gray", vmin=0, vmax=1)
    else:
        axes.imshow(pixels, extent=extent)


def _frame(axes: Axes, title: str, rows: int, columns: int) -> None:
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    axes.set_title(title, fontsize=7)
    axes.axis("off")
