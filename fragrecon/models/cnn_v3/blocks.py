"""Residual blocks, self-attention and strided layers of the network.

The branch of each residual block is initialised to zero, so that an untrained stack of blocks is linear. The identity
path is never normalised and preserves an image's brightness and contrast, for any image size and batch size.

Shapes: B images, C channels, H x W.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fragrecon.models.cnn_v3.cells import NOISE


class ResidualBlock(nn.Module):
    """Adds the output of a branch to its input (B, C, H, W); the last layer of the branch is initialised to zero.

    Args:
        branch: all layers of the branch but the last.
        last: last layer of the branch.
    """

    def __init__(self, branch: nn.Sequential, last: nn.Conv2d) -> None:
        super().__init__()
        self.branch = branch.append(last)
        nn.init.zeros_(last.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        """Add the branch's output to a map (B, C, H, W)."""
        added: Tensor = hidden + self.branch(hidden)
        return added


def resnet(channels: int) -> ResidualBlock:
    """Create a block of two 3x3 convolutions, pre-activated (He et al., "Identity Mappings", ECCV 2016)."""
    return ResidualBlock(
        nn.Sequential(*_activated(channels), _conv(channels, channels, 3), *_activated(channels)),
        _conv(channels, channels, 3),
    )


def resnext(channels: int) -> ResidualBlock:
    """Create a block of 1x1, grouped 3x3 and 1x1 convolutions (Xie et al., CVPR 2017), with gcd(8, C) groups."""
    return ResidualBlock(
        nn.Sequential(
            *_activated(channels),
            _conv(channels, channels, 1),
            *_activated(channels),
            _conv(channels, channels, 3, groups=math.gcd(8, channels)),
            *_activated(channels),
        ),
        _conv(channels, channels, 1),
    )


def se(channels: int) -> ResidualBlock:
    """Create a `resnet` block with squeeze and excitation of its inner channels (Hu et al., CVPR 2018)."""
    block = resnet(channels)
    block.branch.insert(len(block.branch) - 1, Gate(channels))
    return block


def inception(channels: int) -> ResidualBlock:
    """Create a block of parallel 1x1, 3x3, 5x5 and pooling branches (Szegedy et al., CVPR 2015), joined by 1x1."""
    parts = [channels // 4 + (part < channels % 4) for part in range(4)]
    joined = nn.Sequential(*_activated(channels), Fork(channels, parts), *_activated(channels))
    return ResidualBlock(joined, _conv(channels, channels, 1))


Kind = Literal["resnet", "resnext", "se", "inception"]
BLOCKS = {"resnet": resnet, "resnext": resnext, "se": se, "inception": inception}
"""Kinds of blocks by their names in ``block_config``."""


class Gate(nn.Module):
    """Squeeze and excitation: scales each channel of (B, C, H, W) by a factor in [0, 1] computed from all means.

    Args:
        channels: C.
        reduction: Ratio of C to the width of the hidden layer.
    """

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        inner = max(1, channels // reduction)
        self.gate = nn.Sequential(nn.Linear(channels, inner), nn.SiLU(), nn.Linear(inner, channels), nn.Sigmoid())

    def forward(self, hidden: Tensor) -> Tensor:
        """Scale the channels of a map (B, C, H, W)."""
        scales: Tensor = self.gate(hidden.mean((2, 3)))
        return hidden * scales[..., None, None]


class Fork(nn.Module):
    """Four parallel branches from (B, C, H, W) to (B, sum of ``parts``, H, W); two 3x3 convolutions replace a 5x5.

    Args:
        channels: C.
        parts: channels of each branch.
    """

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
        """Apply all branches to a map (B, C, H, W) and concatenate their channels."""
        return torch.cat([way(hidden) for way in self.ways], 1)


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al., 2017) between positions of a map (B, C, H, W), added to the map.

    Larger maps are pooled to at most ``most`` x ``most`` positions, and the output is resized to the map, because the
    cost grows with the square of their number. The output layer is initialised to zero.

    Args:
        channels: C, a multiple of ``heads``.
        heads: Number of attention heads.
        most: Maximum number of rows and of columns of the attention grid.
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
        """Return the rows and columns of the attention grid for a map (H, W)."""
        return min(size[0], self.most), min(size[1], self.most)

    def forward(self, hidden: Tensor) -> Tensor:
        """Apply self-attention to a map (B, C, H, W)."""
        queries, keys, values = self._tokens(hidden)
        mixed = functional.scaled_dot_product_attention(queries, keys, values)
        rows, columns = self.grid(hidden.shape[-2:])
        places = mixed.mT.reshape(len(hidden), -1, rows, columns)
        added: Tensor = self.out(places)
        if (rows, columns) != hidden.shape[-2:]:
            added = functional.interpolate(added, hidden.shape[-2:], mode="bilinear")
        return hidden + added

    def matrix(self, hidden: Tensor) -> Tensor:
        """Compute the attention weights (B, N, N) between N positions, averaged over heads; each row sums to 1."""
        queries, keys, _ = self._tokens(hidden)
        scores = queries @ keys.mT / queries.shape[-1] ** 0.5
        weights: Tensor = scores.float().softmax(-1).mean(1)
        return weights

    def _tokens(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute queries, keys and values (B, heads, N, C / heads)."""
        places = functional.adaptive_avg_pool2d(hidden, self.grid(hidden.shape[-2:]))
        split = self.projected(self.norm(places)).flatten(2).unflatten(1, (3, self.heads, -1)).mT
        queries, keys, values = split.unbind(1)
        return queries, keys, values


def _activated(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.GroupNorm(math.gcd(8, channels), channels), nn.ReLU()


def _conv(inputs: int, outputs: int, window: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, window, padding=window // 2, groups=groups, bias=False)


class Downsample(nn.Conv2d):
    """Convolution that divides height and width by the stride, rounded up; initialised near a mean over its window.

    Images are padded by repeating their border.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        stride: Factor between the input's and the output's sides.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, stride + 2, stride)
        scale_initial_weights(self, NOISE)
        with torch.no_grad():
            self.weight[..., 1:-1, 1:-1] += 1 / (inputs * stride**2)

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride), rounded up."""
        stride = self.stride[0]
        padding = (1, 1 + -input.shape[3] % stride, 1, 1 + -input.shape[2] % stride)
        return super().forward(functional.pad(input, padding, mode="replicate"))


class Upsample(nn.Sequential):
    """Sub-pixel convolution that multiplies height and width by the stride; initialised near a smooth interpolation.

    The interpolation preserves means: each side of a pixel is divided along the parabola that has the means of the
    pixel and of both neighbours (van Leer, 1977).

    Args:
        inputs: Input channels.
        outputs: Output channels.
        stride: Factor between the output's and the input's sides.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        layer = nn.Conv2d(inputs, outputs * stride**2, 3, padding=1, padding_mode="replicate")
        scale_initial_weights(layer, NOISE)
        d = (torch.arange(stride)[:, None] + 0.5) / stride - 0.5
        slope, bend = torch.tensor([-0.5, 0, 0.5]), torch.tensor([0.5, -1, 0.5])
        # The part at distance d from the centre has the mean m + slope d + bend (d^2 + (1 / stride^2 - 1) / 12).
        taps = torch.tensor([0.0, 1, 0]) + d * slope + (d**2 + (stride**-2 - 1) / 12) * bend
        with torch.no_grad():
            phases = torch.einsum("ai,bj->abij", taps, taps).flatten(0, 1)
            layer.weight.add_(phases.repeat(outputs, 1, 1)[:, None] / inputs)
        super().__init__(layer, nn.PixelShuffle(stride))


def scale_initial_weights(layer: nn.Linear | nn.Conv2d, noise: float) -> None:
    """Scale a layer's initial weights by a factor and set its bias to zero, in place."""
    with torch.no_grad():
        layer.weight.mul_(noise)
        layer.bias.zero_()  # type: ignore[union-attr]
