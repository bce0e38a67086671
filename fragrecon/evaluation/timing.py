"""Measure run time, memory and number of operations of a computation with torch."""

from __future__ import annotations

import gc
import itertools
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

Work = Callable[[], object]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Timing:
    """Run time of a computation.

    Attributes:
        seconds: median over the runs.
        quartiles: first and third quartile, in seconds.
        runs: number of runs.
    """

    seconds: float
    quartiles: tuple[float, float]
    runs: int


def time_of(work: Work, seconds: float) -> Timing:
    """Measure the run time of a computation, including asynchronous work on the device.

    The work is repeated until the quartiles differ by less than 10% of the median, for at least a tenth of ``seconds``.

    Args:
        work: computation that is already warmed up.
        seconds: maximum time of the measurement.

    Returns:
        The run time.
    """
    timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
    found = timer.adaptive_autorange(min_run_time=seconds / 10, max_run_time=seconds)
    low, middle, high = map(float, np.quantile(found.times, (0.25, 0.5, 0.75)))
    return Timing(middle, (low, high), len(found.times) * found.number_per_run)


def peak_memory(make: Callable[[], Made], use: Callable[[Made], object], device: torch.device) -> int | None:
    """Measure the peak memory of tensors during a computation, including its inputs.

    It counts memory allocated by torch: on CUDA from the allocator's statistics, on the CPU as the sum of all requests,
    including oneDNN's scratch space. The result is reproducible and comparable between devices. Memory that allocators
    and libraries reserve in addition is part of `process_memory`.

    Args:
        make: function that creates the inputs; its temporary tensors do not count.
        use: computation on the inputs.
        device: device of the computation.

    Returns:
        Bytes; None on devices other than CPU and CUDA.
    """
    gc.collect()  # so that earlier garbage is not freed during the measurement
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        made = make()
        torch.cuda.reset_peak_memory_stats(device)
        use(made)
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu":
        return None
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would print a line at the start and end of each profile
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        made = make()
    held = sum(_requests(profiler))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        use(made)
        del made  # otherwise the profiler would confuse later allocations at the same address with these
    return max(itertools.accumulate(_requests(profiler), initial=held))


def _requests(profiler: profile) -> Iterator[int]:
    """Yield the bytes of each allocation in order, negative when freed."""
    results: Any = profiler.profiler and profiler.profiler.kineto_results
    return (event.nbytes() for event in results.events() if event.name() == "[memory]")


def process_memory(device: torch.device) -> int | None:
    """Return the peak memory of this process.

    Args:
        device: CUDA for the device's memory, CPU for the machine's, including Python and all libraries.

    Returns:
        Bytes; None if unknown.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    status = Path("/proc/self/status")  # getrusage would report the peak of the parent if that was higher
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if device.type == "cpu" and status.is_file() else None
    return int(found.group(1)) * 1024 if found else None


def operations(work: Work) -> int:
    """Count the floating-point operations of the matrix products and convolutions of a computation.

    Args:
        work: computation; it may include backward passes.

    Returns:
        Number of operations; a multiplication and an addition count as two operations.
    """
    # The counter does not know the fused attention kernels of CPUs.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())
