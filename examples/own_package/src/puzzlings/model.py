"""A model: one embedding per fragment."""

from __future__ import annotations

import math

from pydantic import PositiveInt
from torch import Tensor, nn

from fragrecon.models.base import FragmentModel, Shape


class GrayWorld(FragmentModel):
    """Two linear layers on fragments without their mean colour.

    Args:
        fragment_shape: (C, h, w), from the data.
        latent_dim: number of embedding dimensions, D.
        hidden: width of the hidden layer.
    """

    def __init__(self, fragment_shape: Shape, latent_dim: PositiveInt = 32, hidden: PositiveInt = 64) -> None:
        super().__init__(fragment_shape, latent_dim)
        pixels = math.prod(fragment_shape)
        self.layers = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, latent_dim))

    def embed(self, fragments: Tensor) -> Tensor:
        """Embed fragments (M, C, h, w) in [0, 1] as (M, D)."""
        embedded: Tensor = self.layers((fragments - fragments.mean((2, 3), keepdim=True)).flatten(1))
        return embedded
