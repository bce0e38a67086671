"""Draw a puzzle and the groups of its fragments: as images, as a confusion matrix, and by t-SNE of the embeddings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fragrecon.data.puzzles import FragmentBatch, in_place
from fragrecon.evaluation.examples import Example
from fragrecon.report.figures.plotting import blank, colours, draw_matrix
from fragrecon.report.figures.projections import tsne

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAP = 0.12
"""Space between fragments, as a share of their side."""
POINTS = 1000
"""Maximum number of fragments in the t-SNE figure."""
ROOM = 2
"""Side of its grid, relative to the smallest square that holds the fragments."""
PALE = 0.55
"""Opacity of the background of letters."""
LETTERS = 26


def puzzle_figure(batch: FragmentBatch, predicted: Tensor, grid: tuple[int, int], title: str) -> Figure:
    """Draw the first puzzle of a batch three times: shuffled, as the original images, and grouped.

    Args:
        batch: batch with fragments of any dtype.
        predicted: cluster (B, F) of each fragment.
        grid: rows and columns of fragments in an image.
        title: title of the groups.

    Returns:
        The figure. A fragment that is not from the main image of its group is labelled with the name of its image.
    """
    batch = batch.as_float().to("cpu")
    fragments, sources, groups = batch.fragments[0], batch.source_ids[0], predicted[0].cpu()
    images, cells = batch.images_per_puzzle, grid[0] * grid[1]
    names = names_of(images)
    grouped = [_lines(sources, groups == group, images, 2 * cells) for group in torch.unique(groups)]
    lines = [line for group in sorted(grouped, key=lambda group: group[0].majority) for line in group]
    longest = max(len(line.members) for line in lines)

    widths = [cells, cells / 2, longest]
    figure = blank(3.1 * sum(widths) / cells, 3.1 * max(images, len(lines), 6) / cells + 0.4, layout=None)
    left, middle, right = figure.subplots(1, 3, width_ratios=widths)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.92, wspace=0.12)
    for place, fragment in enumerate(fragments):
        _draw(left, fragment, place // cells, place % cells)
    _finish(left, f"{images * cells} shuffled fragments", images, cells)

    for number, image in enumerate(in_place(batch.fragments, batch, grid)):
        row, column = number // 2, number % 2
        _draw(middle, image, row, column)
        _mark(middle, row - 0.36, column - 0.36, names[number])
    _finish(middle, f"{images} original images", -(-images // 2), 2)

    for row, line in enumerate(lines):
        for column, member in enumerate(line.members):
            _draw(right, fragments[member], row, column)
            if int(sources[member]) != line.majority:
                _mark(right, row, column, names[int(sources[member])])
        if line.first:
            right.text(-0.7, row, names[line.majority], fontsize=6, ha="right", va="center")
    _finish(right, title, len(lines), longest)
    return figure


def confusion_figure(example: Example) -> Figure:
    """Draw the number of fragments of each image (row) in the group assigned to each image (column)."""
    table, images = example.confusion.double(), example.images
    n, names = len(images), names_of(len(images))
    side, font = max(2.6, 0.3 * n), 7 if n <= LETTERS else 5
    figure = blank(side + 0.9, side + 0.9)
    axes = figure.subplots()
    draw_matrix(axes, table.numpy(), float(table.sum(1).max()), font)
    for row, image in enumerate(images):
        _draw(axes, image, row, -1)
    axes.set(xlim=(-1.5, n - 0.5), ylim=(n - 0.5, -0.5))
    axes.set_xticks(range(n), names, fontsize=font)
    axes.set_yticks(range(n), names, fontsize=font)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("image assigned to the group", fontsize=8)
    axes.set_ylabel("image", fontsize=8)
    share = float(table.diagonal().sum() / table.sum())
    axes.set_title(f"{share:.0%} of the fragments in the group of their image", fontsize=7)
    return figure


def embedding_figure(example: Example) -> Figure:
    """Draw the fragments by t-SNE of their embeddings, moved to a grid, and in a second panel the names of images."""
    from matplotlib.patches import Circle

    sources = example.batch.source_ids[0, :POINTS].tolist()  # fragments are in random order
    fragments = example.batch.as_float().fragments[0, :POINTS]
    names, hues = names_of(example.batch.images_per_puzzle), colours(example.batch.images_per_puzzle)
    side = math.ceil(ROOM * math.sqrt(len(sources)))
    cells = on_grid(tsne(example.embeddings[0, :POINTS], example.grid[0] * example.grid[1] - 1), side)
    figure = blank(8, 4.2, layout=None)
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.94, wspace=0.03)
    for fragment, source, (row, column) in zip(fragments, sources, cells, strict=True):
        _draw(left, fragment, row, column)
        light = [1 - PALE * (1 - value) for value in hues[source]]
        right.add_patch(Circle((column, row), 0.5 - GAP / 2, facecolor=light))
        right.text(column, row + 0.05, names[source], fontsize=140 / side, ha="center", va="center")
    for axes, title in ((left, "fragments, by t-SNE of their embeddings"), (right, "the images they were cut from")):
        axes.set_title(title, fontsize=7)
        axes.set(xlim=(-1, side), ylim=(side, -1), aspect="equal", xticks=[], yticks=[])
        axes.spines[:].set_color("0.8")
    return figure


def on_grid(points: Tensor, side: int) -> list[tuple[int, int]]:
    """Move points to distinct cells of a square grid, minimising the sum of squared distances.

    Args:
        points: points (F, 2) in the unit square.
        side: rows and columns of the grid.

    Returns:
        Row and column of each point.
    """
    ticks = torch.linspace(0, 1, side)
    cells = torch.cartesian_prod(ticks, ticks)  # row, column
    costs = torch.cdist(points.flip(1).double(), cells.double()).square()
    chosen = linear_sum_assignment(costs.numpy())[1]
    return [divmod(int(cell), side) for cell in chosen]


def names_of(images: int) -> list[str]:
    """Name the images of a puzzle A, B, C and so on, or 1, 2, 3 if there are more images than letters."""
    return [chr(ord("A") + i) if images <= LETTERS else str(i + 1) for i in range(images)]


class _Line(NamedTuple):
    """Fragments of a group, the image that most of the group is from, and whether this is the group's first line."""

    members: list[int]
    majority: int
    first: bool


def _lines(sources: Tensor, chosen: Tensor, images: int, width: int) -> list[_Line]:
    """Split a group into lines of at most ``width`` fragments, those of its main image first."""
    members = torch.nonzero(chosen).flatten()
    counts = torch.bincount(sources[members], minlength=images)
    ordered = members[torch.argsort(sources[members] - counts[sources[members]] * images)].tolist()
    starts = range(0, len(ordered), width)
    return [_Line(ordered[start : start + width], int(counts.argmax()), start == 0) for start in starts]


def _draw(axes: Axes, image: Tensor, row: float, column: float) -> None:
    """Draw an image (C, H, W) in [0, 1], scaled to fit a 1x1 cell."""
    pixels: Any = image.expand(3, -1, -1).movedim(0, -1).numpy()
    height, width = pixels.shape[:2]
    x, y = ((0.5 - GAP / 2) * side / max(height, width) for side in (width, height))
    axes.imshow(pixels, extent=(column - x, column + x, row + y, row - y))


def _mark(axes: Axes, row: float, column: float, name: str) -> None:
    box = {"boxstyle": "circle,pad=0.15", "facecolor": "black", "edgecolor": "none", "alpha": 0.65}
    axes.text(column, row, name, bbox=box, fontsize=4.5, color="white", ha="center", va="center")


def _finish(axes: Axes, title: str, rows: float, columns: int) -> None:
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    axes.set_title(title, fontsize=7)
    axes.axis("off")
