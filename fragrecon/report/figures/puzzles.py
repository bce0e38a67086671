"""Pictures of puzzles, drawn by matplotlib without a window."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fragrecon import files
from fragrecon.data.puzzles import FragmentBatch, in_place
from fragrecon.evaluation.examples import Example
from fragrecon.report.figures.pictures import colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAP = 0.12
"""Space between fragments, as a share of their side."""
POINTS = 1000
"""Fragments that are spread out in the plane at most."""
ROOM = 2
"""How much longer a side of the grid they are spread out on is than that of a square of them."""
PALE = 0.55
"""Share of a colour that letters are to be read on."""
LETTERS = 26
PERPLEXITY = 30
"""Of t-SNE at most: about as many fragments count as near."""


def puzzle_figure(batch: FragmentBatch, predicted: Tensor, grid: tuple[int, int], title: str) -> Figure:
    """The first puzzle of a batch three times: shuffled, as the images it was cut from, and grouped.

    Args:
        batch: with its fragments in any type.
        predicted: (B, F), cluster of each fragment.
        grid: rows and columns of fragments in an image.
        title: of the groups.
    """
    from matplotlib.figure import Figure

    batch = batch.as_float().to("cpu")
    fragments, sources, groups = batch.fragments[0], batch.source_ids[0], predicted[0].cpu()
    images, cells = batch.images_per_puzzle, grid[0] * grid[1]
    names = names_of(images)
    grouped = [_lines(sources, groups == group, images, 2 * cells) for group in torch.unique(groups)]
    lines = [line for group in sorted(grouped, key=lambda group: group[0].majority) for line in group]
    longest = max(len(line.members) for line in lines)

    widths = [cells, cells / 2, longest]
    figure = Figure(figsize=(3.1 * sum(widths) / cells, 3.1 * max(images, len(lines), 6) / cells + 0.4), dpi=160)
    left, middle, right = figure.subplots(1, 3, width_ratios=widths)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.92, wspace=0.12)
    for place, fragment in enumerate(fragments):
        _draw(left, fragment, place // cells, place % cells)
    _frame(left, f"{images * cells} shuffled fragments", images, cells)

    for number, image in enumerate(in_place(batch.fragments, batch, grid)):
        row, column = number // 2, number % 2
        _draw(middle, image, row, column)
        _mark(middle, row - 0.36, column - 0.36, names[number])
    _frame(middle, f"the {images} images", -(-images // 2), 2)

    for row, line in enumerate(lines):
        for column, member in enumerate(line.members):
            _draw(right, fragments[member], row, column)
            if int(sources[member]) != line.majority:
                _mark(right, row, column, names[int(sources[member])])
        if line.first:
            right.text(-0.7, row, names[line.majority], fontsize=6, ha="right", va="center")
    _frame(right, title, len(lines), longest)
    return figure


def confusion_figure(example: Example) -> Figure:
    """How many fragments of each image, a row, are in the group that is given to each image, a column."""
    from matplotlib.figure import Figure

    table, images = example.confusion, example.images
    n, names, most = len(images), names_of(len(images)), float(table.sum(1).max())
    side, font = max(2.6, 0.3 * n), 7 if n <= LETTERS else 5
    figure = Figure(figsize=(side + 0.9, side + 0.9), dpi=160, layout="constrained")
    axes = figure.subplots()
    axes.imshow(table.numpy(), cmap="Greys", vmin=0, vmax=most)
    for row, column in torch.nonzero(table).tolist():
        count = float(table[row, column])
        colour = "white" if count > most / 2 else "black"
        axes.text(column, row, f"{count:.0f}", fontsize=font, color=colour, ha="center", va="center")
    for row, image in enumerate(images):
        _draw(axes, image, row, -1)
    axes.set(xlim=(-1.5, n - 0.5), ylim=(n - 0.5, -0.5))
    axes.set_xticks(range(n), names, fontsize=font)
    axes.set_yticks(range(n), names, fontsize=font)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("group, by the image it is taken for", fontsize=8)
    axes.set_ylabel("image", fontsize=8)
    share = float(table.diagonal().sum() / table.sum())
    axes.set_title(f"{share:.0%} of the fragments in the group of their image", fontsize=7)
    return figure


def reconstructions_figure(example: Example) -> Figure:
    """The images above what the model decodes from their fragments' embeddings, and how far that is off."""
    from matplotlib.figure import Figure

    assert example.decoded is not None
    images, decoded = example.images, example.in_place(example.decoded)
    ratios = -10 * (images - decoded).square().mean((1, 2, 3)).log10()
    n, names = len(images), names_of(len(images))
    bands = -(-n // 10)
    columns = -(-n // bands)
    figure = Figure(figsize=(0.9 * columns + 0.75, 2.1 * bands), dpi=160)
    axes = figure.subplots()
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1)
    for number in range(n):
        band, column = divmod(number, columns)
        row = 2.3 * band
        _draw(axes, images[number], row, column)
        _draw(axes, decoded[number], row + 1, column)
        _mark(axes, row - 0.38, column - 0.38, names[number])
        axes.text(column, row + 1.62, f"{ratios[number]:.1f} dB", fontsize=6, ha="center", va="center")
    for band in range(bands):
        for row, text in ((0, "image"), (1, "decoded"), (1.62, "PSNR")):
            axes.text(-0.6, 2.3 * band + row, text, fontsize=6, ha="right", va="center")
    _frame(axes, "", 2.3 * bands, columns)
    axes.set_xlim(-1.3, columns - 0.5)
    return figure


def embedding_figure(example: Example) -> Figure:
    """The fragments where t-SNE puts their embeddings, moved apart to a grid, and the same by their images' names."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    sources = example.batch.source_ids[0, :POINTS].tolist()  # of fragments in random order
    fragments = example.batch.as_float().fragments[0, :POINTS]
    names, hues = names_of(example.batch.images_per_puzzle), colours(example.batch.images_per_puzzle)
    side = math.ceil(ROOM * math.sqrt(len(sources)))
    cells = on_grid(in_plane(example.embeddings[0, :POINTS], example.grid[0] * example.grid[1] - 1), side)
    figure = Figure(figsize=(8, 4.2), dpi=160)
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


def in_plane(points: Tensor, near: int) -> Tensor:
    """Places (F, 2) in the unit square for points (F, D), by t-SNE (van der Maaten and Hinton, JMLR 2008).

    Args:
        points: two at least.
        near: how many others count as near to a point.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    # It starts from the plane of greatest variance, which there is not where all points are one or on a line.
    start = "pca" if min(points.shape) > 1 and float(points.std(0).max()) > 0 else "random"
    perplexity = max(1, min(near, PERPLEXITY, (len(points) - 1) / 3))
    with threadpool_limits(1):
        spread = TSNE(perplexity=perplexity, init=start, random_state=0).fit_transform(points.numpy())
    places = torch.from_numpy(spread)
    least, most = places.amin(0), places.amax(0)
    return (places - least) / (most - least).clamp(min=1e-12)


def on_grid(places: Tensor, side: int) -> list[tuple[int, int]]:
    """Rows and columns 0..side-1 near to places (F, 2) in the unit square, no two alike.

    The squares of the distances that places are moved by have the least sum.
    """
    ticks = torch.linspace(0, 1, side)
    cells = torch.cartesian_prod(ticks, ticks)  # row, column
    costs = torch.cdist(places.flip(1).double(), cells.double()).square()
    chosen = linear_sum_assignment(costs.numpy())[1]
    return [divmod(int(cell), side) for cell in chosen]


def names_of(images: int) -> list[str]:
    """What the images of a puzzle are called: A, B, C, and so on; by numbers where there are more than letters."""
    return [chr(ord("A") + i) if images <= LETTERS else str(i + 1) for i in range(images)]


class _Line(NamedTuple):
    """Some fragments of a group, the image most of the group comes from, and whether it is the group's first line."""

    members: list[int]
    majority: int
    first: bool


def _lines(sources: Tensor, chosen: Tensor, images: int, width: int) -> list[_Line]:
    """A group in lines of at most ``width`` fragments, those of the group's main image first."""
    members = torch.nonzero(chosen).flatten()
    counts = torch.bincount(sources[members], minlength=images)
    ordered = members[torch.argsort(sources[members] - counts[sources[members]] * images)].tolist()
    starts = range(0, len(ordered), width)
    return [_Line(ordered[start : start + width], int(counts.argmax()), start == 0) for start in starts]


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with files.atomic_file(path) as file:
        figure.savefig(file, format="png")


def _draw(axes: Axes, image: Tensor, row: float, column: float) -> None:
    """An image (C, H, W) in 0..1 as large as a cell of 1x1 takes it."""
    pixels: Any = image.movedim(0, -1).numpy()
    height, width, channels = pixels.shape
    longest = max(height, width)
    x, y = (0.5 - GAP / 2) * width / longest, (0.5 - GAP / 2) * height / longest
    extent = (column - x, column + x, row + y, row - y)
    if channels == 1:
        axes.imshow(pixels[..., 0], extent=extent, cmap="gray", vmin=0, vmax=1)
    else:
        axes.imshow(pixels, extent=extent)


def _mark(axes: Axes, row: float, column: float, name: str) -> None:
    box = {"boxstyle": "circle,pad=0.15", "facecolor": "black", "edgecolor": "none", "alpha": 0.65}
    axes.text(column, row, name, bbox=box, fontsize=4.5, color="white", ha="center", va="center")


def _frame(axes: Axes, title: str, rows: float, columns: int) -> None:
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    axes.set_title(title, fontsize=7)
    axes.axis("off")
