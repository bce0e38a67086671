"""Tables of a sweep and of a run: the text and sort key of each cell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fragrecon.report import metrics
from fragrecon.report.leaderboard import Leaderboard, Row, Spread, duration, short
from fragrecon.report.metrics import Family, label

if TYPE_CHECKING:
    from fragrecon.evaluation.statistics import Summary
    from fragrecon.runs.read import Run

LENGTH = 9
"""Number of metrics of a run shown by default."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: text of the cell.
        after: smaller text after it: a standard deviation or half of an interval.
        below: smaller text below it: the difference model minus baseline.
        tone: ``better`` or ``worse``, the sign of that difference; empty if its interval contains zero.
        order: value to sort by, if not the text.
        links: shown instead of the text: words, each with the page it links to, which may be empty.
        found_by: text that the filter searches, if not the text of the cell.
        bold: whether the text is bold.
    """

    text: str = ""
    after: str = ""
    below: str = ""
    tone: str = ""
    order: float | str | None = None
    links: Sequence[tuple[str, str]] = ()
    found_by: str | None = None
    bold: bool = False

    def __str__(self) -> str:
        return f"{self.text} {self.after}".strip() or " ".join(text for text, _ in self.links)


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: title of the column.
        numeric: whether it is sorted by number, highest first, and aligned to the right.
        rising: whether the lowest number comes first.
        visible: whether it is shown by default.
        searched: whether the filter searches it.
    """

    title: str
    numeric: bool = False
    rising: bool = False
    visible: bool = True
    searched: bool = False


@dataclass(frozen=True)
class ScoreTable:
    """A table; ``length`` is the number of rows shown by default, or -1 for all."""

    columns: list[Column]
    rows: list[list[Cell]]
    length: int = -1


def of_sweep(board: Leaderboard, links: Mapping[str, str]) -> ScoreTable:
    """Return the table of a leaderboard, with one row per configuration and per baseline.

    Args:
        board: leaderboard.
        links: addresses of the pages of its runs, by folder name.

    Returns:
        The table.
    """
    numeric = {key: all(number(row.values[key]) is not None for row in board.rows) for key in board.parameters}
    columns = [
        Column("rank", numeric=True, rising=True, searched=True),
        *(Column(_short(key, board.parameters), numeric=numeric[key], searched=True) for key in board.parameters),
        Column("seeds", numeric=True),
        Column("validation", numeric=True, rising=metrics.measure(board.monitor).lower_is_better),
        *(
            Column(metrics.title(name), True, metrics.measure(name).lower_is_better, name in metrics.SHOWN)
            for name in board.metrics
        ),
        *(Column(f"{metrics.name(name)} - best", numeric=True) for name in board.compared),
        Column("parameters", numeric=True),
        Column("time", numeric=True),
        Column("not done", numeric=True, searched=True),
    ]
    rows = [
        [
            Cell(str(rank) if row.jobs else "", order=rank),
            *(Cell(short(row.values[key]), order=number(row.values[key])) for key in board.parameters),
            Cell(
                links=[(str(seed), links.get(job, "")) for seed, job in zip(row.seeds, row.jobs, strict=True)],
                order=len(row.seeds),
            ),
            spread(row.selection, board.monitor),
            *(spread(row.scores.get(name), name) for name in board.metrics),
            *(
                Cell("best", order=0) if row is board.leader(name) else summed(row.difference.get(name), name, "+")
                for name in board.compared
            ),
            Cell() if row.parameters is None else Cell(f"{row.parameters:,}", order=row.parameters),
            Cell() if row.seconds is None else Cell(duration(row.seconds), order=row.seconds),
            _not_done(row),
        ]
        for rank, row in enumerate(board.rows, 1)
    ]
    baselines = {method: scores for method, scores in board.baselines.items() if scores.keys() & set(metrics.SHOWN)}
    for place, (method, scores) in enumerate(baselines.items(), len(rows) + 1):
        line = [
            Cell(label(method), order=place),
            *[Cell()] * (len(board.parameters) + 2),
            # Without an interval: ± is the standard deviation over seeds in these columns.
            *(_cell(name, scores[name]["mean"], None) if name in scores else Cell() for name in board.metrics),
        ]
        rows.append(line + [Cell()] * (len(columns) - len(line)))
    return ScoreTable(columns, rows)


def of_run(run: Run, family: Family) -> ScoreTable | None:
    """Return the table of a run's scores for the metrics of one family.

    It has one row per metric, and a column for the model and each baseline. Below a baseline's score is the difference
    model minus baseline.

    Args:
        run: run to show.
        family: family of metrics.

    Returns:
        The table; None if the run has no such scores.
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
    return ScoreTable(columns, rows, length=LENGTH if is_long else -1)


def _beside(found: Summary | None, minus: Summary | None, metric: str) -> Cell:
    """Return a cell with a baseline's score, and below it the difference model minus baseline."""
    cell = summed(found, metric)
    if minus is None:
        return cell
    low, high = minus["ci95"] or (0, 0)
    better, worse = (high < 0, low > 0) if metrics.measure(metric).lower_is_better else (low > 0, high < 0)
    tone = "better" if better else "worse" if worse else ""
    return replace(cell, below=str(summed(minus, metric, "+")), tone=tone)


def _short(key: str, keys: Sequence[str]) -> str:
    """Return the last part of a key if it is unique among the keys, else the key."""
    last = key.rpartition(".")[2]
    return key if sum(other.rpartition(".")[2] == last for other in keys) > 1 else last


def summed(found: Summary | None, metric: str, sign: str = "") -> Cell:
    """Return a cell with a mean and half of its 95% interval."""
    return Cell() if found is None else _cell(metric, found["mean"], metrics.half(found), sign)


def spread(found: Spread | None, metric: str) -> Cell:
    """Return a cell with a mean and its standard deviation."""
    return Cell() if found is None else _cell(metric, found.mean, found.std)


def _cell(metric: str, mean: float, half: float | None, sign: str = "") -> Cell:
    around = "" if half is None else f"±{metrics.text(metric, half)}".replace("±0.", "±.")
    return Cell(metrics.text(metric, mean, sign), around, order=mean)


def _not_done(row: Row) -> Cell:
    """Return a cell with the number of failed, pruned and unfinished jobs; the filter finds them by name and error."""
    names = [*(f"{found.job} {found.error}" for found in (*row.failures, *row.pruned)), *row.unfinished]
    return Cell(str(len(names)) if names else "", order=len(names), found_by=" ".join(names))


def number(text: str) -> float | None:
    """Parse a finite number; None if the text is not one."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
