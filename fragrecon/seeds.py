"""Random numbers seeded by their purpose, independent of earlier draws and of the process.

All positions of one purpose must have the same length: NumPy's seed sequence pads with zeros, so ``()`` and ``(0,)``
are the same position.

Where many small items need random numbers, such as the puzzles of an evaluation, each item has a *key*, and its numbers
are hashes of the key and their index (SplitMix64: Steele, Lea and Flood, OOPSLA 2014). They are computed all at once,
on any device, and do not depend on how the items are batched.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

# The constants of SplitMix64 as signed numbers; torch has no unsigned 64-bit arithmetic.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


def seed_of(seed: int, purpose: str, *position: int) -> int:
    """Return a seed that is a pure function of the run's seed, a purpose and a position.

    Args:
        seed: seed of the run.
        purpose: purpose of the numbers, such as ``"augment"``.
        position: position of the draw, such as a step or a rank.

    Returns:
        63 bits.

    Example:
        >>> seed_of(0, "augment", 1) == seed_of(0, "augment", 1), seed_of(0, "augment", 1) == seed_of(0, "augment", 2)
        (True, False)
    """
    words = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *position]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def numpy_generator(seed: int, purpose: str, *position: int) -> np.random.Generator:
    """Create a NumPy generator for a purpose and a position.

    Args:
        seed: seed of the run.
        purpose: purpose of the numbers, such as ``"augment"``.
        position: position of the draw, such as a step or a rank.

    Returns:
        A new generator.
    """
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *position])


def torch_generator(seed: int, purpose: str, *position: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Create a PyTorch generator for a purpose and a position.

    Args:
        seed: seed of the run.
        purpose: purpose of the numbers, such as ``"augment"``.
        position: position of the draw, such as a step or a rank.
        device: device of the generator.

    Returns:
        A new generator.
    """
    return torch.Generator(device).manual_seed(seed_of(seed, purpose, *position))


def keys_of(seed: int, purpose: str, first: int, count: int) -> Tensor:
    """Return the random keys of consecutive items of an endless sequence.

    Args:
        seed: seed of the run.
        purpose: purpose of the numbers, such as ``"noise"``.
        first: index of the first item.
        count: number of items.

    Returns:
        Keys, (count,) int64.

    Example:
        >>> keys_of(0, "noise", 0, 5)[2:].equal(keys_of(0, "noise", 2, 3))
        True
    """
    return _mix(torch.arange(first, first + count) * _GOLDEN + seed_of(seed, purpose))


def random_bits(keys: Tensor, count: int) -> Tensor:
    """Return random bits for each key.

    Args:
        keys: random keys, (P,).
        count: number of draws per key.

    Returns:
        64 random bits each, (P, count) int64.
    """
    places = torch.arange(1, count + 1, device=keys.device)
    return _mix(places * _GOLDEN + keys.unsqueeze(-1))


def uniforms(keys: Tensor, count: int) -> Tensor:
    """Return uniform random numbers for each key.

    Args:
        keys: random keys, (P,).
        count: number of draws per key.

    Returns:
        Numbers in [0, 1), (P, count) float64 with 53 random bits.

    Example:
        >>> numbers = uniforms(keys_of(0, "noise", 0, 2), 3)
        >>> numbers.shape, bool((numbers >= 0).all() and (numbers < 1).all())
        (torch.Size([2, 3]), True)
    """
    return _shifted(random_bits(keys, count), 11).double() * 2.0**-53


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Logical shift to the right; the shift of torch copies the sign."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
