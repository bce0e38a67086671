"""The files of a sweep: ``leaderboard.csv``, ``leaderboard.md`` and ``report.html``."""

from __future__ import annotations

import html
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from fragrecon import files
from fragrecon.errors import RunError, printable
from fragrecon.progress import progress
from fragrecon.report import metrics, tables
from fragrecon.report.leaderboard import Leaderboard, Row, caption, duration, jobs_of, leaderboard, short, troubles
from fragrecon.runs.contents import read_metrics
from fragrecon.runs.studies import STUDY, read_search
from fragrecon.runs.sweeps import SWEEP, by_key, note, time_left
from fragrecon.runs.write import FIGURES, METRICS_FILE, PAGE, STATUS, Record

SECONDS = 0.1
"""Minimum age of a leaderboard that is written again while the sweep runs, for each of its jobs; about 20 times as long
as gathering a job takes.
"""


def update_leaderboard(folder: Path, *, page: bool = False) -> Leaderboard:
    """Write the leaderboard of a sweep.

    Args:
        folder: folder of the sweep.
        page: whether to write ``report.html`` as well.

    Returns:
        The leaderboard.

    Raises:
        RunError: the folder is not that of a sweep, or a file of the sweep itself is a link that leads out of it.
    """
    files.check_links(folder, (SWEEP, STUDY, FIGURES))
    jobs = jobs_of(folder)
    board = leaderboard(note(folder)["name"], jobs)
    write(board, folder)
    if page:
        from fragrecon.report.figures.search import draw
        from fragrecon.report.page import write_sweep_page

        with progress("writing the page of the sweep", announce=False):
            if search := read_search(folder):
                draw(search, folder / FIGURES)
            write_sweep_page(folder / PAGE, board, {job.name: job.run for job in jobs if job.run})
    return board


def keep_current(folder: Path) -> None:
    """Write the leaderboard of a sweep, unless it is younger than ``SECONDS`` for each of its jobs.

    Gathering takes a time in proportion to the jobs; so a sweep spends at most a twentieth of its time on it.
    """
    path, jobs = folder / "leaderboard.csv", len(list(folder.glob(f"*/{STATUS}")))
    if not path.is_file() or abs(time.time() - path.stat().st_mtime) >= SECONDS * jobs:
        update_leaderboard(folder)


def job_line(folder: Path, number: int) -> str | None:
    """Describe a job that has ended: values of the swept keys, score, difference from the best row so far, time.

    Args:
        folder: folder of the job.
        number: number of the job, from 1.

    Returns:
        The line; None if the job was skipped, because it had finished before.
    """
    facts, record = note(folder.parent), Record(folder, writes=False)
    status, given = record.status, by_key(record.overrides)
    if (status.get("finished") or "") < facts["started"]:
        return None
    values = [f"{key.rpartition('.')[2]}={short(given[key])}" for key in facts.get("swept", []) if key in given]
    parts = [f"{number} of {facts['jobs'] or '?'}", " ".join(values) or folder.name]
    if status["status"] in ("failed", "pruned"):
        parts.append(status["status"])
    elif (folder / METRICS_FILE).is_file():
        try:
            scores = metrics.scores_of(read_metrics(folder / METRICS_FILE))["model"]
        except RunError:
            scores = {}  # the leaderboard reports the error
        for metric in metrics.compared(scores)[:1]:
            mean, unit = scores[metric]["mean"], metrics.measure(metric).unit
            parts.append(f"{metrics.name(metric)} {metrics.text(metric, mean)} {unit}".rstrip())
            best = next((row for row in _written(folder.parent) if metric in row), None)
            if best and folder.name not in best["jobs"].split():
                parts.append(f"{metrics.text(metric, mean - float(best[metric]), '+')} from the best")
            elif best:
                parts.append("the best")
    if status.get("started"):  # a refused job has not started
        started, finished = (datetime.fromisoformat(status[name]) for name in ("started", "finished"))
        parts.append(duration((finished - started).total_seconds()))
    left = time_left(folder.parent, number)
    return "  ".join([*parts, *([f"{duration(left)} left"] if left else [])])


def _written(folder: Path) -> list[dict[str, str]]:
    """Return the rows of ``leaderboard.csv``, best first; none if it has not been written yet."""
    path = folder / "leaderboard.csv"
    return files.read_csv(path) if path.is_file() else []


def write(board: Leaderboard, folder: Path) -> None:
    """Write ``leaderboard.csv`` and ``leaderboard.md``."""
    files.write_csv(folder / "leaderboard.csv", [_flat(rank, row) for rank, row in enumerate(board.rows, 1)])
    files.write_text(folder / "leaderboard.md", markdown(board))


def _flat(rank: int, row: Row) -> dict[str, Any]:
    """Return a row of the CSV file, with one number per column."""
    flat: dict[str, Any] = {"rank": rank if row.jobs else "", **row.values}
    flat |= {"seeds": " ".join(map(str, row.seeds)), "parameters": row.parameters, "seconds": row.seconds}
    if row.selection:
        flat |= {"validation": row.selection.mean, "validation_std": row.selection.std}
    for name, found in row.scores.items():
        flat |= {name: found.mean, f"{name}_std": found.std}
    for name, minus in row.difference.items():
        low, high = minus["ci95"] or (None, None)
        flat |= {f"{name}_minus_best": minus["mean"], f"{name}_minus_best_low": low, f"{name}_minus_best_high": high}
    flat |= {"jobs": " ".join(row.jobs), "unfinished": " ".join(row.unfinished)}
    flat |= {"pruned": " ".join(found.job for found in row.pruned)}
    return flat | {"failures": "; ".join(f"{found.job}: {found.error}" for found in row.failures)}


def markdown(board: Leaderboard) -> str:
    """Return the leaderboard as Markdown, with the metrics shown by default."""
    table = tables.of_sweep(board, {})
    shown = [place for place, column in enumerate(table.columns) if column.visible]
    heads = [table.columns[place].title for place in shown]
    rules = ["---:" if table.columns[place].numeric else "---" for place in shown]
    rows = [[str(row[place]) for place in shown] for row in table.rows]
    lines = ["| " + " | ".join(map(_inline, row)) + " |" for row in (heads, rules, *rows)]
    notes = [f"- {_inline(line)}" for line in troubles(board)]
    return "\n".join([f"# {_inline(board.name)}", "", *lines, "", caption(board), "", *notes]).rstrip() + "\n"


def _inline(text: str) -> str:
    """Escape text so that it stays in one line and cell and is not parsed as markup."""
    return html.escape(printable(text), quote=False).replace("|", "\\|").replace("\n", " ")
