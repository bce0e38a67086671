"""Tables of the page: what stands in a cell and what it is sorted by."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from fragrecon.record import PAGE
from fragrecon.report.labels import label
from fragrecon.report.leaderboard import COMPARED, HEADLINE, Leaderboard, Row, Spread, duration, short
from fragrecon.runs import Run

if TYPE_CHECKING:
    from fragrecon.evaluation.statistics import Summary


@dataclass(frozen=True)
class Cell:
    """What stands in a cell.

    Attributes:
        text: shown.
        after: smaller, behind it: a deviation or half an interval.
        order: that the cell is sorted by, where that is not the text; an empty one comes after all that is high.
        links: shown instead of the text, each with where it leads.
        found_by: that the filter looks through, where that is not the text.
        bold: stands out in its row.
    """

    text: str = ""
    after: str = ""
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
class Table:
    """A table; ``length`` is the number of rows shown at first."""

    columns: list[Column]
    rows: list[list[Cell]]
    length: int = field(default=-1)


def of_sweep(board: Leaderboard, runs: Mapping[str, Run], folder: Path) -> Table:
    """A row a configuration, and one for each baseline.

    Args:
        board: of the sweep.
        runs: by the name of their folder.
        folder: that links start from.
    """
    scored = dict.fromkeys(name for row in board.rows for name in row.scores)
    metrics = [name for name in HEADLINE if name in scored] + [name for name in scored if name not in HEADLINE]
    numeric = {key: all(number(row.values[key]) is not None for row in board.rows) for key in board.parameters}
    columns = [
        Column("rank", numeric=True, rising=True, searched=True),
        *(Column(_short(key, board.parameters), numeric=numeric[key], searched=True) for key in board.parameters),
        Column("seeds", numeric=True),
        Column("validation", numeric=True),
        *(Column(label(name), numeric=True, visible=name in HEADLINE) for name in metrics),
        Column("minus best", numeric=True),
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
                _spread(row.selection),
                *(_spread(row.scores.get(name)) for name in metrics),
                _difference(row, best=rank == 1 and bool(row.scores)),
                _count(row.parameters),
                Cell() if row.seconds is None else Cell(duration(row.seconds), order=row.seconds),
                _not_done(row),
            ]
        )
    baselines = {method: scores for method, scores in board.baselines.items() if scores.keys() & set(HEADLINE)}
    for place, (method, scores) in enumerate(baselines.items(), len(rows) + 1):
        rows.append(
            [
                Cell(label(method), order=place),
                *(Cell() for _ in range(len(board.parameters) + 2)),
                *(summed(scores.get(name)) for name in metrics),
                *(Cell() for _ in range(4)),
            ]
        )
    return Table(columns, rows)


def of_run(run: Run) -> Table:
    """A row a metric, with a column for the model and one for each baseline; none where the run was not scored."""
    scores: dict[str, dict[str, Summary]] = run.metrics["scores"]
    methods = ["model", *(name for name in scores if name != "model")]
    metrics = list(dict.fromkeys(metric for method in methods for metric in scores[method]))
    columns = [Column("metric", searched=True), *(Column(label(name), numeric=True) for name in methods)]
    rows = [
        [
            Cell(label(metric)),
            *(summed(scores[name].get(metric), bold=name == "model") for name in methods),
        ]
        for metric in metrics
    ]
    return Table(columns, rows, length=9)


def _short(key: str, keys: Sequence[str]) -> str:
    """The last part of a key, where no other ends in the same."""
    last = key.rpartition(".")[2]
    return key if sum(other.rpartition(".")[2] == last for other in keys) > 1 else last


def summed(found: Summary | None, sign: str = "", bold: bool = False) -> Cell:
    """A mean and half its 95% interval."""
    if found is None:
        return Cell()
    half = None if found["ci95"] is None else (found["ci95"][1] - found["ci95"][0]) / 2
    return Cell(_signed(found["mean"], sign), _around(half), order=found["mean"], bold=bold)


def _signed(value: float, sign: str = "") -> str:
    return format(value, f"{sign}.4f")


def _around(half: float | None) -> str:
    return "" if half is None else f"±{half:.4f}".replace("±0.", "±.")


def _spread(found: Spread | None) -> Cell:
    if found is None:
        return Cell()
    return Cell(_signed(found.mean), _around(found.std), order=found.mean)


def _difference(row: Row, best: bool) -> Cell:
    return Cell("best", order=0) if best else summed(row.difference.get(COMPARED), sign="+")


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
