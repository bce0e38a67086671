"""Sweep folders: one folder per job, named after its overrides, and ``sweep.json`` with the progress."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from fragrecon import files
from fragrecon.config.saved import is_inert
from fragrecon.errors import RunError
from fragrecon.runs.contents import read_note, read_status
from fragrecon.runs.write import STATUS, now

SWEEP = "sweep.json"
LONGEST = 100
"""Maximum length of a folder name, without the hash."""

_PLAIN = re.compile(r"[a-z][\w.]*=[\w.+-]*", re.ASCII)
"""Overrides that can be part of a folder's name unchanged."""


def job_folder(overrides: Sequence[str]) -> str:
    """Return the folder name of a job; the same overrides in any order give the same name.

    The name needs no quotes in a shell or in ``run=``. The model comes first, then the seed. If the name cannot show
    all overrides, a short hash makes it unique.

    Args:
        overrides: overrides of the job, as ``KEY=VALUE``.

    Returns:
        The name.
    """
    given = sorted(by_key(overrides).items(), key=_weight)
    counted = {key: value for key, value in given if not is_inert(key)}
    shown = {key: value for key, value in counted.items() if _PLAIN.fullmatch(f"{key}={value}")}
    # Underscores within values are doubled, so that no two jobs share a name.
    name = "_".join(f"{key}-{value.replace('_', '__')}" for key, value in shown.items()) or "job"
    if shown == counted and len(name) <= LONGEST:
        return name
    return f"{name[:LONGEST]}-{files.digest(counted)[:8]}"


def _weight(override: tuple[str, str]) -> tuple[int, str]:
    """Sort key: the model and its settings, then the seed, then other groups, then all other keys."""
    key = override[0]
    kinds = (key == "model", key.startswith("model."), key == "seed", "." not in key, True)
    return kinds.index(True), key


def by_key(overrides: Sequence[str]) -> dict[str, str]:
    """Return values by key; if a key is given twice, the last value counts."""
    parts = [override.partition("=") for override in overrides]
    return {key.lstrip("+"): value for key, _, value in parts}


def begin(folder: Path, name: str, jobs: int | None, overrides: Sequence[str], swept: Sequence[str]) -> None:
    """Write ``sweep.json`` at the start of a sweep command.

    Args:
        folder: sweep folder.
        name: name of the sweep.
        jobs: number of jobs of the command; None if unknown.
        overrides: overrides of the command.
        swept: keys that the command gives several values.

    Raises:
        RunError: a job that is there already holds a link that leads out of its folder.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name != "wandb":  # whose client has links there
            files.check_links(path)
    facts = {"name": name, "jobs": jobs, "overrides": list(overrides), "swept": list(swept), "started": now()}
    files.write_json(folder / SWEEP, facts)


def note(folder: Path) -> dict[str, Any]:
    """Read ``sweep.json``; raises `RunError` if the folder is not a sweep folder."""
    return read_note(folder / SWEEP)


def sweep_of(folder: Path) -> Path | None:
    """Return the sweep folder that a job folder belongs to, if any."""
    return folder.parent if (folder.parent / SWEEP).is_file() else None


def ended_since_start(folder: Path) -> list[dict[str, Any]]:
    """Return the status and name of each job that ended since the last command of this sweep started."""
    started, found = note(folder)["started"], []
    for path in sorted(folder.glob(f"*/{STATUS}")):
        try:
            written = path.stat()
            status = _status(path, written.st_mtime_ns, written.st_size)
        except (RunError, OSError):
            continue  # the leaderboard reports the error
        if (status.get("finished") or "") >= started:
            found.append(status | {"name": path.parent.name})
    return found


@lru_cache(1 << 14)
def _status(path: Path, time: int, size: int) -> dict[str, Any]:
    """Read a status again only if its file has changed."""
    return read_status(path)


def time_left(folder: Path, begun: int) -> float | None:
    """Estimate the seconds until a sweep ends from the jobs that this command has run.

    Args:
        folder: sweep folder.
        begun: number of jobs that are finished, skipped or running.

    Returns:
        The estimate; None if no job has ended yet, or the number of jobs is unknown.
    """
    facts, ended = note(folder), len(ended_since_start(folder))
    if not ended or facts["jobs"] is None:
        return None
    elapsed = datetime.fromisoformat(now()) - datetime.fromisoformat(facts["started"])
    left: int = facts["jobs"] - begun
    return elapsed.total_seconds() / ended * left
