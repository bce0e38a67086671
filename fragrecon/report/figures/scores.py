"""Draw distributions of scores over the puzzles, and scores under other conditions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fragrecon.data.corruption import KINDS
from fragrecon.evaluation.clustering.robustness import JPEG_QUALITY, Outcome
from fragrecon.evaluation.statistics import Scores, Summary, summary
from fragrecon.report.figures.plotting import DASHES, MARKERS, PALETTE, blank, tidy
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
BASELINES = 2
"""Number of baselines drawn beside the model: those with the best means under the usual condition."""
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
        for place, word in ((1.08, text(metric, mean)), (1.21, ahead)):
            axes.annotate(word, (place, row + 0.3), **_BESIDE, weight=weight)
    for place, word in ((1.08, "mean"), (1.21, "model\nbetter")):
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
    """Plot the mean of the model and of the best baselines with its 95% interval.

    There is one panel per kind of condition, and one for all kinds with a single value. Conditions that the model has
    no scores for are left out.

    Args:
        outcomes: scores under each condition.
        usual: scores under the usual condition, drawn at `USUAL` for changes of the fragments.
        metric: metric to draw.

    Returns:
        The figure.
    """
    from matplotlib.ticker import MaxNLocator

    means = {method: float(found[metric].mean()) for method, found in usual.items() if method != "model"}
    methods = ["model", *sorted(means, key=lambda method: -means[method])[:BASELINES]]
    kinds: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if "model" in outcome.scores:
            kinds.setdefault(outcome.condition.axis, []).append(outcome)
    own = [usual["model"][metric], *(found[0].scores["model"][metric] for found in kinds.values())]
    puzzles = min(map(len, own))
    first = own[0][:puzzles].tolist()  # also of a value that is the usual one, such as a fragment size
    single = [o for o, *more in kinds.values() if not more and o.scores["model"][metric].tolist() != first]
    curves = {name: found for name, found in kinds.items() if len(found) > 1}
    count = len(curves) + (not curves or bool(single))
    columns = min(count, 4 if -count % 4 <= -count % 3 else 3)
    rows = -(-count // columns)
    figure = blank(max(3.0 * columns, 4.2), 2.6 * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for axes, (name, found) in zip(panels, curves.items(), strict=False):
        for number, method in enumerate(methods):
            points = [(o.condition.value, summary(o.scores[method][metric])) for o in found]
            if name in USUAL:
                points.insert(0, (USUAL[name], summary(usual[method][metric][:puzzles])))
            _plot(axes, points, method, number, DASHES[number])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        if name not in KINDS:
            ticks = {outcome.condition.value: f"{outcome.condition.value:g}" for outcome in found}
            ticks |= {USUAL[name]: "none"} if name in USUAL else {}
            axes.set_xscale("log")
            axes.set_xticks(list(ticks), list(ticks.values()))
            axes.minorticks_off()
        axes.set_xlabel(AXES[name], fontsize=8)
    if len(curves) < count:
        axes = panels[len(curves)]
        shown = [usual, *(outcome.scores for outcome in single)]
        for number, method in enumerate(methods):
            offset = 0.15 * (number - (len(methods) - 1) / 2)
            points = [(x + offset, summary(scores[method][metric][:puzzles])) for x, scores in enumerate(shown)]
            _plot(axes, points, method, number, "none")
        names = ["usual", *(f"{label(o.condition.axis)} {o.condition.value:g}" for o in single)]
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
        axes.set(xlim=(-0.5, len(names) - 0.5))
    for axes in panels[:count]:
        tidy(axes)
    for axes in panels[count:]:
        axes.axis("off")
    low, high = panels[0].get_ylim()
    panels[0].set_ylim(max(low, -0.5), min(high, 1.05))
    for row in range(rows):
        panels[row * columns].set_ylabel(title(metric), fontsize=8)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=len(methods), fontsize=7, frameon=False)
    return figure


def _plot(axes: Axes, points: Sequence[tuple[float, Summary]], method: str, number: int, line: Any) -> None:
    """Plot means with their intervals."""
    means = np.array([found["mean"] for _, found in points])
    ends = np.array([found["ci95"] or [found["mean"]] * 2 for _, found in points])
    style = {"color": ("black", *PALETTE)[number], "linestyle": line, "marker": MARKERS[number], "label": label(method)}
    around = np.abs(ends - means[:, None]).T
    axes.errorbar([x for x, _ in points], means, around, markersize=3.5, linewidth=1.1, elinewidth=0.8, **style)
