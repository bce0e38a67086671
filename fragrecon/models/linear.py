"""An autoencoder that sees a fragment as a vector."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from fragrecon.models.base import FragmentModel, Shape, fixed_size
from fragrecon.models.blocks import perceptron


class LinearAutoencoder(FragmentModel):
    """Linear layers with ReLU and dropout, 768 -> 512 -> 256 -> 128 by default, and back, with a sigmoid at the end.

    Args:
        fragment_shape: (C, h, w).
        latent_dim: D.
        hidden: widths between the pixels and the latents.
        dropout: probability, after each hidden layer.
    """

    def __init__(
        self, fragment_shape: Shape, latent_dim: int = 128, hidden: Sequence[int] = (512, 256), dropout: float = 0.1
    ) -> None:
        super().__init__(fragment_shape, latent_dim)
        pixels = math.prod(fragment_shape)
        self.encoder = perceptron([pixels, *hidden, latent_dim], dropout)
        self.decoder = nn.Sequential(perceptron([latent_dim, *list(hidden)[::-1], pixels], dropout), nn.Sigmoid())

    def embed(self, fragments: Tensor) -> Tensor:
        latents: Tensor = self.encoder(fragments.flatten(1))
        return latents

    def decode(self, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        fixed_size(size, self.fragment_shape)
        pixels: Tensor = self.decoder(latents)
        return pixels.view(*latents.shape[:-1], *self.fragment_shape)
