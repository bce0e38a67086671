"""Residual blocks of several kinds, each a branch beside the identity that is silent at first.

The way through a stack of them is thus linear before training, and never normalised: an image's brightness and contrast
come through, whatever its size and however few images are in a batch.

Shapes: B images, C channels, H x W.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Residual(nn.Module):
    """Adds what a branch makes of (B, C, H, W) to it; the branch's last layer begins at zero."""

    def __init__(self, branch: nn.Sequential, last: nn.Conv2d) -> None:
        super().__init__()
        self.branch = branch.append(last)
        nn.init.zeros_(last.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        added: Tensor = hidden + self.branch(hidden)
        return added


def resnet(channels: int) -> Residual:
    """Two 3x3 convolutions (He et al., 2016, pre-activated as in "Identity mappings")."""
    return Residual(
        nn.Sequential(*_activated(channels), _conv(channels, channels, 3), *_activated(channels)),
        _conv(channels, channels, 3),
    )


def resnext(channels: int) -> Residual:
    """A 3x3 convolution in 8 groups, as far as they divide the channels, between two of 1x1 (Xie et al., 2017)."""
    return Residual(
        nn.Sequential(
            *_activated(channels),
            _conv(channels, channels, 1),
            *_activated(channels),
            _conv(channels, channels, 3, groups=math.gcd(8, channels)),
            *_activated(channels),
        ),
        _conv(channels, channels, 1),
    )


def se(channels: int) -> Residual:
    """`resnet`, whose inner channels are scaled by what all of the image says (Hu et al., 2018)."""
    block = resnet(channels)
    block.branch.insert(len(block.branch) - 1, Gate(channels))
    return block


def inception(channels: int) -> Residual:
    """Side by side, windows of 1, 3 and 5 and a maximum over 3 (Szegedy et al., 2015), then a 1x1 convolution."""
    parts = [channels // 4 + (part < channels % 4) for part in range(4)]
    joined = nn.Sequential(*_activated(channels), Fork(channels, parts), *_activated(channels))
    return Residual(joined, _conv(channels, channels, 1))


BLOCKS = {"resnet": resnet, "resnext": resnext, "se": se, "inception": inception}
"""Kinds by the names that a configuration has for them."""


class Gate(nn.Module):
    """Scales each channel of (B, C, H, W) by a number in 0..1 from the means of all: squeeze and excitation.

    Args:
        channels: C.
        reduction: how many times fewer are between.
    """

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        inner = max(1, channels // reduction)
        self.gate = nn.Sequential(nn.Linear(channels, inner), nn.SiLU(), nn.Linear(inner, channels), nn.Sigmoid())

    def forward(self, hidden: Tensor) -> Tensor:
        scales: Tensor = self.gate(hidden.mean((2, 3)))
        return hidden * scales[..., None, None]


class Fork(nn.Module):
    """Four ways from (B, C, H, W), joined to (B, sum of ``parts``, H, W); a window of 5 is two of 3."""

    def __init__(self, channels: int, parts: list[int]) -> None:
        super().__init__()
        one, three, five, pooled = parts
        self.ways = nn.ModuleList(
            [
                _conv(channels, one, 1),
                nn.Sequential(_conv(channels, three, 1), _conv(three, three, 3)),
                nn.Sequential(_conv(channels, five, 1), _conv(five, five, 3), _conv(five, five, 3)),
                nn.Sequential(nn.MaxPool2d(3, 1, 1), _conv(channels, pooled, 1)),
            ]
        )

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.cat([way(hidden) for way in self.ways], 1)


class SelfAttention(nn.Module):
    """Lets places of (B, C, H, W) attend to each other, over a grid of at most ``most`` x ``most`` of them.

    On larger maps, places are pooled to that grid and what attention adds is resized back, as its cost grows with the
    square of their number. What it adds is silent at first, as of a `Residual`.

    Args:
        channels: C, a multiple of ``heads``.
        heads: of attention (Vaswani et al., 2017).
        most: rows and columns at most.
    """

    def __init__(self, channels: int, heads: int = 4, most: int = 16) -> None:
        super().__init__()
        self.heads, self.most = heads, most
        self.norm = nn.GroupNorm(1, channels)
        self.projected = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def grid(self, size: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of the places that attend, on a map (H, W)."""
        return min(size[0], self.most), min(size[1], self.most)

    def forward(self, hidden: Tensor) -> Tensor:
        queries, keys, values = self._tokens(hidden)
        mixed = functional.scaled_dot_product_attention(queries, keys, values)
        rows, columns = self.grid(hidden.shape[-2:])
        places = mixed.mT.reshape(len(hidden), -1, rows, columns)
        added: Tensor = self.out(places)
        if (rows, columns) != hidden.shape[-2:]:
            added = functional.interpolate(added, hidden.shape[-2:], mode="bilinear")
        return hidden + added

    def matrix(self, hidden: Tensor) -> Tensor:
        """How much each of N places attends to each, row by row: (B, N, N), the mean over heads; rows sum to 1."""
        queries, keys, _ = self._tokens(hidden)
        scores = queries @ keys.mT / queries.shape[-1] ** 0.5
        weights: Tensor = scores.float().softmax(-1).mean(1)
        return weights

    def _tokens(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, heads, N, C / heads)."""
        places = functional.adaptive_avg_pool2d(hidden, self.grid(hidden.shape[-2:]))
        split = self.projected(self.norm(places)).flatten(2).unflatten(1, (3, self.heads, -1)).mT
        queries, keys, values = split.unbind(1)
        return queries, keys, values


def _activated(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.GroupNorm(math.gcd(8, channels), channels), nn.ReLU()


def _conv(inputs: int, outputs: int, window: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, window, padding=window // 2, groups=groups, bias=False)
