"""Corruptions of fragments: noise, rotation, colour jitter, eroded borders, compression; missing fragments.

Each corruption of pixels is a pure function of the fragments of B puzzles, (B, F, C, h, w) floats in [0, 1], of one
random key per puzzle, (B,) int64, and of a strength, which is one number or one number per puzzle, (B,).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fragrecon.data import augment
from fragrecon.data.compression import BLOCK, jpeg
from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError
from fragrecon.seeds import keys_of, uniforms

Strength = float | Tensor


@dataclass(frozen=True)
class Corruption:
    """Corruptions of training fragments; each kind is applied to a puzzle independently of the others.

    Attributes:
        share: probability that a kind is applied to a puzzle, in [0, 1].
        gap: maximum number of pixels eroded from every side.
        noise: maximum standard deviation of the noise, for pixels in [0, 1].
        jitter: maximum strength of the colour jitter, in [0, 1].
        rotation: share of the fragments that are rotated, in [0, 1]; 0.75 makes all four rotations equally likely.
        compression: maximum loss of quality by JPEG compression of each fragment, in [0, 1].
        missing: maximum share of the fragments that are missing, in [0, 1); the same number in all puzzles of a batch.
    """

    share: float = 0.0
    gap: float = 0.0
    noise: float = 0.0
    jitter: float = 0.0
    rotation: float = 0.0
    compression: float = 0.0
    missing: float = 0.0

    def check(self, fragment_shape: tuple[int, int, int]) -> None:
        """Check that the corruptions can be applied to fragments of one shape.

        Args:
            fragment_shape: (C, h, w).

        Raises:
            ConfigError: a corruption cannot be applied to fragments of this shape.
        """
        for kind, change in CHANGES.items():
            most = getattr(self, kind)
            if self.share and most:
                try:
                    change(torch.zeros(1, 1, *fragment_shape), torch.zeros(1, dtype=torch.int64), most)
                except ConfigError as error:
                    raise ConfigError(f"data.corruption.{kind}={most:g}: {error}") from None

    def apply(self, batch: FragmentBatch, seed: int, first: int) -> FragmentBatch:
        """Corrupt training puzzles.

        Args:
            batch: puzzles with uint8 fragments; its ``step`` seeds the number of missing fragments.
            seed: seed of the run.
            first: index of the first puzzle, counted from the start of training.

        Returns:
            The corrupted puzzles, with uint8 fragments.
        """
        if self.share and self.missing:
            drawn, lost = uniforms(keys_of(seed, "corruption/missing", batch.step, 1), 2)[0].tolist()
            if drawn < self.share:
                batch = lose(batch, lost * self.missing)
        corrupted, rotations = batch.fragments, batch.rotations.clone()
        for kind, change in CHANGES.items():
            most = math.floor(self.gap) if kind == "gap" else getattr(self, kind)
            if not self.share or not most:
                continue
            keys = keys_of(seed, f"corruption/{kind}", first, len(batch))
            drawn, strength = uniforms(keys, 2).unbind(1)
            chosen = torch.nonzero(drawn < self.share).flatten()
            if kind == "rotation":
                strength = torch.full_like(strength, most)
            else:
                strength = 1 + (strength * most).floor() if kind == "gap" else strength * most
            if len(chosen):
                # Another key, because the same key would give the two numbers above again.
                changed = change(corrupted[chosen].float() / 255, keys[chosen] + 1, strength[chosen])
                corrupted = corrupted.index_copy(0, chosen, (changed * 255).round().to(torch.uint8))
                if kind == "rotation":
                    rotations[chosen] = quarter_turns(keys[chosen] + 1, rotations.shape[1], strength[chosen])
        return replace(batch, fragments=corrupted, rotations=rotations)


def corrupt(kind: str, batch: FragmentBatch, keys: Tensor, strength: float) -> FragmentBatch:
    """Apply one kind of corruption to puzzles with float fragments, for evaluation.

    Args:
        kind: one of `KINDS`.
        batch: puzzles.
        keys: random keys of the puzzles, (B,).
        strength: strength of the corruption.

    Returns:
        The corrupted puzzles.
    """
    if kind == "missing":
        return lose(batch, strength)
    changed = replace(batch, fragments=CHANGES[kind](batch.fragments, keys, strength))
    if kind == "rotation":
        changed.rotations = quarter_turns(keys, batch.rotations.shape[1], strength)
    return changed


def lose(batch: FragmentBatch, share: float) -> FragmentBatch:
    """Remove a share of the fragments of each puzzle, rounded; the first in the shuffled order are kept, at least 2."""
    count = batch.fragments.shape[1]
    return batch.first(max(min(2, count), count - round(share * count)))


def add_noise(fragments: Tensor, keys: Tensor, deviation: Strength) -> Tensor:
    """Add Gaussian noise.

    Args:
        fragments: (B, F, C, h, w) in [0, 1].
        keys: random keys of the puzzles, (B,).
        deviation: standard deviation of the noise.

    Returns:
        Noisy fragments, (B, F, C, h, w), clamped to [0, 1].
    """
    numbers = uniforms(keys, fragments[0].numel()).clamp_(min=2.0**-54)
    noise: Tensor = torch.special.ndtri(numbers).to(fragments.dtype).view_as(fragments)
    return (fragments + _each(deviation, fragments) * noise).clamp_(0, 1)


def rotate(fragments: Tensor, keys: Tensor, share: Strength) -> Tensor:
    """Rotate randomly chosen fragments by 90, 180 or 270 degrees.

    Args:
        fragments: (B, F, C, h, w), h == w.
        keys: random keys of the puzzles, (B,).
        share: expected share of the fragments that are rotated, in [0, 1].

    Returns:
        Fragments, (B, F, C, h, w).

    Raises:
        ConfigError: the fragments are not square.
    """
    height, width = fragments.shape[-2:]
    if height != width:
        raise ConfigError(f"fragments of {height}x{width} pixels cannot be rotated by 90 degrees; only square ones can")
    return turn(fragments, quarter_turns(keys, fragments.shape[1], share))


def quarter_turns(keys: Tensor, count: int, share: Strength) -> Tensor:
    """Draw by how many counterclockwise quarter turns `rotate` rotates each of F = ``count`` fragments, (B, F)."""
    chosen, angle = torch.split(uniforms(keys, 2 * count), count, 1)
    return torch.where(chosen < _each(share, chosen), 1 + (angle * 3).long(), 0)


def turn(fragments: Tensor, quarters: Tensor) -> Tensor:
    """Rotate square fragments (..., C, h, h) counterclockwise by quarter turns (...), integers of any sign."""
    result = fragments.clone()
    for quarter in (1, 2, 3):
        chosen = quarters % 4 == quarter
        if chosen.any():
            result[chosen] = torch.rot90(fragments[chosen], quarter, (-2, -1))
    return result


def jitter(fragments: Tensor, keys: Tensor, strength: Strength) -> Tensor:
    """Change brightness, contrast, saturation and hue of every fragment independently.

    Args:
        fragments: (B, F, C, h, w) in [0, 1].
        keys: random keys of the puzzles, (B,).
        strength: the factors of brightness, contrast and saturation are drawn from ``[1 - strength, 1 + strength]``,
            the change of hue from ``[-strength / 4, strength / 4]`` of the colour circle.

    Returns:
        Fragments, (B, F, C, h, w), clamped to [0, 1].
    """
    puzzles, count = fragments.shape[:2]
    signed = uniforms(keys, 4 * count).view(puzzles, 4, count).to(fragments.dtype) * 2 - 1
    changes = (_each(strength, signed) * signed).movedim(1, 0).flatten(1)
    brightness, contrast, saturation, hue = changes
    colours = 1 + brightness, 1 + contrast, 1 + saturation, hue / 4 * 2 * math.pi
    return augment.colour_jitter(fragments.flatten(0, 1), *colours).view_as(fragments).clamp_(0, 1)


def compress(fragments: Tensor, keys: Tensor, loss: Strength) -> Tensor:
    """Compress every fragment as a JPEG image of its own, on a random grid.

    Args:
        fragments: (B, F, C, h, w) in [0, 1].
        keys: random keys of the puzzles, (B,).
        loss: loss of quality, in [0, 1]: the quality is ``100 * (1 - loss)`` on the scale of libjpeg, chroma is stored
            at half resolution.

    Returns:
        Fragments, (B, F, C, h, w), in steps of 1/255.
    """
    puzzles, count = fragments.shape[:2]
    offset = (uniforms(keys, 2 * count).view(-1, 2) * BLOCK).long()
    quality = (100 * (1 - _each(loss, torch.zeros(puzzles, count, device=fragments.device)))).clamp(1, 100)
    images = fragments.flatten(0, 1) * 255
    return jpeg(images, quality.expand(puzzles, count).flatten(), offset).view_as(fragments) / 255


def erode(fragments: Tensor, keys: Tensor, gap: Strength) -> Tensor:
    """Erode the border of every fragment and refill it by replicating the pixels of the remaining edge.

    Args:
        fragments: (B, F, C, h, w) in [0, 1].
        keys: unused; erosion is not random.
        gap: number of pixels eroded from every side.

    Returns:
        Fragments, (B, F, C, h, w).

    Raises:
        ConfigError: no pixel would remain.
    """
    height, width = fragments.shape[-2:]
    gaps, result = _each(gap, fragments).long(), fragments
    for lost in torch.unique(gaps).tolist():
        if 2 * lost >= min(height, width):
            raise ConfigError(f"a gap of {lost} pixels on every side leaves nothing of {height}x{width} pixels")
        left = fragments[..., lost : height - lost, lost : width - lost].flatten(0, 1)
        result = torch.where(gaps == lost, F.pad(left, (lost,) * 4, mode="replicate").view_as(fragments), result)
    return result


CHANGES: dict[str, Callable[[Tensor, Tensor, Strength], Tensor]] = {
    "gap": erode,
    "rotation": rotate,
    "jitter": jitter,
    "noise": add_noise,
    "compression": compress,
}
"""Corruptions of pixels by kind, in the order in which `Corruption.apply` applies them."""

KINDS = (*CHANGES, "missing")
"""What `corrupt` can do."""


def _each(strength: Strength, like: Tensor) -> Tensor:
    """Reshape strengths (B,) so that they broadcast with a tensor (B, ...)."""
    numbers = torch.as_tensor(strength, dtype=torch.float64).to(
        like.dtype if like.is_floating_point() else torch.float32
    )
    return numbers.to(like.device).view(-1, *(1,) * (like.ndim - 1))
