"""An autoencoder of linear layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import PositiveInt
from torch import Tensor, nn

from fragrecon.models.base import FragmentModel, Shape, check_size
from fragrecon.models.blocks import Probability, mlp


class LinearAutoencoder(FragmentModel):
    """Linear layers with ReLU and dropout to the latents and back, with a sigmoid at the end.

    Fragments are flattened. With the default settings, the widths of 16x16 colour fragments are 768, 512, 256
    and 128.

    Args:
        fragment_shape: (C, h, w).
        latent_dim: number of embedding dimensions, D.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        dropout: dropout probability after each hidden layer.
    """

    def __init__(
        self,
        fragment_shape: Shape,
        latent_dim: PositiveInt = 128,
        hidden: Sequence[PositiveInt] = (512, 256),
        dropout: Probability = 0.1,
    ) -> None:
        super().__init__(fragment_shape, latent_dim)
        pixels = math.prod(fragment_shape)
        self.encoder = mlp([pixels, *hidden, latent_dim], dropout)
        self.decoder = nn.Sequential(mlp([latent_dim, *list(hidden)[::-1], pixels], dropout), nn.Sigmoid())

    def embed(self, fragments: Tensor) -> Tensor:
        """Embed fragments (M, C, h, w) as latents (M, D)."""
        latents: Tensor = self.encoder(fragments.flatten(1))
        return latents

    def decode(self, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Decode latents (..., D) to fragments (..., C, h, w) in [0, 1]."""
        check_size(size, self.fragment_shape)
        pixels: Tensor = self.decoder(latents)
        return pixels.view(*latents.shape[:-1], *self.fragment_shape)
