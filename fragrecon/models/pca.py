"""A PCA-like autoencoder, trained by gradient descent."""

from __future__ import annotations

from pydantic import PositiveInt
from torch import nn

from fragrecon.models.base import Shape
from fragrecon.models.linear import LinearAutoencoder


class PCAAutoencoder(LinearAutoencoder):
    """One linear layer to the latents and one back, as in PCA, with a sigmoid at the end.

    Weights are initialised uniformly (Glorot and Bengio, 2010), biases to zero.

    Args:
        fragment_shape: (C, h, w).
        latent_dim: number of embedding dimensions, D.
    """

    def __init__(self, fragment_shape: Shape, latent_dim: PositiveInt = 128) -> None:
        super().__init__(fragment_shape, latent_dim, hidden=(), dropout=0.0)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
