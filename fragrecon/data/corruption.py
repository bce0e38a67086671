"""What time does to fragments: noise, turns, changed colours, worn borders. Pure functions of keys, a key a puzzle.

Shapes: B puzzles of F fragments (C, h, w), floats in 0..1. How much is one number, or one for each puzzle (B,).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fragrecon.data import augment
from fragrecon.errors import ConfigError
from fragrecon.seeds import keys_of, uniforms

Much = float | Tensor


@dataclass(frozen=True)
class Wear:
    """How training fragments are worn; each kind strikes a puzzle by itself.

    Attributes:
        share: of the puzzles that a kind strikes.
        gap: most pixels worn off every side.
        noise: greatest standard deviation.
        jitter: greatest strength of a change of colours.
        rotation: greatest share of fragments turned.
    """

    share: float = 0.0
    gap: float = 0.0
    noise: float = 0.0
    jitter: float = 0.0
    rotation: float = 0.0

    def check(self, fragment_shape: tuple[int, int, int]) -> None:
        """Refuse what fragments (C, h, w) cannot bear; raises `ConfigError`."""
        for kind, change in CHANGES.items():
            most = getattr(self, kind)
            if self.share and most:
                try:
                    change(torch.zeros(1, 1, *fragment_shape), torch.zeros(1, dtype=torch.int64), most)
                except ConfigError as error:
                    raise ConfigError(f"data.wear.{kind}={most:g}: {error}") from None

    def apply(self, fragments: Tensor, seed: int, first: int) -> Tensor:
        """Puzzles ``first .. first + B - 1`` of training, (B, F, C, h, w) uint8, worn; uint8 again."""
        worn = fragments
        for kind, change in CHANGES.items():
            most = math.floor(self.gap) if kind == "gap" else getattr(self, kind)
            if not self.share or not most:
                continue
            keys = keys_of(seed, f"wear/{kind}", first, len(fragments))
            drawn, much = uniforms(keys, 2).unbind(1)
            struck = torch.nonzero(drawn < self.share).flatten()
            much = 1 + (much * most).floor() if kind == "gap" else much * most
            if len(struck):
                # Another key for the change itself, whose numbers would else begin with the two above.
                changed = change(worn[struck].float() / 255, keys[struck] + 1, much[struck])
                worn = worn.index_copy(0, struck, (changed * 255).round().to(torch.uint8))
        return worn


def add_noise(fragments: Tensor, keys: Tensor, deviation: Much) -> Tensor:
    """Fragments with Gaussian noise of that standard deviation, on the scale of 0 to 1."""
    numbers = uniforms(keys, fragments[0].numel()).clamp_(min=2.0**-54)
    noise: Tensor = torch.special.ndtri(numbers).to(fragments.dtype).view_as(fragments)
    return (fragments + _each(deviation, fragments) * noise).clamp_(0, 1)


def turn(fragments: Tensor, keys: Tensor, share: Much) -> Tensor:
    """Fragments of which that share, at random, is turned by 90, 180 or 270 degrees.

    Raises:
        ConfigError: the fragments are not square.
    """
    count, height, width = fragments.shape[1], *fragments.shape[-2:]
    if height != width:
        raise ConfigError(f"fragments of {height}x{width} pixels cannot be turned by 90 degrees")
    chosen, angle = (numbers.view(-1, count, 1, 1, 1) for numbers in torch.split(uniforms(keys, 2 * count), count, 1))
    quarters = torch.where(chosen < _each(share, chosen), 1 + (angle * 3).long(), 0)
    result = fragments
    for quarter in (1, 2, 3):
        result = torch.where(quarters == quarter, torch.rot90(fragments, quarter, (-2, -1)), result)
    return result


def jitter(fragments: Tensor, keys: Tensor, strength: Much) -> Tensor:
    """Fragments with brightness, contrast and saturation changed by up to that share each, and hue by a quarter of it.

    Every fragment is changed apart from the others of its image.
    """
    puzzles, count = fragments.shape[:2]
    signed = uniforms(keys, 4 * count).view(puzzles, 4, count).to(fragments.dtype) * 2 - 1
    changes = (_each(strength, signed) * signed).movedim(1, 0).flatten(1)
    one = torch.zeros(puzzles * count, device=fragments.device)
    factors = 1 + changes
    draws = augment.Draws(one.bool(), one, factors[0], factors[1], factors[2], changes[3] / 4 * 2 * math.pi)
    return augment.colour_jitter(fragments.flatten(0, 1), draws).view_as(fragments).clamp_(0, 1)


def wear_off(fragments: Tensor, keys: Tensor, gap: Much) -> Tensor:
    """Fragments that lost ``gap`` pixels on every side, filled back to size by the colours of the edge that is left.

    Nothing in it is random.

    Raises:
        ConfigError: nothing would be left.
    """
    height, width = fragments.shape[-2:]
    gaps, result = _each(gap, fragments).long(), fragments
    for lost in torch.unique(gaps).tolist():
        if 2 * lost >= min(height, width):
            raise ConfigError(f"nothing is left of {height}x{width} pixels without {lost} on every side")
        left = fragments[..., lost : height - lost, lost : width - lost].flatten(0, 1)
        result = torch.where(gaps == lost, F.pad(left, (lost,) * 4, mode="replicate").view_as(fragments), result)
    return result


CHANGES: dict[str, Callable[[Tensor, Tensor, Much], Tensor]] = {
    "gap": wear_off,
    "rotation": turn,
    "jitter": jitter,
    "noise": add_noise,
}
"""By kind: from fragments (B, F, C, h, w) in 0..1, keys (B,) and how much to fragments in 0..1."""


def _each(much: Much, like: Tensor) -> Tensor:
    """How much for each puzzle, to be multiplied with a tensor (B, ...)."""
    numbers = torch.as_tensor(much, dtype=torch.float64).to(like.dtype if like.is_floating_point() else torch.float32)
    return numbers.to(like.device).view(-1, *(1,) * (like.ndim - 1))
