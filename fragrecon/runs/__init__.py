"""Run folders: what a run writes, how a run is opened, and sweeps of runs."""

from __future__ import annotations

from fragrecon.runs.read import Run, load_run

__all__ = ["Run", "load_run"]
