"""A variational autoencoder with a residual encoder and decoder."""

from __future__ import annotations

from fragrecon.models.autoencoder import VariationalAutoencoder
from fragrecon.models.base import Shape
from fragrecon.models.resnet_ae import ResNetAutoencoder


class ResNetVAE(VariationalAutoencoder, ResNetAutoencoder):
    """The residual autoencoder, made variational.

    Args:
        fragment_shape: (C, h, w).
        latent_dim: D.
        width: channels of the first stage; the next ones have 2, 4 and 8 times as many.

    Raises:
        ConfigError: the fragment cannot be halved three times.
    """

    # Spelt out, as settings are held to the constructor's names and types.
    def __init__(self, fragment_shape: Shape, latent_dim: int = 128, width: int = 64) -> None:
        super().__init__(fragment_shape, latent_dim, width)
