"""Between feature maps of any size and 4 x 4 cells, by averages against cosines.

A plain average over a cell forgets where in it a feature was. Here each channel of the cells hears all features by one
cosine wave over the cell (the discrete cosine transform, type II: Ahmed et al., 1974), of which the first is flat and
gives the plain average. The longest waves of an image are taken first, so that a wide image is divided more finely
across. The way back lays the same waves over a map of any size; there each cell goes on beyond its seams, as the even
waves that cosines are, and fades out while its neighbour fades in, over half of the shortest wave's half period.

Shapes: B images, F features, H x W of their map, C channels of cells, K cells a side, U and V half periods a cell.
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
"""K."""

NOISE = 0.02
"""Share of the usual random weights where layers begin as means or the identity: enough to tell channels apart."""


class ToCells(nn.Module):
    """(B, F, H, W) to (B, C, K, K); at first each channel hears nearly the mean of all features."""

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_noise(channels, features) + 1 / features)

    def forward(self, features: Tensor) -> Tensor:
        waves = waves_of(len(self.weight), (features.shape[2], features.shape[3]))
        down, across = waves.down.to(features), waves.across.to(features)
        with _whole_precision(features):
            rows = features.to(down.values.dtype).index_select(2, down.index.flatten())
            parts = rows.index_select(3, across.index.flatten())
            parts = parts.view(*features.shape[:2], *down.index.shape, *across.index.shape)  # (B, F, K, h, K, w)
            heard = torch.einsum("bfihjw,vjw->bfihvj", parts, across.averages)
            heard = torch.einsum("bfihvj,uih->uvbfij", heard, down.averages)
            # Unlike indexing by several tensors at once, this always adds up gradients in one order.
            chosen = heard.flatten(0, 1).index_select(0, waves.place.to(features.device))  # (C, B, F, K, K)
            return torch.einsum("cbfij,cf->bcij", chosen, self.weight.to(chosen.dtype)).to(self.weight.dtype)


class FromCells(nn.Module):
    """(B, C, K, K) to (B, F, H, W), of any size; at first each feature is nearly the sum of all waves.

    Args:
        channels: C.
        features: F.
        told: how many channels a cell can differ in; by the shortest of their waves it fades.
    """

    def __init__(self, channels: int, features: int, told: int | None = None) -> None:
        super().__init__()
        self.told = min(channels, told or channels)
        self.weight = nn.Parameter(_noise(features, channels) + 1)

    def forward(self, cells: Tensor, size: tuple[int, int]) -> Tensor:
        waves = waves_of(cells.shape[1], size, self.told)
        down, across = waves.down.to(cells), waves.across.to(cells)
        u, v = len(down.values), len(across.values)
        with _whole_precision(cells):
            shares = self.weight.to(down.values.dtype) / waves.times.to(cells.device)
            each = torch.einsum("bcij,fc->cbfij", cells.to(shares.dtype), shares)
            laid = each.new_zeros(u * v, *each.shape[1:]).index_add(0, waves.place.to(cells.device), each)
            rows = torch.einsum("uvbfij,uih->bfvjih", laid.view(u, v, *laid.shape[1:]), down.values)
            high = down.joined(rows.flatten(4))
            parts = torch.einsum("bfvjh,vjw->bfhjw", high, across.values)
            return across.joined(parts.flatten(3)).to(self.weight.dtype)


@dataclass(frozen=True)
class Along:
    """One side of a map, cut into K parts of nearly equal length, each padded to the longest, L.

    Attributes:
        index: where each part lies, (K, L).
        averages: each wave over the length of each part, (waves, K, L); 0 at padding.
        values: of each wave over each part and M beyond both its ends, as it fades, (waves, K, M + L + M).
        laid: which of all these, in a row, each place is the sum of: one of its own part and, if parts fade at all, one
            of the nearest neighbour, or the very first, which is 0 then; (1 or 2, side).
    """

    index: Tensor
    averages: Tensor
    values: Tensor
    laid: Tensor

    def to(self, like: Tensor) -> Along:
        """On the device of a tensor, in its precision but no less than float32."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        waves = self.averages.to(like.device, dtype), self.values.to(like.device, dtype)
        return Along(self.index.to(like.device), *waves, self.laid.to(like.device))

    def joined(self, parts: Tensor) -> Tensor:
        """Parts with what is beyond their ends, (..., K (M + L + M)), laid over the side, (..., side)."""
        own, *fading = (parts.index_select(-1, places) for places in self.laid)
        return sum(fading, own)


@dataclass(frozen=True)
class Waves:
    """Which wave each of C channels stands for, and the waves along both sides.

    Attributes:
        u: half periods down a cell, (C,).
        v: half periods across, (C,).
        times: how many channels have the same wave, (C,).
        down: along the height.
        across: along the width.
    """

    u: Tensor
    v: Tensor
    times: Tensor
    down: Along
    across: Along

    @property
    def place(self) -> Tensor:
        """Of each channel's wave among all of U x V, (C,)."""
        return self.u * len(self.across.values) + self.v


@lru_cache(maxsize=256)
def waves_of(channels: int, size: tuple[int, int], told: int | None = None) -> Waves:
    """The longest waves that a map (H, W) can tell apart within cells; all are used before any twice.

    Args:
        channels: C.
        size: (H, W).
        told: of how many channels the shortest wave says how cells fade, by default of all.
    """
    height, width = (max(1, side // CELLS) for side in size)
    known = sorted(
        ((u, v) for u in range(height) for v in range(width)),
        key=lambda wave: (math.hypot(wave[0] / height, wave[1] / width), wave),
    )
    chosen = [known[channel % len(known)] for channel in range(channels)]
    # A tensor that is first asked for in inference mode, or on no device, should serve elsewhere too.
    with torch.inference_mode(False), torch.device("cpu"):
        u, v = torch.tensor(chosen).T
        times = torch.tensor([-(-(channels - known.index(wave)) // len(known)) for wave in chosen])
        down, across = (
            _along(side, int(of.max()) + 1, int(of[:told].max()) + 1) for side, of in zip(size, (u, v), strict=True)
        )
        return Waves(u, v, times, down, across)


def _whole_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """Nothing is rounded to fewer bits, where it is computed at all."""
    return nullcontext() if tensor.is_meta else torch.autocast(tensor.device.type, enabled=False)


def _along(side: int, waves: int, told: int) -> Along:
    starts, parts = -(-np.arange(CELLS + 1) * side // CELLS), np.arange(CELLS)[:, None]
    lengths = np.diff(starts)[:, None]
    longest = max(1, lengths.max())
    periods = np.arange(waves)[:, None, None]

    def cosines(at: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = np.cos(np.pi * periods * at / lengths.clip(1))
        return found * np.where(periods > 0, 2**0.5, 1)

    offsets = np.arange(longest)
    averages = cosines(offsets + 0.5) * (offsets < lengths) / lengths.clip(1)

    fade = side / CELLS / told / 4  # either way of a seam
    margin = max(0, math.ceil(fade - 0.5))
    at = np.arange(-margin, longest + margin) + 0.5
    into = np.where(parts > 0, _ramp(at, fade), at > 0)
    out = np.where(parts < CELLS - 1, _ramp(lengths - at, fade), at < lengths)
    values = cosines(at) * into * out

    # Where each place of the side lies among these: in its own part, and in the neighbour beyond the nearest seam.
    own = np.repeat(np.arange(CELLS), lengths[:, 0])
    place = np.arange(side) - starts[own]
    other = (own + np.where(2 * place < lengths[own, 0], -1, 1)).clip(0, CELLS - 1)
    in_other = np.arange(side) - starts[other] + margin
    width = longest + 2 * margin
    reached = (other != own) & (in_other >= 0) & (in_other < width)
    laid = np.stack([own * width + place + margin, np.where(reached, other * width + in_other, 0)])
    return Along(
        torch.from_numpy((starts[:-1, None] + offsets).clip(max=side - 1)),
        _float(averages),
        _float(values),
        torch.from_numpy(laid if margin else laid[:1]),
    )


def _ramp(distance: npt.NDArray[np.float64], fade: float) -> npt.NDArray[np.float64]:
    """From 0 to 1 over a seam, by the distance to it from within."""
    ramp: npt.NDArray[np.float64] = np.clip((distance / fade + 1) / 2, 0, 1)
    return ramp


def _float(values: npt.NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def _noise(outputs: int, inputs: int) -> Tensor:
    """`NOISE` of the weights that a linear layer usually begins with."""
    noise: Tensor = torch.empty(outputs, inputs).uniform_(-1, 1) * NOISE / inputs**0.5
    return noise
