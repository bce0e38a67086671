"""GPUs of parallel jobs: each process claims one of its own."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

VISIBLE = "CUDA_VISIBLE_DEVICES"

_claimed: FileLock | None = None
"""Lock of the GPU of this process; the system releases it when the process ends."""


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as in ``CUDA_VISIBLE_DEVICES``."""
    if VISIBLE in os.environ:
        return [name for name in os.environ[VISIBLE].split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def claim_gpu(folder: Path, gpus: Sequence[str]) -> str | None:
    """Claim a GPU for this process, and hide the others from it.

    A process keeps its GPU for all of its jobs, because CUDA reads ``CUDA_VISIBLE_DEVICES`` once.

    Args:
        folder: folder of the sweep, which holds a lock per GPU.
        gpus: GPUs that the processes share.

    Returns:
        The GPU; None if there are fewer than two, this process already has one, or others have claimed all.
    """
    global _claimed
    if len(gpus) < 2 or _claimed:
        return None
    for gpu in gpus:
        lock = FileLock(folder / f".gpu-{re.sub(r'[^A-Za-z0-9-]', '_', gpu)}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        _claimed, os.environ[VISIBLE] = lock, gpu
        return gpu
    return None
