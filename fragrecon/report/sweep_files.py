"""The files of a sweep: ``leaderboard.csv``, ``leaderboard.md`` and ``report.html``."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from fragrecon import files
from fragrecon.report import tables
from fragrecon.report.leaderboard import Leaderboard, Row, caption, jobs_of, leaderboard, troubles
from fragrecon.runs.studies import read_search
from fragrecon.runs.sweeps import note
from fragrecon.runs.write import FIGURES, PAGE


def update_leaderboard(folder: Path, *, page: bool = False) -> Leaderboard:
    """Write the leaderboard of a sweep.

    Args:
        folder: folder of the sweep.
        page: whether to write ``report.html`` as well.

    Returns:
        The leaderboard.
    """
    jobs = jobs_of(folder)
    board = leaderboard(note(folder)["name"], jobs)
    write(board, folder)
    if page:
        from fragrecon.report.figures.search import draw
        from fragrecon.report.page import write_sweep_page

        if search := read_search(folder):
            draw(search, folder / FIGURES)

        write_sweep_page(folder / PAGE, board, {job.name: job.run for job in jobs if job.run})
    return board


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
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")
