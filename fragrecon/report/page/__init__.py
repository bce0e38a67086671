"""``report.html``: the page of a run or a sweep, in a single file that works offline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fragrecon import files
from fragrecon.report.leaderboard import Leaderboard
from fragrecon.runs.read import Run


def write_sweep_page(path: Path, board: Leaderboard, runs: Mapping[str, Run]) -> None:
    """Write the page of a sweep: its leaderboard, scores against the swept parameters, and example puzzles.

    Args:
        path: file to write; links to the pages of runs are relative to it.
        board: leaderboard of the sweep.
        runs: runs of the sweep, by folder name.
    """
    from fragrecon.report.page import content, document

    files.write_text(path, document.render("sweep.html", content.of_sweep(board, runs, path.parent)))


def write_run_page(path: Path, run: Run) -> None:
    """Write the page of a run: its config and, where they exist, scores, curves, puzzles and figures.

    Args:
        path: file to write.
        run: a run in any state.
    """
    from fragrecon.report.page import content, document

    files.write_text(path, document.render("run.html", content.of_run(run)))


def write_jigsaw_page(path: Path, result: Mapping[str, Any], folder: Path) -> None:
    """Write the page of an assembled jigsaw puzzle.

    Args:
        path: file to write.
        result: contents of ``placement.json``.
        folder: folder of the job, with its figures.
    """
    from fragrecon.report.page import content, document

    files.write_text(path, document.render("jigsaw.html", content.of_jigsaw(result, folder)))
