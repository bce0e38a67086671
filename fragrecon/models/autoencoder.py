"""What autoencoders with a linear bottleneck share, plain or variational."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from fragrecon.models.base import FragmentModel, Posterior, Shape, fixed_size


class Autoencoder(FragmentModel):
    """An encoder to features, a linear layer to the latents and one back, and a decoder.

    A subclass adds the decoder, after the rest: initial weights are drawn in the order in which layers are made.

    Args:
        fragment_shape: (C, h, w).
        latent_dim: D.
        encoder: from (M, C, h, w) to (M, values).
        features: (channels, rows, columns) of these values.

    Attributes:
        decoder: from (M, values) to (M, C, h, w) in [0, 1].
    """

    decoder: nn.Module

    def __init__(self, fragment_shape: Shape, latent_dim: int, encoder: nn.Module, features: Shape) -> None:
        super().__init__(fragment_shape, latent_dim)
        self.encoder, self.features = encoder, features
        size = math.prod(features)
        self.to_latent = nn.Linear(size, latent_dim)
        self.from_latent = nn.Linear(latent_dim, size)

    def embed(self, fragments: Tensor) -> Tensor:
        latents: Tensor = self.to_latent(self.encoder(fragments))
        return latents

    def decode(self, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        fixed_size(size, self.fragment_shape)
        images: Tensor = self.decoder(self.from_latent(latents.reshape(-1, self.latent_dim)))
        return images.view(*latents.shape[:-1], *self.fragment_shape)


class VariationalAutoencoder(Autoencoder):
    """Makes the autoencoder it is mixed into variational: its latents become means, and a second layer tells variances.

    Embeddings are the means, so that nothing but the objective ever samples (Kingma and Welling, 2014). To be named
    before the autoencoder among a class's bases.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.to_log_variance = nn.Linear(self.to_latent.in_features, self.latent_dim)

    def posterior(self, fragments: Tensor) -> Posterior:
        """Of fragments (M, C, h, w), in float32 whatever the layers compute in, as variances are exponentials.

        Log-variances are not clamped: float32 holds them up to 88, and one beyond is of a run that has diverged, which
        should stop rather than go on with latents that no gradient can bring back.
        """
        features = self.encoder(fragments)
        return Posterior(self.to_latent(features).float(), self.to_log_variance(features).float())
