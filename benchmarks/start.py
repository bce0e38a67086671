"""Time the start of the command line and the imports of a job, beside a bare Hydra job and the imports of Lightning.

    python benchmarks/start.py [--rounds R] [--out FOLDER]

Each command runs in a process of its own, all of them in turn in each round. The result is the median of the CPU
seconds (user and system) over the rounds, and the ratio of medians. Prints a table and writes it, with machine and
versions, to ``FOLDER/start.json``.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from fragrecon import files
from fragrecon.runs.write import versions

RESULTS = Path(__file__).resolve().parent / "results"
ROOT = Path(__file__).resolve().parents[1]

BARE = """
import hydra

@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(config):
    pass

main()
"""
CONFIG = "a: 1\nhydra: {output_subdir: null, run: {dir: .}}\n"

TRAIN = "from fragrecon.jobs import import_heavy; import_heavy('fragrecon.jobs.train')"
COMMANDS = {
    "a bare Hydra job": ["bare.py"],
    "--cfg job": ["-m", "fragrecon.run", "--cfg", "job"],
    "--help": ["-m", "fragrecon.run", "--help"],
    "imports of torch and Lightning": ["-c", "import torch, lightning.pytorch, torchmetrics"],
    "imports of a training job": ["-c", TRAIN],
    "imports of a training job and its page": ["-c", f"{TRAIN}; from fragrecon.report.page import content, document"],
}
"""Arguments of Python by what is timed."""

COMPARED = {
    "--cfg job": "a bare Hydra job",
    "--help": "a bare Hydra job",
    "imports of a training job": "imports of torch and Lightning",
    "imports of a training job and its page": "imports of torch and Lightning",
}
"""What is timed, and what it is divided by."""


def cpu_seconds(arguments: list[str], folder: Path) -> float:
    """Run Python in a process of its own, and return the CPU seconds that it took.

    Raises:
        RuntimeError: the process failed.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise RuntimeError(output.read().decode())
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Time all commands and write the result."""
    parser = argparse.ArgumentParser(description="Time the start of the command line and the imports of a job.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, "bare.py").write_text(BARE)
        Path(scratch, "config.yaml").write_text(CONFIG)
        for number in range(given.rounds + 1):
            for name, arguments in COMMANDS.items():
                found = cpu_seconds(arguments, Path(scratch))
                if number:  # the first round compiles bytecode and fills the cache of the disk
                    seconds[name].append(found)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    ratios = {name: medians[name] / medians[base] for name, base in COMPARED.items()}
    table = Table("", "CPU seconds", "ratio", box=box.SIMPLE_HEAD)
    for name, median in medians.items():
        ratio = f"{ratios[name]:.2f} times {COMPARED[name]}" if name in ratios else ""
        table.add_row(name, f"{median:.2f}", ratio)
    Console().print(table)
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": versions(),
        "rounds": given.rounds,
        "cpu_seconds": {name: round(value, 3) for name, value in medians.items()},
        "all_cpu_seconds": {name: [round(value, 3) for value in found] for name, found in seconds.items()},
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
    }
    files.write_json(given.out / "start.json", result)


if __name__ == "__main__":
    main()
