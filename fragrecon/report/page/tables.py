"""Tables of the page: what stands in a cell and what it is sorted by."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from fragrecon.report import metrics
from fragrecon.report.leaderboard import Leaderboard, Row, Spread, duration, short
from fragrecon.report.metrics import Family, label
from fragrecon.runs.read import Run
from fragrecon.runs.write import PAGE

if TYPE_CHECKING:
    from fragrecon.evaluation.statistics import Summary

LENGTH = 9
"""Metrics of a run shown at first."""


@dataclass(frozen=True)
class Cell:
    """What stands in a cell.

    Attributes:
        text: shown.
        after: smaller, behind it: a deviation or half an interval.
        below: smaller, under it: how far the model is from this.
        tone: of what is below: ``better``, ``worse``, or neither where the interval holds zero.
        order: that the cell is sorted by, where that is not the text; an empty one comes after all that is high.
        links: shown instead of the text, each with where it leads.
        found_by: that the filter looks through, where that is not the text.
        bold: stands out in its row.
    """

    text: str = ""
    after: str = ""
    below: str = ""
    tone: str = ""
    order: float | str | None = None
    links: Sequence[tuple[str, str]] = ()
    found_by: str | None = None
    bold: bool = False


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        title: at its head.
        numeric: sorted by ``Cell.order`` as a number, the highest first.
        rising: the lowest first.
        visible: until asked for.
        searched: by what is typed to filter.
    """

    title: str
    numeric: bool = False
    rising: bool = False
    visible: bool = True
    searched: bool = False


@dataclass(frozen=True)
class PageTable:
    """A table; ``length`` is the number of rows shown at first, -1 for all."""

    columns: list[Column]
    rows: list[list[Cell]]
    length: int = field(default=-1)


def of_sweep(board: Leaderboard, runs: Mapping[str, Run], folder: Path) -> PageTable:
    """A row a configuration, and one for each baseline.

    Args:
        board: of the sweep.
        runs: by the name of their folder.
        folder: that links start from.
    """
    numeric = {key: all(number(row.values[key]) is not None for row in board.rows) for key in board.parameters}
    columns = [
        Column("rank", numeric=True, rising=True, searched=True),
        *(Column(_short(key, board.parameters), numeric=numeric[key], searched=True) for key in board.parameters),
        Column("seeds", numeric=True),
        Column("validation", numeric=True, rising=metrics.measure(board.monitor).lower_is_better),
        *(_scores(name, visible=name in metrics.SHOWN) for name in board.metrics),
        *(Column(f"{metrics.name(name)} - best", numeric=True) for name in board.compared),
        Column("parameters", numeric=True),
        Column("time", numeric=True),
        Column("not done", numeric=True, searched=True),
    ]
    rows = []
    for rank, row in enumerate(board.rows, 1):
        rows.append(
            [
                Cell(str(rank) if row.jobs else "", order=rank),
                *(Cell(short(row.values[key]), order=number(row.values[key])) for key in board.parameters),
                _seeds(row, runs, folder),
                _spread(row.selection, ""),
                *(_spread(row.scores.get(name), name) for name in board.metrics),
                *(_difference(row, name, best=row is board.leader(name)) for name in board.compared),
                _count(row.parameters),
                Cell() if row.seconds is None else Cell(duration(row.seconds), order=row.seconds),
                _not_done(row),
            ]
        )
    baselines = {method: scores for method, scores in board.baselines.items() if scores.keys() & set(metrics.SHOWN)}
    for place, (method, scores) in enumerate(baselines.items(), len(rows) + 1):
        line = [
            Cell(label(method), order=place),
            *(Cell() for _ in range(len(board.parameters) + 2)),
            *(summed(scores.get(name), name) for name in board.metrics),
        ]
        rows.append(line + [Cell()] * (len(columns) - len(line)))
    return PageTable(columns, rows)


def of_run(run: Run, family: Family) -> PageTable | None:
    """A row a metric of a family, with a column for the model and one for each baseline that has such scores.

    Under each baseline's score stands the model's less it; see `metrics.Family`. None where there are no scores.
    """
    scores: dict[str, dict[str, Summary]] = {
        method: {name: found[name] for name in family.of(found)}
        for method, found in metrics.scores_of(run.metrics).items()
    }
    baselines = [method for method, found in scores.items() if found and method != "model"]
    names = metrics.ordered(name for method in ("model", *baselines) for name in scores[method])
    if not names:
        return None
    is_long = len(names) > LENGTH
    columns = [
        Column("metric", searched=is_long),
        *(Column(label(method), numeric=True) for method in ("model", *baselines)),
    ]
    minus: dict[str, dict[str, Summary]] = run.metrics["model_minus"]
    rows = [
        [
            Cell(metrics.title(name), "lower is better" if metrics.measure(name).lower_is_better else ""),
            replace(summed(scores["model"].get(name), name), bold=True),
            *(_beside(scores[method].get(name), minus[method].get(name), name) for method in baselines),
        ]
        for name in names
    ]
    return PageTable(columns, rows, length=LENGTH if is_long else -1)


def _beside(found: Summary | None, minus: Summary | None, metric: str) -> Cell:
    """A baseline's score, and below it how far the model's is from it."""
    cell = summed(found, metric)
    if minus is None:
        return cell
    low, high = minus["ci95"] or (0, 0)
    better, worse = (high < 0, low > 0) if metrics.measure(metric).lower_is_better else (low > 0, high < 0)
    apart = summed(minus, metric, sign="+")
    return replace(cell, below=f"{apart.text} {apart.after}", tone="better" if better else "worse" if worse else "")


def _scores(metric: str, visible: bool) -> Column:
    return Column(metrics.title(metric), numeric=True, rising=metrics.measure(metric).lower_is_better, visible=visible)


def _short(key: str, keys: Sequence[str]) -> str:
    """The last part of a key, where no other ends in the same."""
    last = key.rpartition(".")[2]
    return key if sum(other.rpartition(".")[2] == last for other in keys) > 1 else last


def summed(found: Summary | None, metric: str, sign: str = "") -> Cell:
    """A mean and half its 95% interval."""
    return Cell() if found is None else _cell(metric, found["mean"], metrics.half(found), sign)


def _spread(found: Spread | None, metric: str) -> Cell:
    return Cell() if found is None else _cell(metric, found.mean, found.std)


def _cell(metric: str, mean: float, half: float | None, sign: str = "") -> Cell:
    around = "" if half is None else f"±{metrics.text(metric, half)}".replace("±0.", "±.")
    return Cell(metrics.text(metric, mean, sign), around, order=mean)


def _difference(row: Row, metric: str, best: bool) -> Cell:
    return Cell("best", order=0) if best else summed(row.difference.get(metric), metric, sign="+")


def _count(parameters: int | None) -> Cell:
    return Cell() if parameters is None else Cell(f"{parameters:,}", order=parameters)


def _seeds(row: Row, runs: Mapping[str, Run], folder: Path) -> Cell:
    """The seeds, each leading to the page of its run if there is one."""
    links = []
    for seed, job in zip(row.seeds, row.jobs, strict=True):
        page = runs[job].folder / PAGE
        links.append((str(seed), quote(os.path.relpath(page, folder)) if page.is_file() else ""))
    return Cell(links=links, order=len(links))


def _not_done(row: Row) -> Cell:
    """How many jobs; what is typed finds them by name and reason."""
    names = [*(f"{found.job} {found.error}" for found in row.failures), *row.unfinished]
    return Cell(str(len(names)) if names else "", order=len(names), found_by=" ".join(names))


def number(text: str) -> float | None:
    """The finite number that a value is, if it is one."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
