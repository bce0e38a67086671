"""``mode=bench``: time and memory of a model per batch size, as a table, a JSON file and a plot.

Each batch size is measured in a separate process, so measurements are independent, and if a process is killed for
lack of memory, the results of smaller batch sizes remain.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import platform
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from typing import Any

import torch

from fragrecon import files
from fragrecon import machine as hardware
from fragrecon.config.schema import Config
from fragrecon.errors import ConfigError
from fragrecon.progress import progress
from fragrecon.report.figures.bench import bench_figure, print_bench
from fragrecon.report.figures.plotting import save
from fragrecon.runs.write import FIGURES, Record, versions
from fragrecon.training.workload import describe, measure

log = logging.getLogger(__name__)

BENCH = "bench.json"


def main(config: Config, record: Record) -> dict[str, Any]:
    """Measure each of ``config.bench.batch_sizes``.

    Args:
        config: job config.
        record: record to write.

    Returns:
        The content of ``bench.json``.

    Raises:
        ConfigError: the model cannot be measured, or the smallest batch does not fit in memory.
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
            except BrokenProcessPool:
                stopped = f"the process of batches of {size} was killed, probably for its use of memory"
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


def in_new_process(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Call a function in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


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
