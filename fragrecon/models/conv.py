"""Convolutional autoencoders of fragments, plain and variational."""

from __future__ import annotations

import itertools

from pydantic import PositiveInt
from torch import nn

from fragrecon.models.autoencoder import Autoencoder, VariationalAutoencoder
from fragrecon.models.base import Shape
from fragrecon.models.blocks import Channels, conv_block, conv_encoder


class ConvAutoencoder(Autoencoder):
    """Strided convolutions down to a linear bottleneck, and transposed convolutions back up.

    Each stage halves height and width. With the default settings, 16x16 colour fragments go through 3 -> 32 -> 64
    channels of 16 -> 8 -> 4 pixels to 128 latents, with 372,704 parameters.

    Args:
        fragment_shape: (C, h, w).
        latent_dim: number of embedding dimensions, D.
        encoder_channels: channels after each stage; the decoder reverses them.

    Raises:
        ConfigError: the fragment cannot be halved once per stage.
    """

    def __init__(
        self, fragment_shape: Shape, latent_dim: PositiveInt = 128, encoder_channels: Channels = (32, 64)
    ) -> None:
        encoder, features = conv_encoder(fragment_shape, encoder_channels)
        up = list(encoder_channels)[::-1]

        def decoder() -> nn.Module:
            return nn.Sequential(
                nn.Unflatten(-1, features),
                *(_upsampling(a, b) for a, b in itertools.pairwise(up)),
                nn.ConvTranspose2d(up[-1], fragment_shape[0], 4, 2, 1, bias=False),
                nn.Sigmoid(),
            )

        super().__init__(fragment_shape, latent_dim, encoder, features, decoder)


class ConvVAE(ConvAutoencoder, VariationalAutoencoder):
    """Variational form of `ConvAutoencoder`, with the same arguments."""


def _upsampling(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        conv_block(outputs, outputs, 1),
    )
