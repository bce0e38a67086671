"""Where the time of the test suite goes, and what it covers.

    python benchmarks/suite.py [--workers N] [--out FILE] [PYTEST_ARGUMENT ...]
    python benchmarks/suite.py --log LOG --coverage JSON [--out FILE]

Runs the tests twice: timed, and then for their coverage of lines and branches, of which only the test processes
themselves are measured. Prints the slowest modules and writes ``FILE``. The second form reads the output of runs that
were made before: ``--log`` of ``pytest --durations=0``, ``--coverage`` of ``coverage json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import torch

from fragrecon import files
from fragrecon.machine import has_bfloat16

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DURATION = re.compile(r"^([\d.]+)s (?:call|setup|teardown) +(tests/\S+?\.py)::(.*)$", re.MULTILINE)
ENDED = re.compile(r"^=* ?(?:(\d+) failed, )?(\d+) passed.* in ([\d.]+)s", re.MULTILINE)
SHOWN = 25


def durations(log: str) -> dict[str, Any]:
    """Seconds by module and of the slowest tests, from the output of ``pytest --durations=0``.

    Raises:
        ValueError: the tests did not end.
    """
    ended = ENDED.search(log)
    if not ended:
        raise ValueError(f"the tests did not end: {log[-500:]}")
    modules: dict[str, float] = defaultdict(float)
    tests: dict[str, float] = defaultdict(float)
    for seconds, module, name in DURATION.findall(log):
        modules[module] += float(seconds)
        tests[f"{module}::{name}"] += float(seconds)
    return {
        "passed": int(ended[2]),
        "failed": int(ended[1] or 0),
        "seconds": float(ended[3]),
        "seconds_of_all_tests": round(sum(modules.values()), 1),
        "seconds_by_module": _slowest(modules),
        "seconds_of_slowest_tests": _slowest(tests),
    }


def _slowest(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(seconds[name], 1) for name in sorted(seconds, key=seconds.__getitem__, reverse=True)[:SHOWN]}


def coverage(report: dict[str, Any]) -> dict[str, Any]:
    """Shares of lines and branches, of all of ``fragrecon`` and by package, from a report of ``coverage json``."""
    counts: dict[str, Counter[str]] = {}
    for name, file in report["files"].items():
        if Path(name).parts[0] == "fragrecon":
            summary = file["summary"]
            for group in ("fragrecon", Path(name).parts[1]):
                counts.setdefault(group, Counter()).update(
                    lines=summary["num_statements"],
                    covered_lines=summary["covered_lines"],
                    branches=summary["num_branches"],
                    covered_branches=summary["covered_branches"],
                )
    return {
        group: {what: round(found[f"covered_{what}"] / max(found[what], 1), 4) for what in ("lines", "branches")}
        for group, found in sorted(counts.items())
    }


def main() -> None:
    """Run the tests, or read what runs have left, and write the result."""
    parser = argparse.ArgumentParser(description="Time the test suite and measure its coverage.")
    parser.add_argument("--workers", default="auto")
    parser.add_argument("--out", type=Path, default=RESULTS / "suite.json")
    parser.add_argument("--log", type=Path, help="output of `pytest --durations=0`, instead of a run")
    parser.add_argument("--coverage", type=Path, help="output of `coverage json`, instead of a run")
    given, others = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as scratch:
        line = [sys.executable, "-m", "pytest", "-q", "--durations=0", "-p", "no:cacheprovider"]
        line += ["--numprocesses", given.workers, *others]
        log, report = given.log or Path(scratch, "log"), given.coverage or Path(scratch, "coverage.json")
        if given.log is None:
            with log.open("w") as file:
                subprocess.run(line, cwd=ROOT, stdout=file, check=False)
        if given.coverage is None:
            measured = [*line, "--cov=fragrecon", "--cov-branch", f"--cov-report=json:{report}"]
            data = os.environ | {"COVERAGE_FILE": str(Path(scratch, "data"))}
            subprocess.run(measured, cwd=ROOT, env=data, stdout=subprocess.DEVNULL, check=False)
        capability = torch.backends.cpu.get_cpu_capability()
        bfloat16 = "with" if has_bfloat16(torch.device("cpu")) else "without"
        machine = f"{platform.machine()} with {capability}, {bfloat16} bfloat16 units, {os.cpu_count()} cores"
        found = {"machine": machine, **durations(log.read_text()), "coverage": coverage(json.loads(report.read_text()))}
    for name, seconds in found["seconds_by_module"].items():
        print(f"{seconds:8.1f} s  {name}")
    print(f"{found['passed']} passed, {found['failed']} failed in {found['seconds']:.0f} s")
    print(f"coverage: {found['coverage']['fragrecon']}")
    files.write_json(given.out, found)


if __name__ == "__main__":
    main()
