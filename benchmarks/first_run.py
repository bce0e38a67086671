"""Measure what a newcomer runs first: the default job, two quick models, and a small sweep.

    python benchmarks/first_run.py [--out FOLDER] [NAME ...]

Jobs run one after another, each in a process and a folder of its own, and share a cache that is empty at the start.
``AVX2`` keeps libraries from using units of bfloat16 and AVX-512, and trains in float32, as a job does on a processor
without them. With names, only these jobs run, and replace their figures in ``FOLDER/first_run.json``. It holds the CPU
seconds (user and system), the longest time between two lines of output, the scores, and the goals; silence is in
wall-clock seconds, so it is longer on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from fragrecon import files
from fragrecon.runs.write import versions

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
METRIC = "kmeans_ari"

JOBS = 8
SWEEP = [
    *("-m", "model=conv", "seed=0,1,2,3,4,5,6,7", "sweep.name=toy", "data.reader.train_images=300"),
    *("data.reader.test_images=60", "data.puzzles_per_batch=2", "data.epochs=2", "evaluation.puzzles=5"),
    *("evaluation.validation_puzzles=4", "evaluation.train_puzzles=2", "evaluation.restarts=2"),
]
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}

COMMANDS: dict[str, tuple[list[str], dict[str, str]]] = {
    "default": ([], {}),
    "default, AVX2": (["trainer.precision=32-true"], AVX2),
    "model=pca": (["model=pca"], {}),
    "model=conv": (["model=conv"], {}),
    "sweep": (SWEEP, {}),
    "sweep without figures": ([*SWEEP, "report.figures=false"], {}),
}
"""Arguments of the command line and further environment variables by name."""

GOALS: dict[str, dict[str, float]] = {
    "default": {"cpu_seconds": 200, "silence_seconds": 15},
    "default, AVX2": {"cpu_seconds": 200, "silence_seconds": 15},
    "model=pca": {"cpu_seconds": 60, "silence_seconds": 15},
    "model=conv": {"cpu_seconds": 60, "silence_seconds": 15},
    "sweep": {"megabytes": 90, "lines": 150, "figures_cpu_seconds_per_job": 3, "silence_seconds": 15},
}
"""Largest values by job and figure."""


def run(arguments: list[str], variables: dict[str, str], folder: Path, cache: Path) -> dict[str, Any]:
    """Run a command in a folder.

    Args:
        arguments: arguments of the command line.
        variables: further environment variables.
        folder: working directory, empty.
        cache: cache folder.

    Returns:
        ``cpu_seconds``, ``lines`` and ``silence_seconds`` of the output, and ``megabytes`` that are left in the folder.

    Raises:
        RuntimeError: the command failed.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cache), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "fragrecon.run", *arguments],
        cwd=folder,
        env=environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines, silence, last = [], 0.0, time.monotonic()
    for line in process.stdout:
        lines.append(line)
        silence, last = max(silence, time.monotonic() - last), time.monotonic()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError("".join(lines[-50:]))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "silence_seconds": round(max(silence, time.monotonic() - last), 1),
        "lines": len(lines),
        "megabytes": round(size / 1e6, 1),
    }


def scores(folder: Path) -> dict[str, Any]:
    """Return `METRIC` of the model and of the best baseline of the only run in a folder."""
    (path,) = folder.rglob("metrics.json")
    found = json.loads(path.read_text())["scores"]
    means = {name: row[METRIC]["mean"] for name, row in found.items() if METRIC in row}
    model = means.pop("model")
    best = max(means, key=means.__getitem__)
    return {METRIC: round(model, 4), "best_baseline": best, "best_baseline_" + METRIC: round(means[best], 4)}


def show(rows: dict[str, dict[str, Any]]) -> None:
    """Print the figures that have goals."""
    table = Table("", "figure", "measured", "goal at most, or best baseline", box=box.SIMPLE_HEAD)
    for name, row in rows.items():
        for figure, goal in GOALS.get(name, {}).items():
            if figure in row:
                table.add_row(name, figure, f"{row[figure]:g}", f"{goal:g}")
        if METRIC in row:
            table.add_row(
                name, METRIC, f"{row[METRIC]:g}", f"{row['best_baseline']} {row['best_baseline_' + METRIC]:g}"
            )
    Console().print(table)


def main() -> None:
    """Run the jobs and write the result."""
    parser = argparse.ArgumentParser(description="Measure what a newcomer runs first.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(COMMANDS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    path = given.out / "first_run.json"
    rows: dict[str, dict[str, Any]] = json.loads(path.read_text())["rows"] if given.names and path.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        for number, name in enumerate(given.names or COMMANDS):
            arguments, variables = COMMANDS[name]
            folder = Path(scratch, str(number))
            folder.mkdir()
            rows[name] = run(arguments, variables, folder, Path(scratch, "cache"))
            if not name.startswith("sweep"):
                rows[name] |= scores(folder)
            if {"sweep", "sweep without figures"} <= rows.keys():
                drawn = rows["sweep"]["cpu_seconds"] - rows["sweep without figures"]["cpu_seconds"]
                rows["sweep"]["figures_cpu_seconds_per_job"] = round(drawn / JOBS, 2)
            result = {
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "versions": versions(),
                "goals": GOALS,
                "rows": rows,
            }
            files.write_json(path, result)  # after each job, so that the others count if one fails
    show(rows)


if __name__ == "__main__":
    main()
