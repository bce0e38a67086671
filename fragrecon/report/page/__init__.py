"""``report.html``: a run or a sweep on one page, in a single file that needs no network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fragrecon import files
from fragrecon.report.leaderboard import Leaderboard
from fragrecon.runs.read import Run


def write_sweep_page(path: Path, board: Leaderboard, runs: Mapping[str, Run]) -> None:
    """Write the page of a sweep: its leaderboard, scores against the swept parameters, and example puzzles.

    Args:
        path: file to write; links to the pages of runs are relative to it.
        board: leaderboard of the sweep.
        runs: runs of the sweep, by the name of their folder.
    """
    from fragrecon.report.page import content, document

    files.write_text(path, document.render("sweep.html", content.of_sweep(board, runs, path.parent)))


def write_run_page(path: Path, run: Run) -> None:
    """Write the page of a run: its scores, curves, puzzles and figures, as far as they exist, and its config.

    Args:
        path: file to write.
        run: a run in any state.
    """
    from fragrecon.report.page import content, document

    files.write_text(path, document.render("run.html", content.of_run(run)))
