"""The convolutional autoencoder of a fragment."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

from fragrecon.models.autoencoder import Autoencoder
from fragrecon.models.base import Shape
from fragrecon.models.blocks import conv_block, conv_encoder


class ConvAutoencoder(Autoencoder):
    """Strided convolutions down to a linear bottleneck, and transposed ones back up.

    A stage halves height and width. By default, on 16x16 colour fragments: 3 -> 32 -> 64 channels, 16 -> 8 -> 4
    pixels, 128 latents, 372,704 parameters.

    Args:
        fragment_shape: (C, h, w).
        latent_dim: D.
        encoder_channels: channels after each stage; the decoder mirrors them.

    Raises:
        ConfigError: there are more stages than the fragment can be halved.
    """

    def __init__(
        self, fragment_shape: Shape, latent_dim: int = 128, encoder_channels: Sequence[int] = (32, 64)
    ) -> None:
        super().__init__(fragment_shape, latent_dim, *conv_encoder(fragment_shape, encoder_channels))
        up = list(encoder_channels)[::-1]
        self.decoder = nn.Sequential(
            nn.Unflatten(-1, self.features),
            *(_up(a, b) for a, b in itertools.pairwise(up)),
            nn.ConvTranspose2d(up[-1], fragment_shape[0], 4, 2, 1, bias=False),
            nn.Sigmoid(),
        )


def _up(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        conv_block(outputs, outputs, 1),
    )
