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


def of_sweep(board: Leaderboard, runs: Mapping[str, Run]) -> dict[str, Any]:
    """Return a figure per swept parameter, numbers first, with a line per combination of the other parameters."""
    rows = [row for row in board.rows if row.scores]
    shown = {name: metrics.title(name) for name in board.metrics}
    if any(row.selection for row in rows):
        shown[VALIDATION] = f"{VALIDATION} ({board.monitor})" if board.monitor else VALIDATION
    swept = [key for key in board.parameters if len({row.values[key] for row in rows}) > 1]
    axes = sorted((Axis.of(key, [row.values[key] for row in rows]) for key in swept), key=lambda axis: not axis.numbers)
    drawn = [_against(axis, swept, rows, shown, runs) for axis in axes]
    bars = dict.fromkeys(text for row in rows if (text := _bars(row, runs)))
    return {
        "metrics": shown,
        "figures": drawn,
        "caption": f"Error bars: {'; '.join(bars)}." if bars else "",
    }


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
    axis: Axis, swept: Sequence[str], rows: Sequence[Row], shown: Collection[str], runs: Mapping[str, Run]
) -> dict[str, Any]:
    others = [key for key in swept if key != axis.title]
    rows = sorted(rows, key=lambda row: axis.values.index(row.values[axis.title]))
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(", ".join(row.values[key] for key in others), []).append(row)
    groups = {name: groups[name] for name in bokeh_figure.in_order(groups)}
    connected = axis.numbers is not None
    if len(groups) > 1 and all(len(group) == 1 for group in groups.values()):
        # Do not connect points if no two configurations differ in this parameter only, as in a random search.
        groups, others, connected = {"": rows}, [], False

    def points(metric: str, group: Sequence[Row], place: int) -> list[Point]:
        found = [(row, axis.place(row.values[axis.title], place, len(groups))) for row in group]
        return [point for row, x in found if (point := _point(row, metric, x, swept, runs))]

    lines = [
        Line(name or "configurations", {metric: points(metric, group, place) for metric in shown})
        for place, (name, group) in enumerate(groups.items())
    ]
    for method in dict.fromkeys(family.reference for family in metrics.FAMILIES if family.reference):
        reference = {metric: _reference(method, axis, rows, metric, runs) for metric in shown}
        if any(reference.values()):
            lines.append(Line(label(method), reference, is_reference=True))
    return bokeh_figure.draw(axis, lines, ", ".join(others), connected)


def _point(
    row: Row, metric: str, x: float | tuple[str, float], swept: Sequence[str], runs: Mapping[str, Run]
) -> Point | None:
    found = row.selection if metric == VALIDATION else row.scores.get(metric)
    if found is None or not math.isfinite(found.mean):
        return None
    name = ", ".join(f"{key}={row.values[key]}" for key in swept)
    if found.std is not None:
        text = f"{metrics.around(metric, found.mean, found.std)} over {found.n} seeds"
        return Point(x, found.mean, found.mean - found.std, found.mean + found.std, name, text)
    run = _scored(row, runs)
    scores = run.metrics["scores"]["model"].get(metric)
    if scores is None or scores["ci95"] is None:
        return Point(x, found.mean, found.mean, found.mean, name, f"{metrics.text(metric, found.mean)}, one seed")
    low, high = scores["ci95"]
    text = metrics.around(metric, found.mean, metrics.half(scores))
    over = metrics.samples(run.metrics["protocol"])
    return Point(x, found.mean, low, high, name, f"{text} over {over}, one seed")


def _bars(row: Row, runs: Mapping[str, Run]) -> str:
    """Describe the error bars of a row."""
    if next(iter(row.scores.values())).std is not None:
        return "standard deviation over seeds"
    scored = _scored(row, runs).metrics
    over = f"95% interval over test {metrics.samples(scored['protocol'])} if there is one seed"
    return over if any(found["ci95"] for found in scored["scores"]["model"].values()) else ""


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
