"""Layers and setting types that several models share."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from fragrecon.errors import ConfigError
from fragrecon.models.base import Shape

Channels = Annotated[Sequence[PositiveInt], Field(min_length=1)]
"""Number of channels per stage."""
Probability = Annotated[float, Field(ge=0, lt=1)]
"""Probability of dropout."""


def mlp(widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Create an MLP of linear layers with ReLU and dropout between them, but not after the last layer."""
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        layers += [nn.ReLU(), nn.Dropout(dropout)] if i else []
        layers.append(nn.Linear(inputs, outputs))
    return nn.Sequential(*layers)


def conv_encoder(fragment_shape: Shape, encoder_channels: Sequence[int]) -> tuple[nn.Sequential, Shape]:
    """Create stages of two convolutions, followed by flattening; each stage halves height and width.

    Args:
        fragment_shape: (C, h, w).
        encoder_channels: channels after each stage.

    Returns:
        The network, from (M, C, h, w) to (M, values), and the shape before flattening (channels, rows, columns).

    Raises:
        ConfigError: the fragment cannot be halved once per stage.
    """
    channels, height, width = fragment_shape
    stages = len(encoder_channels)
    if height % 2**stages or width % 2**stages:
        most = next(n for n in range(stages, -1, -1) if height % 2**n == 0 and width % 2**n == 0)
        raise ConfigError(
            f"model.encoder_channels={list(encoder_channels)} has {stages} stages, but a fragment of "
            f"{height}x{width} can be halved {most} times only; use at most {most} stages"
        )
    steps = itertools.pairwise([channels, *encoder_channels])
    halvings = (nn.Sequential(conv_block(a, b, 2), conv_block(b, b, 1)) for a, b in steps)
    return nn.Sequential(*halvings, nn.Flatten(-3)), (encoder_channels[-1], height >> stages, width >> stages)


def conv_block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Create a 3x3 convolution with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Residual(nn.Module):
    """Two 3x3 convolutions, added to their input (He et al., 2016, figure 2).

    Where size or channels change, the input is added after a 1x1 convolution with batch norm.

    Args:
        inputs: input channels.
        outputs: output channels.
        down: stride, by which height and width are divided.
        up: factor by which height and width are multiplied: pixels are repeated before they are convolved. Unlike a
            transposed convolution this treats all pixels alike and leaves no checkerboard (Odena et al., 2016).
    """

    def __init__(self, inputs: int, outputs: int, down: int = 1, up: int = 1) -> None:
        super().__init__()
        grow = [nn.Upsample(scale_factor=up)] if up > 1 else []
        self.convolutions = nn.Sequential(
            *grow,
            conv_block(inputs, outputs, down),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        # A 1x1 convolution before the pixels are repeated gives the same result as after it, in less time.
        changed = (inputs, 1, 1) != (outputs, down, up)
        project = [nn.Conv2d(inputs, outputs, 1, down, bias=False), nn.BatchNorm2d(outputs)] if changed else []
        self.shortcut = nn.Sequential(*project, *grow)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (M, inputs, h, w) to (M, outputs, h * up / down, w * up / down)."""
        return F.relu(self.convolutions(hidden) + self.shortcut(hidden))
