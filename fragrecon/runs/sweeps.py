"""A sweep's folder: a folder a job, whose name follows from the job's overrides, and what is gathered from them all."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from fragrecon import files
from fragrecon.config.saved import is_inert
from fragrecon.errors import RunError
from fragrecon.runs.write import STATUS, Record, now

SWEEP = "sweep.json"
LONGEST = 100
"""Letters of a folder's name before it is cut."""

_PLAIN = re.compile(r"[a-z][\w.]*=[\w.+-]*", re.ASCII)
"""An override that a folder's name can show."""


def job_folder(overrides: Sequence[str]) -> str:
    """The folder's name of a job: the same whenever a sweep has these overrides.

    Of the characters that mean something to Hydra, or to a shell, none is left, so that ``run=`` takes it as it is.
    What tells most comes first. Where a name cannot show all, a few letters of a hash tell it from others.
    """
    given = sorted(by_key(overrides).items(), key=_weight)
    counted = {key: value for key, value in given if not is_inert(key)}
    shown = {key: value for key, value in counted.items() if _PLAIN.fullmatch(f"{key}={value}")}
    # With underscores within values doubled, it is plain where one ends: no two jobs share a name.
    name = "_".join(f"{key}-{value.replace('_', '__')}" for key, value in shown.items()) or "job"
    if shown == counted and len(name) <= LONGEST:
        return name
    return f"{name[:LONGEST]}-{files.digest(counted)[:8]}"


def _weight(override: tuple[str, str]) -> tuple[int, str]:
    """The model and what belongs to it, then the seed, then other groups, then all else."""
    key = override[0]
    kinds = (key == "model", key.startswith("model."), key == "seed", "." not in key, True)
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


def ended_since_start(folder: Path) -> list[dict[str, Any]]:
    """The statuses of the jobs that ended since the last command on this sweep began, each with the job's name."""
    started, found = note(folder)["started"], []
    for path in sorted(folder.glob(f"*/{STATUS}")):
        try:
            status = Record(path.parent, writes=False).status
        except RunError:
            continue  # the leaderboard says what is wrong with it
        if (status.get("finished") or "") >= started:
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
