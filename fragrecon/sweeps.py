"""A sweep's folder: a folder a job, whose name follows from the job's overrides, and what is gathered from them all."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fragrecon import files
from fragrecon.errors import FragreconError, RunError
from fragrecon.record import CONFIG, STATUS, Record, now
from fragrecon.runs import load_run

if TYPE_CHECKING:
    from fragrecon.report.leaderboard import Job, Leaderboard

SWEEP, PAGE = "sweep.json", "report.html"
LONGEST = 100
"""Letters of a folder's name before it is cut."""

_NOWHERE = ("sweep.name", "sweep.dir", "data.cache_dir", "trainer.enable_progress_bar")
"""Keys that have no part in what a job does."""


def job_folder(overrides: Sequence[str]) -> str:
    """The folder's name of a job: the same whenever a sweep has these overrides.

    Of the characters that mean something to Hydra, or to a shell, none is left, so that ``run=`` takes it as it is.
    What tells most comes first. Where a name cannot show all, a few letters of a hash tell it from others.
    """
    shown: list[str] = []
    hidden: list[str] = []
    for key, value in sorted(by_key(overrides).items(), key=_weight):
        if key not in _NOWHERE and key.partition(".")[0] not in ("logger", "hydra"):
            (shown if re.fullmatch(r"[\w.+-]*", value, re.ASCII) else hidden).append(f"{key}={value}")
    name = "_".join(re.sub(r"[^\w.+-]", "-", text, flags=re.ASCII) for text in shown) or "job"
    if not hidden and len(name) <= LONGEST:
        return name
    return f"{name[:LONGEST]}-{files.digest([shown, hidden])[:8]}"


def _weight(override: tuple[str, str]) -> tuple[int, str]:
    """Groups, then what belongs to the model, then the seed, then all else."""
    key = override[0]
    kinds = ("." not in key and key != "seed", key.startswith("model."), key == "seed", True)
    return kinds.index(True), key


def by_key(overrides: Sequence[str]) -> dict[str, str]:
    """Values by key; of a key that is given twice the later one counts."""
    parts = [override.partition("=") for override in overrides]
    return {key.lstrip("+"): value for key, _, value in parts}


def begin(folder: Path, name: str, jobs: int | None, overrides: Sequence[str]) -> None:
    """Note in a sweep's folder that a command has begun to work on it.

    Args:
        folder: of the sweep.
        name: of the sweep.
        jobs: how many the command has; None where that is not known.
        overrides: of the command.
    """
    files.write_json(folder / SWEEP, {"name": name, "jobs": jobs, "overrides": list(overrides), "started": now()})


def note(folder: Path) -> dict[str, Any]:
    """What `begin` has written; raises `RunError` where there is nothing of the kind."""
    path = folder / SWEEP
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{folder} is not the folder of a sweep: {path} cannot be read ({error})") from None
    return found


def sweep_of(folder: Path) -> Path | None:
    """The folder of the sweep that a job's folder belongs to."""
    return folder.parent if (folder.parent / SWEEP).is_file() else None


def jobs_of(folder: Path) -> list[Job]:
    """The jobs of a sweep that have been begun, by name."""
    from fragrecon.report.leaderboard import Job

    found = []
    for path in sorted(folder.glob(f"*/{STATUS}")):
        record, run = Record(path.parent, writes=False), None
        status = record.status
        if (path.parent / CONFIG).is_file():  # else it was refused
            try:
                run = load_run(path.parent)
            except FragreconError as error:
                status = {"status": "failed", "error": str(error)}
        found.append(Job(path.parent.name, by_key(record.overrides()), status, run))
    return found


def gather(folder: Path, *, page: bool = False) -> Leaderboard:
    """Make the leaderboard of a sweep's folder and write it there, with ``report.html`` if asked for."""
    from fragrecon.report import leaderboard

    jobs = jobs_of(folder)
    board = leaderboard.leaderboard(note(folder)["name"], jobs)
    leaderboard.write(board, folder)
    if page:
        from fragrecon.report.page import write_sweep_page

        write_sweep_page(folder / PAGE, board, {job.name: job.run for job in jobs if job.run})
    return board


def ended_since_start(folder: Path) -> list[dict[str, Any]]:
    """The statuses of the jobs that ended since the last command on this sweep began, each with the job's name."""
    started, found = note(folder)["started"], []
    for path in sorted(folder.glob(f"*/{STATUS}")):
        status = Record(path.parent, writes=False).status
        if status.get("finished") and status["finished"] >= started:
            found.append(status | {"name": path.parent.name})
    return found


def time_left(folder: Path, begun: int) -> float | None:
    """Seconds until the last of a sweep's jobs ends, if the rest take as long as those that this command has run.

    Args:
        folder: of the sweep.
        begun: how many of its jobs are done or under way.
    """
    facts, ended = note(folder), len(ended_since_start(folder))
    if not ended or facts["jobs"] is None:
        return None
    elapsed = datetime.fromisoformat(now()) - datetime.fromisoformat(facts["started"])
    left: int = facts["jobs"] - begun
    return elapsed.total_seconds() / ended * left
