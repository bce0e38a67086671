"""Pictures of puzzles, drawn by matplotlib without a window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fragrecon import files
from fragrecon.data.puzzles import FragmentBatch, join
from fragrecon.data.wear import CHANGES
from fragrecon.evaluation.robustness import Outcome
from fragrecon.evaluation.statistics import Scores, Summary, summary
from fragrecon.report.labels import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXES = {
    "images": "images a puzzle",
    "fragment_size": "side of a fragment, pixels",
    "noise": "standard deviation of the noise",
    "rotation": "share of fragments turned",
    "jitter": "strength of the colour jitter",
    "gap": "pixels worn off every side",
}
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
    names = [chr(ord("A") + i) if i < 26 else str(i) for i in range(images)]
    lines = [line for group in torch.unique(groups) for line in _lines(sources, groups == group, images, 2 * cells)]
    longest = max(len(line.members) for line in lines)

    widths = [cells, cells / 2, longest]
    figure = Figure(figsize=(3.1 * sum(widths) / cells, 3.1 * max(images, len(lines)) / cells + 0.4), dpi=160)
    left, middle, right = figure.subplots(1, 3, width_ratios=widths)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.92, wspace=0.12)
    for place, fragment in enumerate(fragments):
        _draw(left, fragment, place // cells, place % cells)
    _frame(left, f"{images * cells} shuffled fragments", images, cells)

    in_order = fragments[torch.argsort(sources * cells + positions)].view(images, cells, *fragments.shape[1:])
    for number, image in enumerate(join(in_order, grid)):
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


def robustness_figure(
    outcomes: Sequence[Outcome], usual: Mapping[str, Mapping[str, Scores]], metric: str = "kmeans_ari"
) -> Figure:
    """A panel for each axis: the metric's mean of each method against the axis' value, with its 95% interval.

    Args:
        outcomes: of the conditions.
        usual: scores of the usual condition, drawn at 0 where an axis is a change of the fragments.
        metric: that is drawn.
    """
    from matplotlib.figure import Figure

    axes_names = list(dict.fromkeys(outcome.condition.axis for outcome in outcomes))
    columns = min(3, len(axes_names))
    rows = -(-len(axes_names) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.7 * rows + 0.5), dpi=160, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    methods = list(usual)
    for axes, name in zip(panels, axes_names, strict=False):
        found = [outcome for outcome in outcomes if outcome.condition.axis == name]
        for number, method in enumerate(methods):
            points = [(o.condition.value, summary(o.scores[method][metric])) for o in found if method in o.scores]
            if name in CHANGES and points:
                points.insert(0, (0.0, summary(usual[method][metric][: points[0][1]["n"]])))
            if points:
                _curve(axes, points, method, number)
        missing = [o.condition.value for o in found if "model" not in o.scores]
        for value in missing:
            axes.annotate("model: n/a", (value, 0), (0, 4), textcoords="offset points", fontsize=6, ha="center")
        if name not in CHANGES:
            values = [outcome.condition.value for outcome in found]
            axes.set_xscale("log")
            axes.set_xticks(values, [f"{value:g}" for value in values])
            axes.minorticks_off()
        axes.set_xlabel(AXES.get(name, name), fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(axes_names) :]:
        axes.axis("off")
    for row in range(rows):
        panels[row * columns].set_ylabel(label(metric), fontsize=8)
    known = [panel.get_legend_handles_labels() for panel in panels]
    lines = {name: line for handles, names in known for line, name in zip(handles, names, strict=True)}
    named = {label(method): lines[label(method)] for method in methods if label(method) in lines}
    place = {"loc": "outside upper center", "ncols": min(len(named), 2 * columns), "fontsize": 7, "frameon": False}
    figure.legend(named.values(), named.keys(), **place)
    return figure


def _curve(axes: Axes, points: Sequence[tuple[float, Summary]], method: str, number: int) -> None:
    values, means = [value for value, _ in points], [found["mean"] for _, found in points]
    colour, width = ("black", 1.8) if method == "model" else (f"C{number}", 1.0)
    axes.plot(values, means, marker="o", markersize=2.5, color=colour, linewidth=width, label=label(method))
    low, high = ([found["ci95"][end] if found["ci95"] else found["mean"] for _, found in points] for end in (0, 1))
    axes.fill_between(values, low, high, color=colour, alpha=0.15, linewidth=0)


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


def _draw(axes: Axes, image: Tensor, row: int, column: int) -> None:
    pixels: Any = image.movedim(0, -1).numpy()
    half = 0.5 - GAP / 2
    extent = (column - half, column + half, row + half, row - half)
    if pixels.shape[-1] == 1:
        axes.imshow(pixels[..., 0], extent=extent, cmap="gray", vmin=0, vmax=1)
    else:
        axes.imshow(pixels, extent=extent)


def _mark(axes: Axes, row: float, column: float, name: str) -> None:
    box = {"boxstyle": "circle,pad=0.15", "facecolor": "black", "edgecolor": "none", "alpha": 0.65}
    axes.text(column, row, name, bbox=box, fontsize=4.5, color="white", ha="center", va="center")


def _frame(axes: Axes, title: str, rows: int, columns: int) -> None:
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    axes.set_title(title, fontsize=7)
    axes.axis("off")
