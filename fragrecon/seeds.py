"""Random numbers keyed on what they are for, so that nothing depends on what was drawn before, or by whom.

All positions of one purpose must have one length: NumPy's seed sequence fills up with zeros, so ``()`` and ``(0,)``
are the same position.

Where many small things need numbers of their own, such as the puzzles of an evaluation, each has a *key*, and its
numbers are hashes of that key and of their place (SplitMix64: Steele, Lea and Flood, OOPSLA 2014): all are made at
once, on any device, and alike however the things are put into batches.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

# The constants of SplitMix64 as signed numbers, which is all the 64 bits that torch has.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


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


def keys_of(seed: int, purpose: str, first: int, count: int) -> Tensor:
    """Keys (count,) of the things ``first .. first + count - 1`` of an endless row of them."""
    return _mix(torch.arange(first, first + count) * _GOLDEN + seed_of(seed, purpose))


def random_bits(keys: Tensor, count: int) -> Tensor:
    """64 random bits for each of ``count`` places under each of ``keys`` (P,): (P, count), int64."""
    places = torch.arange(1, count + 1, device=keys.device)
    return _mix(places * _GOLDEN + keys.unsqueeze(-1))


def uniforms(keys: Tensor, count: int) -> Tensor:
    """Numbers uniform in [0, 1), float64 of 53 bits, under each of ``keys`` (P,): (P, count)."""
    return _shifted(random_bits(keys, count), 11).double() * 2.0**-53


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """A shift to the right that brings in zeros; torch's own copies the sign."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
