"""Run folders: what a run writes, how a run is opened, and sweeps of runs.

`write` lists the files of a run and writes them; `read` has `load_run`, which opens a finished run; `sweeps` finds the
jobs of a sweep; `checkpoints` reads and writes weights; `modules` builds a run's model.
"""

from __future__ import annotations

from fragrecon.runs.read import Run, load_run

__all__ = ["Run", "load_run"]
