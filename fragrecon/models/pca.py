"""The least model: one linear layer each way."""

from __future__ import annotations

from torch import nn

from fragrecon.models.base import Shape
from fragrecon.models.linear import LinearAutoencoder


class PCAAutoencoder(LinearAutoencoder):
    """One linear layer each way, as PCA has, but trained by gradient and with a sigmoid at the end. Xavier start.

    Args:
        fragment_shape: (C, h, w).
        latent_dim: D.
    """

    def __init__(self, fragment_shape: Shape, latent_dim: int = 128) -> None:
        super().__init__(fragment_shape, latent_dim, hidden=(), dropout=0.0)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
