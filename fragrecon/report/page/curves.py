"""Curves of the page: scores against swept parameters, and metrics by epoch."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fragrecon.report import metrics
from fragrecon.report.leaderboard import Leaderboard, Row
from fragrecon.report.metrics import label
from fragrecon.report.page import bokeh_figure
from fragrecon.report.page.bokeh_figure import Axis, Line, Point
from fragrecon.runs.read import Run

VALIDATION = "validation"

FIRST = ("loss", "mean_clustering_score")
"""Metrics of an epoch that are listed first."""
MANY, LINES, BASELINES = 100, 12, 2
"""Configurations above which only the metrics shown by default are drawn; maximum number of lines; baselines per task
that are drawn."""


def of_sweep(board: Leaderboard, runs: Mapping[str, Run]) -> dict[str, Any]:
    """Return a figure per swept parameter, numbers first, with a line per combination of the other parameters."""
    rows = [row for row in board.rows if row.scores]
    names = [name for name in board.metrics if name in metrics.SHOWN] if len(rows) > MANY else []
    shown = {name: metrics.title(name) for name in names or board.metrics}
    if any(row.selection for row in rows):
        shown[VALIDATION] = f"{VALIDATION} ({board.monitor})" if board.monitor else VALIDATION
    swept = [key for key in board.parameters if len({row.values[key] for row in rows}) > 1]
    axes = sorted((Axis.of(key, [row.values[key] for row in rows]) for key in swept), key=lambda axis: not axis.numbers)
    over_seeds = any(found.std is not None for row in rows for found in row.scores.values())
    drawn = [_against(axis, swept, rows, shown, runs, strongest(board), over_seeds) for axis in axes]
    bars = "standard deviation over seeds" if over_seeds else f"95% interval over test {board.samples}"
    return {"metrics": shown, "figures": drawn, "caption": f"Error bars: {bars}." if rows else ""}


def strongest(board: Leaderboard) -> list[str]:
    """Return the `BASELINES` baselines with the best scores of each task; they are drawn with the models."""
    found: dict[str, None] = {}
    for metric in board.compared or board.metrics[:1]:
        known = {method: scores[metric]["mean"] for method, scores in board.baselines.items() if metric in scores}
        ordered = sorted(known, key=known.__getitem__, reverse=not metrics.measure(metric).lower_is_better)
        found |= dict.fromkeys(ordered[:BASELINES])
    return list(found)


def of_run(run: Run) -> dict[str, Any]:
    """Return a figure of the metrics by epoch, with a line for training and one for validation."""
    columns: dict[str, dict[str, str]] = {}  # column names by metric and line
    for name in dict.fromkeys(name for row in run.epochs for name in row):
        for prefix, part in (("train/", "training"), ("val/", "validation"), ("val_", "validation")):
            if name.startswith(prefix):
                columns.setdefault(name.removeprefix(prefix), {})[part] = name
    columns = {name: columns[name] for name in sorted(columns, key=lambda name: name not in FIRST)}

    def points(part: str, column: str | None) -> list[Point]:
        rows = [row for row in run.epochs if column in row and math.isfinite(row[column])] if column else []
        return [
            Point(row["epoch"], value, value, value, f"{part}, epoch {row['epoch']:.0f}", f"{value:.5g}")
            for row in rows
            for value in [row[str(column)]]
        ]

    lines = [
        Line(part, {metric: points(part, found.get(part)) for metric, found in columns.items()})
        for part in ("training", "validation")
    ]
    figures = [bokeh_figure.draw(Axis("epoch", numbers={}), lines, "", connected=True)] if columns else []
    return {"metrics": {metric: metrics.title(metric) for metric in columns}, "figures": figures, "caption": ""}


def _against(
    axis: Axis,
    swept: Sequence[str],
    rows: Sequence[Row],
    shown: Collection[str],
    runs: Mapping[str, Run],
    strong: Sequence[str],
    over_seeds: bool,
) -> dict[str, Any]:
    others = [key for key in swept if key != axis.title]
    rows = sorted(rows, key=lambda row: axis.values.index(row.values[axis.title]))
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(", ".join(row.values[key] for key in others), []).append(row)
    groups = {name: groups[name] for name in bokeh_figure.in_order(groups)}
    connected = axis.numbers is not None
    if len(groups) > LINES or (len(groups) > 1 and all(len(group) == 1 for group in groups.values())):
        # Do not connect points if there are too many lines to tell apart, or if no two configurations differ in this
        # parameter only, as in a random search.
        groups, others, connected = {"": rows}, [], False

    def points(metric: str, group: Sequence[Row], place: int) -> list[Point]:
        found = [(row, axis.place(row.values[axis.title], place, len(groups))) for row in group]
        return [point for row, x in found if (point := _point(row, metric, x, swept, runs, over_seeds))]

    lines = [
        Line(name or "configurations", {metric: points(metric, group, place) for metric in shown})
        for place, (name, group) in enumerate(groups.items())
    ]
    for method in strong:
        reference = {metric: _reference(method, axis, rows, metric, runs) for metric in shown}
        if any(reference.values()):
            lines.append(Line(label(method), reference, is_reference=True))
    return bokeh_figure.draw(axis, lines, ", ".join(others), connected)


def _point(
    row: Row,
    metric: str,
    x: float | tuple[str, float],
    swept: Sequence[str],
    runs: Mapping[str, Run],
    over_seeds: bool,
) -> Point | None:
    """Return a point with the standard deviation over seeds or, if every row has one seed, the interval over puzzles.

    All error bars of a figure are of one kind.
    """
    found = row.selection if metric == VALIDATION else row.scores.get(metric)
    if found is None or not math.isfinite(found.mean):
        return None
    name = ", ".join(f"{key}={row.values[key]}" for key in swept)
    if found.std is not None:
        text = f"{metrics.around(metric, found.mean, found.std)} over {found.n} seeds"
        return Point(x, found.mean, found.mean - found.std, found.mean + found.std, name, text)
    run = _scored(row, runs)
    scores = run.metrics["scores"]["model"].get(metric)
    if over_seeds or scores is None or scores["ci95"] is None:
        return Point(x, found.mean, found.mean, found.mean, name, f"{metrics.text(metric, found.mean)}, one seed")
    low, high = scores["ci95"]
    text = metrics.around(metric, found.mean, metrics.half(scores))
    over = metrics.samples(run.metrics["protocol"])
    return Point(x, found.mean, low, high, name, f"{text} over {over}, one seed")


def _reference(method: str, axis: Axis, rows: Sequence[Row], metric: str, runs: Mapping[str, Run]) -> list[Point]:
    """Return the scores of a baseline along the axis; empty if they also depend on other parameters."""
    points = []
    for value in axis.values:
        at = [metrics.scores_of(_scored(row, runs).metrics) for row in rows if row.values[axis.title] == value]
        means = {scores[method][metric]["mean"] for scores in at if metric in scores.get(method, {})}
        if len(means) > 1:
            return []
        name = f"{label(method)}, {axis.title}={value}"
        points += [Point(axis.place(value, 0, 1), mean, mean, mean, name, metrics.text(metric, mean)) for mean in means]
    return points


def _scored(row: Row, runs: Mapping[str, Run]) -> Run:
    """Return the first scored run of a row."""
    return next(run for run in (runs[job] for job in row.jobs) if run.is_scored)
