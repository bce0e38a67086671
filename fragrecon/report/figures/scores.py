"""Draw distributions of scores over the puzzles, and scores under other conditions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fragrecon.data.corruption import KINDS
from fragrecon.evaluation.clustering.robustness import JPEG_QUALITY, Outcome
from fragrecon.evaluation.statistics import Scores, Summary, summary
from fragrecon.report.figures.plotting import blank, tidy
from fragrecon.report.metrics import label, measure, text, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXES = {
    "images": "images per puzzle",
    "fragment_size": "fragment size, pixels",
    "noise": "standard deviation of the noise",
    "rotation": "share of fragments rotated",
    "jitter": "strength of the colour jitter",
    "gap": "pixels eroded from every side",
    "missing": "share of fragments missing",
    JPEG_QUALITY: "JPEG quality of the whole images",
}
USUAL = {**dict.fromkeys(KINDS, 0.0), JPEG_QUALITY: 105.0}
"""Where the usual condition is drawn on an axis; images without JPEG compression are drawn beside quality 100."""
BINS = 10, 50
"""Minimum and maximum number of bins; in between, twice the square root of the number of scores."""
_BESIDE: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "fontsize": 7, "ha": "right", "va": "center"}


def scores_figure(scores: Mapping[str, Scores], metric: str, model: str) -> Figure:
    """Draw a histogram of each method's scores over the puzzles, the best method on top.

    Each is labelled with its mean, and baselines with the share of puzzles on which the model is better.

    Args:
        scores: scores (puzzles,) by method, including ``model``.
        metric: metric of the scores.
        model: name of the model.

    Returns:
        The figure.
    """
    sign = -1 if measure(metric).lower_is_better else 1
    methods = sorted(scores, key=lambda method: sign * float(scores[method].mean()))
    puzzles = len(scores["model"])
    bins = int(np.clip(2 * math.sqrt(puzzles), *BINS))
    edges = np.histogram_bin_edges(np.concatenate(list(scores.values())), bins)
    figure = blank(6, 0.45 * len(methods) + 0.8)
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
        for place, word in ((1.06, text(metric, mean)), (1.22, ahead)):
            axes.annotate(word, (place, row + 0.3), **_BESIDE, weight=weight)
    for place, word in ((1.06, "mean"), (1.22, "model\nbetter")):
        axes.annotate(word, (place, len(methods)), **_BESIDE, color="0.4")
    axes.set_yticks([row + 0.3 for row in range(len(methods))], [model if m == "model" else label(m) for m in methods])
    axes.set_ylim(-0.1, len(methods))
    axes.set_xlabel(f"{title(metric)} per puzzle ({puzzles} puzzle{'s' if puzzles > 1 else ''})", fontsize=8)
    tidy(axes)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


def robustness_figure(
    outcomes: Sequence[Outcome], usual: Mapping[str, Mapping[str, Scores]], metric: str = "kmeans_ari"
) -> Figure:
    """Plot the mean of each method with its 95% interval, with one panel per kind of condition.

    Args:
        outcomes: scores under each condition.
        usual: scores under the usual condition, drawn at `USUAL` for changes of the fragments.
        metric: metric to draw.

    Returns:
        The figure.
    """
    axes_names = list(dict.fromkeys(outcome.condition.axis for outcome in outcomes))
    columns = min(3, len(axes_names))
    rows = -(-len(axes_names) // columns)
    figure = blank(3.4 * columns, 2.7 * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    methods = list(usual)
    for axes, name in zip(panels, axes_names, strict=False):
        found = [outcome for outcome in outcomes if outcome.condition.axis == name]
        for number, method in enumerate(methods):
            points = [(o.condition.value, summary(o.scores[method][metric])) for o in found if method in o.scores]
            if name in USUAL and points:
                points.insert(0, (USUAL[name], summary(usual[method][metric][: points[0][1]["n"]])))
            if points:
                _curve(axes, points, method, number)
        for value in (o.condition.value for o in found if "model" not in o.scores):
            place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "center"}
            axes.annotate("model: n/a", (value, 0.5), **place, rotation=90, fontsize=7, color="0.5")
        if name not in KINDS:
            ticks = {outcome.condition.value: f"{outcome.condition.value:g}" for outcome in found}
            ticks |= {USUAL[name]: "none"} if name in USUAL else {}
            axes.set_xscale("log")
            axes.set_xticks(list(ticks), list(ticks.values()))
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
    outside = {"loc": "outside upper center", "ncols": min(len(named), 2 * columns), "fontsize": 7, "frameon": False}
    figure.legend(named.values(), named.keys(), **outside)
    return figure


def _curve(axes: Axes, points: Sequence[tuple[float, Summary]], method: str, number: int) -> None:
    values, means = [value for value, _ in points], [found["mean"] for _, found in points]
    colour, width = ("black", 1.8) if method == "model" else (f"C{number}", 1.0)
    axes.plot(values, means, marker="o", markersize=2.5, color=colour, linewidth=width, label=label(method))
    low, high = ([found["ci95"][end] if found["ci95"] else found["mean"] for _, found in points] for end in (0, 1))
    axes.fill_between(values, low, high, color=colour, alpha=0.15, linewidth=0)
