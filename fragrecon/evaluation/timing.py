"""How long work takes, how much memory its tensors need, and how many operations it is: by torch's own instruments."""

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
    """How long a piece of work takes.

    Attributes:
        seconds: median over its runs.
        quartiles: the first and the third, in seconds.
        runs: how often it was done.
    """

    seconds: float
    quartiles: tuple[float, float]
    runs: int


def time_of(work: Work, seconds: float) -> Timing:
    """Repeat work until its quartiles are apart by less than 10% of its median, or ``seconds`` are over.

    A tenth of these are spent at least; what the device is still to do is waited for. Whatever is slow at the first
    time only should have been done before.
    """
    timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
    found = timer.adaptive_autorange(min_run_time=seconds / 10, max_run_time=seconds)
    low, middle, high = map(float, np.quantile(found.times, (0.25, 0.5, 0.75)))
    return Timing(middle, (low, high), len(found.times) * found.number_per_run)


def peak_memory(make: Callable[[], Made], use: Callable[[Made], object], device: torch.device) -> int | None:
    """The most bytes of tensors that are held at one time while something is used, what was made for it among them;
    None on a device that does not tell. What its making took for a while does not count.

    It is what the allocator of torch has handed out, on CUDA by its own count, on the CPU added up from each request
    (which those of oneDNN for scratch space are among). That is the same on every occasion, and means the same on both
    devices; what a process has in hand beyond it, as allocators keep some back and libraries need their own, is
    `process_memory`.
    """
    gc.collect()  # or what was left before would be given back on the way
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        made = make()
        torch.cuda.reset_peak_memory_stats(device)
        use(made)
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu":
        return None
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would print a line at each beginning and end
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        made = make()
    held = sum(_requests(profiler))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        use(made)
        del made  # the profiler would take a later block at the same address for one of these
    return max(itertools.accumulate(_requests(profiler), initial=held))


def _requests(profiler: profile) -> Iterator[int]:
    """Bytes asked of the allocator, in turn, and below 0 what it was given back."""
    results: Any = profiler.profiler and profiler.profiler.kineto_results
    return (event.nbytes() for event in results.events() if event.name() == "[memory]")


def process_memory(device: torch.device) -> int | None:
    """The most bytes that this process has had in hand: on CUDA of the device's memory, on the CPU of the machine's,
    with Python and all libraries; None where that is not known.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    status = Path("/proc/self/status")  # getrusage tells of a process what its parent had, if that was more
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if device.type == "cpu" and status.is_file() else None
    return int(found.group(1)) * 1024 if found else None


def operations(work: Work) -> int:
    """Floating-point operations of the matrix products and convolutions of some work, those of its backward passes
    among them; a multiplication and an addition count as two.
    """
    # The kernels of fused attention for CPUs are none that are counted.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())
