"""What stands on a page, gathered from a sweep or a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fragrecon.errors import RunError
from fragrecon.record import FIGURES
from fragrecon.report.labels import label
from fragrecon.report.leaderboard import Leaderboard, caption, duration, short, troubles
from fragrecon.report.page import curves, puzzles, tables
from fragrecon.runs import Run


def of_sweep(board: Leaderboard, runs: Mapping[str, Run], folder: Path) -> dict[str, Any]:
    """Values of ``sweep.html``; ``folder`` is where its links start from."""
    jobs = [
        (rank, row, seed, job)
        for rank, row in enumerate(board.rows, 1)
        for seed, job in zip(row.seeds, row.jobs, strict=True)
    ]
    solvers = {
        " · ".join(
            [f"{rank}", *([", ".join(map(short, row.values.values()))] if row.values else []), f"seed {seed}"]
        ): runs[job]
        for rank, row, seed, job in jobs
    }
    return {
        "title": board.name,
        "board": board,
        "table": tables.of_sweep(board, runs, folder),
        "caption": caption(board),
        "troubles": troubles(board),
        "curves": curves.of_sweep(board, runs),
        "puzzles": puzzles.gallery(solvers),
        "failed": sum(len(row.failures) for row in board.rows),
        "unfinished": sum(len(row.unfinished) for row in board.rows),
        "done": len(jobs),
    }


def of_run(run: Run) -> dict[str, Any]:
    """Values of ``run.html``."""
    try:
        metrics, missing = run.metrics, ""
    except RunError as error:
        metrics, missing = {}, str(error)
    figures = sorted((run.folder / FIGURES).glob("*.png"))
    return {
        "title": run.folder.resolve().name,
        "run": run,
        "metrics": metrics,
        "table": tables.of_run(run) if metrics else None,
        "missing": missing,
        "seconds": {name: duration(found) for name, found in metrics.get("seconds", {}).items()},
        "curves": curves.of_run(run),
        "puzzles": puzzles.gallery({run.model_name: run}),
        "figures": {label(path.stem): puzzles.picture(path) for path in figures},
        "config": OmegaConf.to_yaml(OmegaConf.create(run.config.to_dict())),
    }
