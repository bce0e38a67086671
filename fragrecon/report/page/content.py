"""Collect the values of the page templates from a sweep or a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from omegaconf import OmegaConf

from fragrecon.errors import RunError
from fragrecon.report import metrics, tables
from fragrecon.report.leaderboard import Leaderboard, caption, duration, short, troubles
from fragrecon.report.metrics import Family
from fragrecon.report.page import curves, saved_figures, viewer
from fragrecon.report.tables import ScoreTable
from fragrecon.runs.read import Run
from fragrecon.runs.write import PAGE

MOST, SOLVERS = 4, 30
"""Number of configurations of a sweep whose masked images are shown, and of jobs whose puzzles are."""


def of_sweep(board: Leaderboard, runs: Mapping[str, Run], folder: Path) -> dict[str, Any]:
    """Return the values of ``sweep.html``; links are relative to ``folder``."""
    jobs = [
        (rank, row, seed, job)
        for rank, row in enumerate(board.rows, 1)
        for seed, job in zip(row.seeds, row.jobs, strict=True)
    ]
    named = {
        " · ".join(
            filter(None, [f"{rank}", ", ".join(map(short, filter(None, row.values.values()))), f"seed {seed}"])
        ): runs[job]
        for rank, row, seed, job in jobs
    }
    first = {row.jobs[0] for row in board.rows if row.jobs}
    pages = {job: page for job, run in runs.items() if (page := run.folder / PAGE).is_file()}
    links = {job: quote(os.path.relpath(page, folder)) for job, page in pages.items()}
    return {
        "title": board.name,
        "board": board,
        "table": tables.of_sweep(board, links),
        "caption": caption(board),
        "troubles": troubles(board),
        "curves": curves.of_sweep(board, runs),
        "search": saved_figures.of_search(folder),
        "filled": saved_figures.of_sweep({name: run for name, run in named.items() if run.folder.name in first}, MOST),
        "filled_caption": saved_figures.CAPTIONS["masked"],
        "puzzles": _puzzles(dict(islice(named.items(), SOLVERS))),
        "failed": sum(len(row.failures) for row in board.rows),
        "pruned": sum(len(row.pruned) for row in board.rows),
        "unfinished": sum(len(row.unfinished) for row in board.rows),
        "done": len(jobs),
    }


def of_run(run: Run) -> dict[str, Any]:
    """Return the values of ``run.html``."""
    try:
        found, missing = run.metrics, ""
    except RunError as error:
        found, missing = {}, str(error)
    filled, others = saved_figures.of_run(run)
    return {
        "title": run.folder.resolve().name,
        "run": run,
        "metrics": found,
        "tables": _tables(run) if found else [],
        "missing": missing,
        "seconds": {name: duration(value) for name, value in found.get("seconds", {}).items()},
        "curves": curves.of_run(run),
        "filled": filled,
        "puzzles": _puzzles({run.model_name: run}),
        "figures": others,
        "config": OmegaConf.to_yaml(OmegaConf.create(run.config.to_dict())),
    }


def of_jigsaw(result: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the values of ``jigsaw.html``."""
    scores = {
        "counting equal pieces as different": result.get("scores"),
        "counting equal pieces as one": result.get("scores_up_to_equal_pieces"),
    }
    return {
        "title": folder.resolve().name,
        "images": result["images"],
        "pieces": len(result["pieces"]),
        "piece_size": result["piece_size"],
        "scores": {name: found for name, found in scores.items() if found},
        "figures": saved_figures.of_jigsaw(folder),
    }


def _puzzles(runs: Mapping[str, Run]) -> dict[str, Any] | None:
    """Return the example puzzles of runs that cluster fragments; None if no run does."""
    clustered = {name: run for name, run in runs.items() if run.config.evaluation.clustering}
    return viewer.gallery(clustered) if clustered else None


def _tables(run: Run) -> list[dict[str, Any]]:
    """Return a table with a name and a note for each metric family the run was scored on."""
    made = [(family, tables.of_run(run, family)) for family in metrics.FAMILIES]
    return [{"name": family.name, "table": table, "note": _note(run, family, table)} for family, table in made if table]


def _note(run: Run, family: Family, table: ScoreTable) -> str:
    """Return the note below a table of scores."""
    protocol = run.metrics["protocol"]
    over = f"Mean over {protocol['puzzles']} test {metrics.samples(protocol)}"
    if metrics.samples(protocol) == "puzzles":
        over += f" of {protocol['images_per_puzzle']} images in {protocol['fragments_per_image']} fragments each"
    if family is metrics.MASKED:
        over += f", with {protocol['mask_ratio']:.0%} of the patches hidden"
    elif family is metrics.PROBES:
        over = f"Mean over all {run.metrics['data']['images']} test images (embedding: {protocol['probe_embedding']})"
    interval = f"{over}, ± half its 95% interval." if family is not metrics.GENERATION else ""
    below = (
        "Below each baseline's score is the difference model minus baseline, paired: green if the model is better, red "
        "if it is worse, grey if the interval contains zero."
    )
    caveat = metrics.caveat(run.metrics) if family is metrics.CLUSTERING else ""
    parts = interval, family.note, below * (len(table.columns) > 2), caveat
    return " ".join(filter(None, parts))
