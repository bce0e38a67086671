"""Random numbers keyed on what they are for, so that nothing depends on what was drawn before, or by whom.

All positions of one purpose must have one length: NumPy's seed sequence fills up with zeros, so ``()`` and ``(0,)``
are the same position.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch


def seed_of(seed: int, purpose: str, *position: int) -> int:
    """A 63-bit seed that is a pure function of the run's seed, a purpose (``"augment"``) and a position (a step, a
    rank).
    """
    words = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *position]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def numpy_generator(seed: int, purpose: str, *position: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *position])


def torch_generator(seed: int, purpose: str, *position: int, device: torch.device | str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed_of(seed, purpose, *position))
