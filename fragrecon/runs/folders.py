"""What a folder holds: a run, runs, or neither."""

from __future__ import annotations

from pathlib import Path

from fragrecon.errors import RunError, nearest
from fragrecon.runs.weights import installed
from fragrecon.runs.write import CONFIG, STATUS

SHOWN = 5
"""Number of jobs of a sweep that an error message lists."""


def _is_run(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and (folder / STATUS).is_file()


def check_folder(folder: Path) -> None:
    """Raise `RunError` if a folder is not a run folder; the message names a run above or below it, if any."""
    if _is_run(folder):
        return
    missing = next(name for name in (CONFIG, STATUS) if not (folder / name).is_file())
    message = f"{folder} holds no {missing}" if folder.is_dir() else f"{folder} is not a folder"
    above = next((parent for parent in folder.parents if _is_run(parent)), None)
    jobs = sorted(path.name for path in folder.iterdir() if _is_run(path)) if folder.is_dir() else []
    if above:
        hint = f"it is part of a run: use {above}"
    elif jobs:
        more = f" and {len(jobs) - SHOWN} more" if len(jobs) > SHOWN else ""
        hint = f"it holds runs; use one of them: {', '.join(map(repr, jobs[:SHOWN]))}{more}"
    else:
        hint = "the folder of a run is under outputs/ or multirun/ and holds config.yaml and status.json"
        if not folder.is_dir():
            known = nearest(folder.name, names) if (names := installed()) else "; none are installed"
            hint += f"; '{folder.name}' is not the name of installed weights either{known}"
    raise RunError(f"{message}; {hint}")
