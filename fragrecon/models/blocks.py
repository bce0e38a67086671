"""Parts that several models share."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from fragrecon.errors import ConfigError
from fragrecon.models.base import Shape


def perceptron(widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear layers of these widths, with ReLU and dropout between them but not after the last."""
    if min(widths) < 1:
        raise ConfigError(f"model.hidden: the widths {list(widths)} should be positive")
    if not 0 <= dropout < 1:
        raise ConfigError(f"model.dropout={dropout} should be at least 0 and below 1")
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        layers += [nn.ReLU(), nn.Dropout(dropout)] if i else []
        layers.append(nn.Linear(inputs, outputs))
    return nn.Sequential(*layers)


def conv_encoder(fragment_shape: Shape, encoder_channels: Sequence[int]) -> tuple[nn.Sequential, Shape]:
    """Stages of two convolutions, each of which halves height and width, flattened at the end.

    Returns:
        The network, from (M, C, h, w) to (M, values), and the shape that is flattened.

    Raises:
        ConfigError: there are more stages than the fragment can be halved.
    """
    channels, height, width = fragment_shape
    stages = len(encoder_channels)
    if not stages or min(encoder_channels) < 1:
        raise ConfigError(f"model.encoder_channels={list(encoder_channels)} should name at least one positive number")
    if height % 2**stages or width % 2**stages:
        most = next(n for n in range(stages, -1, -1) if height % 2**n == 0 and width % 2**n == 0)
        raise ConfigError(
            f"model.encoder_channels={list(encoder_channels)} has {stages} layers, but a fragment of "
            f"{height}x{width} can be halved {most} times only; name at most {most} channels"
        )
    steps = itertools.pairwise([channels, *encoder_channels])
    halvings = (nn.Sequential(conv_block(a, b, 2), conv_block(b, b, 1)) for a, b in steps)
    return nn.Sequential(*halvings, nn.Flatten(-3)), (encoder_channels[-1], height >> stages, width >> stages)


def conv_block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """A 3x3 convolution with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Residual(nn.Module):
    """Two 3x3 convolutions, added to what they read (He et al., 2016, figure 2).

    Where size or channels change, what they read goes through a 1x1 convolution with batch norm first.

    Args:
        inputs: channels.
        outputs: channels.
        down: the stride.
        up: how many times pixels are repeated either way before they are convolved. Unlike a transposed convolution,
            this treats all pixels alike, and leaves no checkerboard (Odena et al., 2016).
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
        # A 1x1 convolution of repeated pixels is the same as repeats of those convolved, but takes longer.
        changed = (inputs, 1, 1) != (outputs, down, up)
        project = [nn.Conv2d(inputs, outputs, 1, down, bias=False), nn.BatchNorm2d(outputs)] if changed else []
        self.shortcut = nn.Sequential(*project, *grow)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.relu(self.convolutions(hidden) + self.shortcut(hidden))
