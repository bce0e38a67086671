"""``mode=report``: regenerate the leaderboard and the page of a sweep, or the page of a run, from its files."""

from __future__ import annotations

from pathlib import Path

from fragrecon.config.schema import Config
from fragrecon.errors import ConfigError, typed
from fragrecon.report import page
from fragrecon.report.sweep_files import update_leaderboard
from fragrecon.report.terminal import print_leaderboard, say
from fragrecon.runs.read import load_run
from fragrecon.runs.write import PAGE, Record


def main(config: Config, record: Record) -> None:
    """Report on ``config.sweep.dir`` or ``config.run``; the files are written to that folder."""
    if config.sweep.dir:
        folder = Path(config.sweep.dir)
        print_leaderboard(update_leaderboard(folder, page=True), folder)
    elif config.run:
        run = load_run(config.run)
        if run.is_export:
            raise ConfigError(
                f"{run.folder} is an export, which holds no page; mode=evaluate {typed('run', config.run)} writes one"
            )
        path = Path(config.run) / PAGE
        page.write_run_page(path, run)
        say(f"page: {path}")
    else:
        raise ConfigError("mode=report needs a sweep or a run: sweep.dir=FOLDER or run=FOLDER")
