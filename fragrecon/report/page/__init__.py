"""``report.html``: a run or a sweep on one page that opens anywhere, as it needs no other file and no network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fragrecon import files
from fragrecon.report.leaderboard import Leaderboard
from fragrecon.runs.read import Run


def write_sweep_page(path: Path, board: Leaderboard, runs: Mapping[str, Run]) -> None:
    """Write the page of a sweep: its leaderboard, curves against what was swept, and what was made of puzzles.

    Args:
        path: of the page; runs that have a page of their own are linked relative to it.
        board: of the sweep.
        runs: that it is made of, by the name of their folder.
    """
    from fragrecon.report.page import content, document

    files.write_text(path, document.render("sweep.html", content.of_sweep(board, runs, path.parent)))


def write_run_page(path: Path, run: Run) -> None:
    """Write the page of a run in any state: what there is of scores, curves, puzzles and figures, and its config."""
    from fragrecon.report.page import content, document

    files.write_text(path, document.render("run.html", content.of_run(run)))
