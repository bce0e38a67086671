"""The variational autoencoder of a fragment."""

from __future__ import annotations

from collections.abc import Sequence

from fragrecon.models.autoencoder import VariationalAutoencoder
from fragrecon.models.base import Shape
from fragrecon.models.conv import ConvAutoencoder


class ConvVAE(VariationalAutoencoder, ConvAutoencoder):
    """The convolutional autoencoder, made variational.

    Args:
        fragment_shape: (C, h, w).
        latent_dim: D.
        encoder_channels: channels after each stage, which halves height and width; the decoder mirrors them.

    Raises:
        ConfigError: there are more stages than the fragment can be halved.
    """

    # Spelt out, as settings are held to the constructor's names and types.
    def __init__(
        self, fragment_shape: Shape, latent_dim: int = 128, encoder_channels: Sequence[int] = (32, 64)
    ) -> None:
        super().__init__(fragment_shape, latent_dim, encoder_channels)
