"""Curves of the page: scores against what was swept, and over the epochs of a training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fragrecon.record import METRICS
from fragrecon.report.labels import label
from fragrecon.report.leaderboard import Leaderboard, Row
from fragrecon.report.page import plot
from fragrecon.report.page.plot import Axis, Line, Point
from fragrecon.runs import Run

if TYPE_CHECKING:
    from fragrecon.evaluation.statistics import Summary

VALIDATION, REFERENCE = "validation", "raw_pixels"

FIRST = ("loss", "mean_clustering_score")
"""What is noted after each epoch and shown before the rest."""


def of_sweep(board: Leaderboard, runs: Mapping[str, Run]) -> dict[str, Any]:
    """A figure for each swept parameter, those of numbers first, with a line for each setting of the others."""
    rows = [row for row in board.rows if row.scores]
    metrics = {name: label(name) for row in rows for name in row.scores}
    if any(row.selection for row in rows):
        metrics[VALIDATION] = VALIDATION
    swept = [key for key in board.parameters if len({row.values[key] for row in rows}) > 1]
    axes = sorted((Axis.of(key, [row.values[key] for row in rows]) for key in swept), key=lambda axis: not axis.numbers)
    drawn = [_against(axis, swept, rows, metrics, runs) for axis in axes]
    bars = dict.fromkeys(what for row in rows if (what := _bars(row, runs)))
    return {
        "metrics": metrics,
        "figures": drawn,
        "caption": f"Error bars: {'; '.join(bars)}." if bars else "",
    }


def of_run(run: Run) -> dict[str, Any]:
    """A figure of what was noted after each epoch, with a line for training and one for validation."""
    columns: dict[str, dict[str, str]] = {}  # by score and line, what its column is called
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
    figures = [plot.draw(Axis("epoch", numbers={}), lines, "", connected=True)] if columns else []
    return {"metrics": {metric: label(metric) for metric in columns}, "figures": figures, "caption": ""}


def _against(
    axis: Axis, swept: Sequence[str], rows: Sequence[Row], metrics: Iterable[str], runs: Mapping[str, Run]
) -> dict[str, Any]:
    others = [key for key in swept if key != axis.title]
    rows = sorted(rows, key=lambda row: axis.values.index(row.values[axis.title]))
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(", ".join(row.values[key] for key in others), []).append(row)
    groups = {name: groups[name] for name in plot.in_order(groups)}
    connected = axis.numbers is not None
    if len(groups) > 1 and all(len(group) == 1 for group in groups.values()):
        # No two settings differ in this parameter alone, as in a random search: there is nothing to connect.
        groups, others, connected = {"": rows}, [], False

    def points(metric: str, group: Sequence[Row], place: int) -> list[Point]:
        found = [(row, axis.place(row.values[axis.title], place, len(groups))) for row in group]
        return [point for row, x in found if (point := _point(row, metric, x, swept, runs))]

    lines = [
        Line(name or "configurations", {metric: points(metric, group, place) for metric in metrics})
        for place, (name, group) in enumerate(groups.items())
    ]
    reference = {metric: _reference(axis, rows, metric, runs) for metric in metrics}
    if any(reference.values()):
        lines.append(Line(label(REFERENCE), reference, is_reference=True))
    return plot.draw(axis, lines, ", ".join(others), connected)


def _point(
    row: Row, metric: str, x: float | tuple[str, float], swept: Sequence[str], runs: Mapping[str, Run]
) -> Point | None:
    found = row.selection if metric == VALIDATION else row.scores.get(metric)
    if found is None or not math.isfinite(found.mean):
        return None
    name = ", ".join(f"{key}={row.values[key]}" for key in swept)
    if found.std is not None:
        text = f"{found.mean:.4f} ± {found.std:.4f} over {found.n} seeds"
        return Point(x, found.mean, found.mean - found.std, found.mean + found.std, name, text)
    interval = _interval(row, metric, runs)
    if interval is None:
        return Point(x, found.mean, found.mean, found.mean, name, f"{found.mean:.4f}, one seed")
    low, high = interval
    return Point(x, found.mean, low, high, name, f"{found.mean:.4f} ± {(high - low) / 2:.4f} over puzzles, one seed")


def _interval(row: Row, metric: str, runs: Mapping[str, Run]) -> list[float] | None:
    """The 95% interval over the puzzles of a row's only scored run."""
    interval: list[float] | None = _scores(row, runs)["model"].get(metric, {}).get("ci95")
    return interval


def _bars(row: Row, runs: Mapping[str, Run]) -> str:
    """What the error bars of a row are."""
    metric, found = next(iter(row.scores.items()))
    if found.std is not None:
        return "standard deviation over seeds"
    return "95% interval over test puzzles where there is one seed" if _interval(row, metric, runs) else ""


def _reference(axis: Axis, rows: Sequence[Row], metric: str, runs: Mapping[str, Run]) -> list[Point]:
    """What raw pixels score along the axis; nothing where that depends on other parameters too."""
    points = []
    for value in axis.values:
        at = [_scores(row, runs) for row in rows if row.values[axis.title] == value]
        means = {scores.get(REFERENCE, {}).get(metric, {}).get("mean") for scores in at}
        mean = means.pop()
        if means or mean is None:
            return []
        name = f"{label(REFERENCE)}, {axis.title}={value}"
        points.append(Point(axis.place(value, 0, 1), mean, mean, mean, name, f"{mean:.4f}"))
    return points


def _scores(row: Row, runs: Mapping[str, Run]) -> dict[str, dict[str, Summary]]:
    """By method and metric, of the first scored run of a row."""
    scored = (run for run in (runs[job] for job in row.jobs) if (run.folder / METRICS).is_file())
    scores: dict[str, dict[str, Summary]] = next(scored).metrics["scores"]
    return scores
