"""Draw a puzzle and the groups of its fragments: as images, as a confusion matrix, and by t-SNE of the embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fragrecon.evaluation.examples import Example
from fragrecon.report.figures.plotting import blank, colours, draw_matrix
from fragrecon.report.figures.projections import tsne
from fragrecon.report.figures.tiles import FONT, LETTER, Page, fit, sheet, to_pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FRAGMENT, SPACE = 32, 4
"""Maximum side of a fragment and space between fragments, in pixels."""
PER_LINE = 8, 32
"""Minimum and maximum number of fragments in a row of a group; in between, those of an image."""
TITLE, MARGIN, LABEL = 26, 26, 20
"""Height of the line of titles, space between panels, and width of the name of an image or a group, in pixels."""
POINTS = 1000
"""Maximum number of fragments in the t-SNE figure."""
ROOM = 2
"""Side of its grid, relative to the smallest square that holds the fragments."""
PALE = 0.45
"""Opacity of the background of letters."""
UNNAMED = "?"
"""Name of a group that is named after no image."""
LETTERS = 26


def puzzle_figure(example: Example, title: str) -> Figure:
    """Draw a puzzle three times: shuffled, as the original images, and grouped.

    Args:
        example: puzzle with its groups.
        title: title of the groups.

    Returns:
        The figure. A line on the left joins the rows of a group, whose name is beside it. A fragment that is not from
        the image that its group is named after bears the name of its image.
    """
    sources, letters = example.batch.source_ids[0].tolist(), names_of(example.batch.images_per_puzzle)
    tiles = fit(example.batch.fragments[0], FRAGMENT)
    down, across = tiles.shape[2] + SPACE, tiles.shape[3] + SPACE
    names = dict(sorted(enumerate(example.names), key=lambda named: len(letters) if named[1] is None else named[1]))
    members = {group: _ordered(example.groups[0] == group, sources, names[group]) for group in names}
    per_line = min(max(example.grid[0] * example.grid[1], PER_LINE[0]), PER_LINE[1])
    lines = {group: -(-len(found) // per_line) for group, found in members.items()}
    height = sum(lines.values()) * down + (len(lines) - 1) * SPACE

    images = fit(example.images, max(example.grid[0] * tiles.shape[2], example.grid[1] * tiles.shape[3]))
    image_down, image_across = images.shape[2] + SPACE, images.shape[3] + SPACE + LABEL
    image_columns = max(1, round(len(images) * image_down / height))
    height = max(height, -(-len(images) // image_columns) * image_down)
    columns = -(-len(tiles) // (height // down))
    titles = f"{len(tiles)} shuffled fragments", f"{len(images)} images", title
    widths = columns * across, image_columns * image_across, per_line * across
    first, second, third = (max(panel, LETTER * len(words)) for panel, words in zip(widths, titles, strict=True))
    middle = SPACE + first + MARGIN
    right = middle + second + MARGIN + LABEL
    page = Page(right + third + SPACE, TITLE + height + SPACE)

    for words, left in zip(titles, (SPACE, middle + LABEL, right), strict=True):
        page.write(words, left, TITLE / 2, "left")
    for number, tile in enumerate(tiles):
        page.put(tile, SPACE + number % columns * across, TITLE + number // columns * down)
    for number, (image, letter) in enumerate(zip(images, letters, strict=True)):
        left, top = middle + number % image_columns * image_across, TITLE + number // image_columns * image_down
        page.put(image, left + LABEL, top)
        page.write(letter, left + LABEL - SPACE, top + image.shape[1] / 2, "right")
    top = TITLE
    for group, found in members.items():
        name, bottom = names[group], top + lines[group] * down - SPACE
        page.write(UNNAMED if name is None else letters[name], right - 2 * SPACE, (top + bottom) / 2, "right")
        page.pixels[:, top:bottom, right - SPACE] = 0
        for number, member in enumerate(found):
            tile, (left, upper) = tiles[member], (right + number % per_line * across, top + number // per_line * down)
            if sources[member] == name:
                page.put(tile, left, upper)
            else:
                page.put(tile // 2, left, upper)
                style = {"color": "white", "weight": "bold"}
                page.write(letters[sources[member]], left + tile.shape[2] / 2, upper + tile.shape[1] / 2, **style)
        top = bottom + 2 * SPACE
    return page.figure()


def confusion_figure(example: Example) -> Figure:
    """Draw the number of fragments of each image (row) in the group assigned to each image (column)."""
    table, images = example.confusion, example.images
    n, names = len(images), names_of(len(images))
    groups = [name if number in example.names else UNNAMED for number, name in enumerate(names)]
    side, font = max(2.6, 0.3 * n), 7 if n <= LETTERS else 5
    figure = blank(side + 0.9, side + 0.9)
    axes = figure.subplots()
    draw_matrix(axes, table.numpy(), float(table.sum(1).max()), font)
    gap = max(1, images.shape[-2] // 16)
    column = sheet(list(to_pixels(images)), 1, gap).movedim(0, -1).numpy()
    wide = column.shape[1] / (images.shape[-2] + gap)
    axes.imshow(column, extent=(-0.5 - wide, -0.5, n - 0.5, -0.5))
    axes.set(xlim=(-0.5 - wide, n - 0.5), ylim=(n - 0.5, -0.5))
    axes.set_xticks(range(n), groups, fontsize=font)
    axes.set_yticks(range(n), names, fontsize=font)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("group, by the image it is named after", fontsize=8)
    axes.set_ylabel("image", fontsize=8)
    share = float(table.diagonal().sum() / table.sum())
    axes.set_title(f"{share:.0%} of the fragments in the group of their image", fontsize=7)
    return figure


def embedding_figure(example: Example) -> Figure:
    """Draw the fragments by t-SNE of their embeddings, moved to a grid, and in a second panel the names of images."""
    sources = example.batch.source_ids[0, :POINTS].tolist()  # fragments are in random order
    names, hues = names_of(example.batch.images_per_puzzle), colours(example.batch.images_per_puzzle)
    side = math.ceil(ROOM * math.sqrt(len(sources)))
    cells = on_grid(tsne(example.embeddings[0, :POINTS], example.grid[0] * example.grid[1] - 1), side)
    tiles = fit(example.batch.fragments[0, :POINTS], max(8, 640 // side - SPACE))
    down, across = tiles.shape[2] + SPACE, tiles.shape[3] + SPACE
    step = side * across + MARGIN
    page = Page(step + side * across + 2 * SPACE, TITLE + side * down + SPACE)
    for tile, source, (row, column) in zip(tiles, sources, cells, strict=True):
        left, top = SPACE + column * across, TITLE + row * down
        page.put(tile, left, top)
        light = torch.tensor([255 * (1 - PALE * (1 - value)) for value in hues[source]]).to(torch.uint8)
        page.put(light.view(3, 1, 1).expand_as(tile), left + step, top)
        middle = left + step + tile.shape[2] / 2, top + tile.shape[1] / 2
        page.write(names[source], *middle, fontsize=min(FONT, 0.4 * min(tile.shape[1:])))
    page.write("fragments, by t-SNE of their embeddings", SPACE, TITLE / 2, "left")
    page.write("the images they were cut from", SPACE + step, TITLE / 2, "left")
    return page.figure()


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


def _ordered(chosen: Tensor, sources: Sequence[int], name: int | None) -> list[int]:
    """Return the fragments of a group: those of the image it is named after, then the others, image by image."""
    members: list[int] = torch.nonzero(chosen).flatten().tolist()
    return sorted(members, key=lambda member: (sources[member] != name, sources[member]))
