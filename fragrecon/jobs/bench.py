"""``mode=bench``: time and memory of a model per batch size, as a table, a JSON file and a plot.

Each batch size is measured in a separate process, so measurements are independent, and if a process is killed for
lack of memory, the results of smaller batch sizes remain.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fragrecon import files
from fragrecon import machine as hardware
from fragrecon.config.schema import Config
from fragrecon.errors import ConfigError, RunError
from fragrecon.progress import progress
from fragrecon.report.figures.bench import bench_figure, print_bench
from fragrecon.report.figures.plotting import save
from fragrecon.runs.write import FIGURES, Record, versions
from fragrecon.training.workload import describe, measure

log = logging.getLogger(__name__)

BENCH = "bench.json"
LINES = 3
"""Number of lines of a crashed process's error output in a message."""


def main(config: Config, record: Record) -> dict[str, Any]:
    """Measure each of ``config.bench.batch_sizes``.

    Args:
        config: job config.
        record: record to write.

    Returns:
        The content of ``bench.json``.

    Raises:
        ConfigError: the model cannot be measured, or the smallest batch does not fit in memory.
        RunError: the process of the smallest batch crashed.
    """
    assert config.bench
    device, sizes = hardware.device_of(config.trainer), sorted(set(config.bench.batch_sizes))
    model = describe(config, sizes[0])
    rows, stopped = [], None
    with progress("measuring", len(sizes)) as advance:
        for size in sizes:
            log.info("batches of %d", size)
            try:
                rows.append({"batch_size": size, **in_new_process(measure, config, size, torch.get_num_threads())})
            except MemoryError as error:
                stopped = f"batches of {size} need more memory than there is: {error}"
                break
            except ProcessError as error:
                stopped = f"the process of batches of {size} {error}"
                if not rows and not error.is_killed:
                    raise RunError(stopped) from None
                break
            advance(1)
    if not rows:
        raise ConfigError(f"{stopped}; set bench.batch_sizes lower")
    result = {
        "model": model,
        "settings": settings(config),
        "machine": machine(device),
        "rows": rows,
        "stopped": stopped,
        "versions": versions(),
    }
    files.write_json(record.folder / BENCH, result)
    save(bench_figure(result), record.folder / FIGURES / "bench.png")
    print_bench(result, record.folder)
    return result


class ProcessError(Exception):
    """A process that ended before its result: its exit code or signal, and the last lines of its error output."""

    def __init__(self, code: int | None, output: str) -> None:
        self.is_killed = code == -signal.SIGKILL
        how = f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with exit code {code}"
        lines = "; ".join(line.strip() for line in output.splitlines()[-LINES:])
        super().__init__(
            f"{how}, probably for its use of memory" if self.is_killed else f"{how}: {lines or 'it wrote no error'}"
        )


def in_new_process(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Call a function in a new process; its error output is printed at the end.

    Raises:
        ProcessError: the process ended before it returned a result.
    """
    others = multiprocessing.active_children()
    with tempfile.NamedTemporaryFile() as errors:
        try:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, context, _write_errors, (errors.name,)) as pool:
                result = pool.submit(function, *arguments)
                (process,) = (child for child in multiprocessing.active_children() if child not in others)
            return result.result()
        except BrokenProcessPool:
            output = Path(errors.name).read_text(errors="replace")
            raise ProcessError(process.exitcode, output) from None
        finally:
            sys.stderr.write(Path(errors.name).read_text(errors="replace"))


def _write_errors(name: str) -> None:
    """Have this process write its error output to a file, also that of libraries in C."""
    handle = os.open(name, os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 2)
    os.close(handle)


def settings(config: Config) -> dict[str, Any]:
    """Return the settings of the measurement."""
    assert config.bench
    return {
        "precision": hardware.precision_of(config.trainer),
        "compute": asdict(config.compute),
        "objective": str(config.objective["_target_"]).rpartition(".")[2],
        "optimizer": str(config.optimizer["_target_"]).rpartition(".")[2],
        "accumulate_grad_batches": config.trainer.accumulate_grad_batches,
        "seconds": config.bench.seconds,
        "warmup": config.bench.warmup,
    }


def machine(device: torch.device) -> dict[str, Any]:
    """Describe the machine."""
    processor = f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}"
    return {
        "type": device.type,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
