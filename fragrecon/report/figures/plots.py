"""Plots of numbers: how training went, how scores are spread, and what harder conditions do to them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fragrecon.data.corruption import CHANGES
from fragrecon.evaluation.clustering.robustness import Outcome
from fragrecon.evaluation.statistics import Scores, Summary, summary
from fragrecon.report.metrics import label, measure, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXES = {
    "images": "images a puzzle",
    "fragment_size": "side of a fragment, pixels",
    "noise": "standard deviation of the noise",
    "rotation": "share of fragments rotated",
    "jitter": "strength of the colour jitter",
    "gap": "pixels eroded from every side",
}
LOSSES = {"train/loss": ("training", "0.5", "--"), "val/loss": ("validation", "black", "-")}
"""How each is called and drawn."""
BINS = 10, 50
"""That scores are counted in: twice the root of their number, within these."""
_NOTE: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7}
_BESIDE: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "fontsize": 7, "ha": "right", "va": "center"}


def curves_figure(epochs: Sequence[Mapping[str, float]], monitor: str, selected: int | None) -> Figure:
    """The loss in training and validation, and below it the figure that selects if it is another, epoch by epoch.

    Args:
        epochs: rows of ``metrics.csv``, which may lack any of these figures.
        monitor: the figure that selects.
        selected: the epoch whose weights were kept, if one was selected.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows = 1 if monitor in LOSSES else 2
    figure = Figure(figsize=(4.8, 1.6 * rows + 0.8), dpi=160, layout="constrained")
    panels = figure.subplots(rows, 1, sharex=True, squeeze=False).flatten()
    upper, lower = panels[0], panels[-1]
    courses = {name: [(row["epoch"], row[name]) for row in epochs if name in row] for name in (*LOSSES, monitor)}
    losses = [name for name in LOSSES if courses[name]]
    highest = max((courses[name][-1][1] for name in losses), default=0.0)
    for name in losses:
        text, colour, style = LOSSES[name]
        course(upper, courses[name], style, colour)
        end = courses[name][-1]
        # The name of what ends higher stands higher, also where both end at one place.
        upper.annotate(text, end, (4, 0), **_NOTE, color=colour, va="bottom" if end[1] == highest else "top")
    if lower is not upper:
        course(lower, courses[monitor])
        lower.set_ylabel(label(monitor.replace("/", "_").replace("val_", "validation_")), fontsize=7)
    upper.margins(y=0.12)
    upper.set_ylabel("loss", fontsize=8)
    lower.set_xlabel("epoch", fontsize=8)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(epochs) == 1:
        lower.set_xlim(epochs[0]["epoch"] - 0.5, epochs[0]["epoch"] + 0.5)
    for axes in panels:
        tidy(axes)
        if selected is not None:
            axes.axvline(selected, color="0.7", linewidth=0.8, zorder=1)
    if selected is not None:
        above = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "bottom"}
        upper.annotate(f"epoch {selected} selected", (selected, 1), (0, 2), **_NOTE, **above)
        for epoch, value in courses[monitor]:
            if epoch == selected:
                lower.plot([epoch], [value], "o", color="black", markersize=5)
    return figure


def scores_figure(scores: Mapping[str, Scores], metric: str, model: str) -> Figure:
    """How the scores of each method are spread over the puzzles, the best method on top.

    Beside each baseline stands its mean, and on how many of the puzzles, which are the same for all, the model's score
    is better than its own.

    Args:
        scores: (puzzles,) by method, of which one is ``model``.
        metric: what they are.
        model: what the model is called.
    """
    from matplotlib.figure import Figure

    sign = -1 if measure(metric).lower_is_better else 1
    methods = sorted(scores, key=lambda method: sign * float(scores[method].mean()))
    puzzles = len(scores["model"])
    bins = int(np.clip(2 * math.sqrt(puzzles), *BINS))
    edges = np.histogram_bin_edges(np.concatenate(list(scores.values())), bins)
    figure = Figure(figsize=(6, 0.45 * len(methods) + 0.8), dpi=160, layout="constrained")
    axes = figure.subplots()
    for row, method in enumerate(methods):
        own, is_model = scores[method], method == "model"
        counts = np.histogram(own, edges)[0]
        axes.stairs(
            row + 0.8 * counts / counts.max(), edges, baseline=row, fill=True, color="0.2" if is_model else "0.7"
        )
        mean = float(own.mean())
        axes.plot([mean, mean], [row - 0.08, row + 0.88], color="black", linewidth=1)
        ahead = "" if is_model else f"{(sign * scores['model'] > sign * own).mean():.0%}"
        weight = "bold" if is_model else "normal"
        for place, text in ((1.06, f"{mean:.3f}"), (1.22, ahead)):
            axes.annotate(text, (place, row + 0.3), **_BESIDE, weight=weight)
    for place, text in ((1.06, "mean"), (1.22, "model\nbetter")):
        axes.annotate(text, (place, len(methods)), **_BESIDE, color="0.4")
    axes.set_yticks([row + 0.3 for row in range(len(methods))], [model if m == "model" else label(m) for m in methods])
    axes.set_ylim(-0.1, len(methods))
    axes.set_xlabel(f"{title(metric)} of a puzzle ({puzzles} puzzle{'s' if puzzles > 1 else ''})", fontsize=8)
    tidy(axes)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
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
        tidy(axes)
    for axes in panels[len(axes_names) :]:
        axes.axis("off")
    for row in range(rows):
        panels[row * columns].set_ylabel(title(metric), fontsize=8)
    known = [panel.get_legend_handles_labels() for panel in panels]
    lines = {name: line for handles, names in known for line, name in zip(handles, names, strict=True)}
    named = {label(method): lines[label(method)] for method in methods if label(method) in lines}
    place = {"loc": "outside upper center", "ncols": min(len(named), 2 * columns), "fontsize": 7, "frameon": False}
    figure.legend(named.values(), named.keys(), **place)
    return figure


def course(axes: Axes, points: Sequence[tuple[float, float]], style: str = "-", colour: str = "black") -> None:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    axes.plot(xs, ys, style, color=colour, linewidth=1.2, marker=".", markersize=3)


def tidy(axes: Axes) -> None:
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def _curve(axes: Axes, points: Sequence[tuple[float, Summary]], method: str, number: int) -> None:
    values, means = [value for value, _ in points], [found["mean"] for _, found in points]
    colour, width = ("black", 1.8) if method == "model" else (f"C{number}", 1.0)
    axes.plot(values, means, marker="o", markersize=2.5, color=colour, linewidth=width, label=label(method))
    low, high = ([found["ci95"][end] if found["ci95"] else found["mean"] for _, found in points] for end in (0, 1))
    axes.fill_between(values, low, high, color=colour, alpha=0.15, linewidth=0)
