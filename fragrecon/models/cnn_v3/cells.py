"""Layers between feature maps of any size and 4 x 4 cells, by cosine transforms.

A plain average over a cell loses the position of a feature within the cell. Here each channel of the cells averages
the features against one cosine wave over the cell (discrete cosine transform, type II: Ahmed et al., 1974); the first
wave is constant and gives the plain average. The longest waves are used first, so wide images get more waves across.
`FromCells` sums the same waves over a map of any size. There each cell extends beyond its border, as cosines are even,
and is blended with its neighbour over half of the half period of the shortest wave.

Shapes: B images, F features, H x W feature map, C channels of cells, K x K cells, U x V waves (U down, V across).
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

CELLS = 4
"""K, the number of cells along each side."""

NOISE = 0.02
"""Scale of the random weights added to layers initialised to a mean or the identity, so that channels differ."""


class ToCells(nn.Module):
    """Maps features (B, F, H, W) to cells (B, C, K, K); each channel is initialised near the mean of all features.

    Args:
        features: F.
        channels: C.
    """

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_noise(channels, features) + 1 / features)

    def forward(self, features: Tensor) -> Tensor:
        """Average features (B, F, H, W) to cells (B, C, K, K)."""
        waves = waves_of(len(self.weight), (features.shape[2], features.shape[3]))
        down, across = waves.down.to(features), waves.across.to(features)
        with _no_autocast(features):
            rows = features.to(down.values.dtype).index_select(2, down.index.flatten())
            parts = rows.index_select(3, across.index.flatten())
            parts = parts.view(*features.shape[:2], *down.index.shape, *across.index.shape)  # (B, F, K, h, K, w)
            averaged = torch.einsum("bfihjw,vjw->bfihvj", parts, across.averages)
            averaged = torch.einsum("bfihvj,uih->uvbfij", averaged, down.averages)
            # Unlike indexing by several tensors at once, this adds up gradients in a fixed order.
            chosen = averaged.flatten(0, 1).index_select(0, waves.place.to(features.device))  # (C, B, F, K, K)
            return torch.einsum("cbfij,cf->bcij", chosen, self.weight.to(chosen.dtype)).to(self.weight.dtype)


class FromCells(nn.Module):
    """Maps cells (B, C, K, K) to features (B, F, H, W) of any size, initialised near the sum of all waves.

    Args:
        channels: C.
        features: F.
        fade_channels: Number of channels whose shortest wave sets the width of the blending; by default all.
    """

    def __init__(self, channels: int, features: int, fade_channels: int | None = None) -> None:
        super().__init__()
        self.fade_channels = min(channels, fade_channels or channels)
        self.weight = nn.Parameter(_noise(features, channels) + 1)

    def forward(self, cells: Tensor, size: tuple[int, int]) -> Tensor:
        """Expand cells (B, C, K, K) to features (B, F, H, W) of the given (H, W)."""
        waves = waves_of(cells.shape[1], size, self.fade_channels)
        down, across = waves.down.to(cells), waves.across.to(cells)
        u, v = len(down.values), len(across.values)
        with _no_autocast(cells):
            shares = self.weight.to(down.values.dtype) / waves.times.to(cells.device)
            each = torch.einsum("bcij,fc->cbfij", cells.to(shares.dtype), shares)
            summed = each.new_zeros(u * v, *each.shape[1:]).index_add(0, waves.place.to(cells.device), each)
            rows = torch.einsum("uvbfij,uih->bfvjih", summed.view(u, v, *summed.shape[1:]), down.values)
            high = down.joined(rows.flatten(4))
            parts = torch.einsum("bfvjh,vjw->bfhjw", high, across.values)
            return across.joined(parts.flatten(3)).to(self.weight.dtype)


@dataclass(frozen=True)
class Along:
    """Waves along one side of a map, which is cut into K parts of nearly equal length, padded to the longest, L.

    Attributes:
        index: Positions of each part, (K, L).
        averages: Each wave over each part, divided by the part's length, (waves, K, L); 0 at padding.
        values: Each faded wave over each part and M positions beyond both ends, (waves, K, M + L + M).
        sources: Flat indices into the last two dimensions of ``values`` that each position of the side is the sum of,
            (1 or 2, side): one in its own part and, if parts are blended, one in the nearest neighbour or, where that
            does not reach, index 0, which holds 0.
    """

    index: Tensor
    averages: Tensor
    values: Tensor
    sources: Tensor

    def to(self, like: Tensor) -> Along:
        """Move to the device of a tensor, with its precision but at least float32."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        waves = self.averages.to(like.device, dtype), self.values.to(like.device, dtype)
        return Along(self.index.to(like.device), *waves, self.sources.to(like.device))

    def joined(self, parts: Tensor) -> Tensor:
        """Sum overlapping parts (..., K (M + L + M)) to the whole side (..., side)."""
        own, *fading = (parts.index_select(-1, places) for places in self.sources)
        return sum(fading, own)


@dataclass(frozen=True)
class Waves:
    """The wave of each of C channels, and the waves along both sides.

    Attributes:
        u: Number of half periods down a cell, (C,).
        v: Number of half periods across a cell, (C,).
        times: Number of channels with the same wave, (C,).
        down: Waves along the height.
        across: Waves along the width.
    """

    u: Tensor
    v: Tensor
    times: Tensor
    down: Along
    across: Along

    @property
    def place(self) -> Tensor:
        """Index of each channel's wave among all U x V, (C,)."""
        return self.u * len(self.across.values) + self.v


@lru_cache(maxsize=256)
def waves_of(channels: int, size: tuple[int, int], fade_channels: int | None = None) -> Waves:
    """Choose the longest waves that a map (H, W) resolves within cells; all are used before any is repeated.

    Args:
        channels: C.
        size: (H, W).
        fade_channels: Number of channels whose shortest wave sets the width of the blending; by default all.

    Returns:
        The waves, on the CPU.
    """
    height, width = (max(1, side // CELLS) for side in size)
    known = sorted(
        ((u, v) for u in range(height) for v in range(width)),
        key=lambda wave: (math.hypot(wave[0] / height, wave[1] / width), wave),
    )
    chosen = [known[channel % len(known)] for channel in range(channels)]
    # The cached tensors must be usable outside inference mode and the meta device too.
    with torch.inference_mode(False), torch.device("cpu"):
        u, v = torch.tensor(chosen).T
        times = torch.tensor([-(-(channels - known.index(wave)) // len(known)) for wave in chosen])
        down, across = (
            _along(side, int(of.max()) + 1, int(of[:fade_channels].max()) + 1)
            for side, of in zip(size, (u, v), strict=True)
        )
        return Waves(u, v, times, down, across)


def _no_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Disable autocast for the device of a tensor."""
    return nullcontext() if tensor.is_meta else torch.autocast(tensor.device.type, enabled=False)


def _along(side: int, waves: int, fade_channels: int) -> Along:
    starts, parts = -(-np.arange(CELLS + 1) * side // CELLS), np.arange(CELLS)[:, None]
    lengths = np.diff(starts)[:, None]
    longest = max(1, lengths.max())
    periods = np.arange(waves)[:, None, None]

    def cosines(at: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = np.cos(np.pi * periods * at / lengths.clip(1))
        return found * np.where(periods > 0, 2**0.5, 1)

    offsets = np.arange(longest)
    averages = cosines(offsets + 0.5) * (offsets < lengths) / lengths.clip(1)

    fade = side / CELLS / fade_channels / 4  # on each side of a border
    margin = max(0, math.ceil(fade - 0.5))
    at = np.arange(-margin, longest + margin) + 0.5
    fade_in = np.where(parts > 0, _ramp(at, fade), at > 0)
    fade_out = np.where(parts < CELLS - 1, _ramp(lengths - at, fade), at < lengths)
    values = cosines(at) * fade_in * fade_out

    # Indices of each position of the side in `values`: in its own part, and in the neighbour across the nearest border.
    own = np.repeat(np.arange(CELLS), lengths[:, 0])
    place = np.arange(side) - starts[own]
    other = (own + np.where(2 * place < lengths[own, 0], -1, 1)).clip(0, CELLS - 1)
    in_other = np.arange(side) - starts[other] + margin
    width = longest + 2 * margin
    reached = (other != own) & (in_other >= 0) & (in_other < width)
    sources = np.stack([own * width + place + margin, np.where(reached, other * width + in_other, 0)])
    return Along(
        torch.from_numpy((starts[:-1, None] + offsets).clip(max=side - 1)),
        _float(averages),
        _float(values),
        torch.from_numpy(sources if margin else sources[:1]),
    )


def _ramp(distance: npt.NDArray[np.float64], fade: float) -> npt.NDArray[np.float64]:
    """Rise linearly from 0 to 1 across a border, given signed distances to it."""
    ramp: npt.NDArray[np.float64] = np.clip((distance / fade + 1) / 2, 0, 1)
    return ramp


def _float(values: npt.NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def _noise(outputs: int, inputs: int) -> Tensor:
    """Draw the default initial weights of a linear layer, scaled by `NOISE`."""
    noise: Tensor = torch.empty(outputs, inputs).uniform_(-1, 1) * NOISE / inputs**0.5
    return noise
