"""Run folders: writing them, opening them, and sweeps of runs.

`write` lists and writes the files of a run; `contents` checks what they hold when they are read; `read` contains
`load_run`, which opens a run; `sweeps` finds the jobs of a sweep; `checkpoints` reads and writes weights; `modules`
builds a run's model; `weights` finds installed weights by name; `onnx` converts a model.
"""

from __future__ import annotations

from fragrecon.runs.read import Run, load_run

__all__ = ["Run", "load_run"]
