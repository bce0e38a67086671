"""The jobs of a sweep, and the leaderboard and page that are made from them."""

from __future__ import annotations

from pathlib import Path

from fragrecon.errors import FragreconError
from fragrecon.report.leaderboard import Job, Leaderboard, leaderboard, write
from fragrecon.runs.read import load_run
from fragrecon.runs.sweeps import by_key, note
from fragrecon.runs.write import CONFIG, PAGE, STATUS, Record


def jobs_of(folder: Path) -> list[Job]:
    """The jobs of a sweep that have been begun, by name."""
    begun = {path.parent for name in (STATUS, CONFIG) for path in folder.glob(f"*/{name}")}
    return [_job(path) for path in sorted(begun)]


def _job(folder: Path) -> Job:
    """A job as it lies on disk; it has failed, too, if what it left cannot be read."""
    given: dict[str, str] = {}
    try:
        record = Record(folder, writes=False)
        given = by_key(record.overrides)
        run = load_run(folder) if (folder / CONFIG).is_file() else None  # a job that was refused has none
        job = Job(folder.name, given, record.status, run)
        leaderboard("", [job])
        if job.run and job.is_scored:
            _ = job.run.scores
    except Exception as error:  # whatever is wrong with the files of one, the others can be told of
        text = str(error) if isinstance(error, FragreconError) else f"its files cannot be read: {error!r}"
        return Job(folder.name, given, {"status": "failed", "error": text}, None)
    return job


def gather(folder: Path, *, page: bool = False) -> Leaderboard:
    """Make the leaderboard of a sweep's folder and write it there, with ``report.html`` if asked for."""
    jobs = jobs_of(folder)
    board = leaderboard(note(folder)["name"], jobs)
    write(board, folder)
    if page:
        from fragrecon.report.page import write_sweep_page

        write_sweep_page(folder / PAGE, board, {job.name: job.run for job in jobs if job.run})
    return board
