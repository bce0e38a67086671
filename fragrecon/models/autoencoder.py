"""Base classes of autoencoders with a linear bottleneck, plain or variational."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from fragrecon.models.base import FragmentModel, Posterior, Shape, check_size


class Autoencoder(FragmentModel):
    """An encoder, a linear layer from its features to the latents, a linear layer back, and a decoder.

    Args:
        fragment_shape: (C, h, w).
        latent_dim: number of embedding dimensions, D.
        encoder: network that maps (M, C, h, w) to (M, values).
        features: shape of the encoder's output before it is flattened, (channels, rows, columns).
        decoder: function that creates the decoder, which maps (M, values) to (M, C, h, w) in [0, 1]. It is called after
            the linear layers are created, because the order of creation determines the initial weights.
    """

    def __init__(
        self,
        fragment_shape: Shape,
        latent_dim: int,
        encoder: nn.Module,
        features: Shape,
        decoder: Callable[[], nn.Module],
    ) -> None:
        super().__init__(fragment_shape, latent_dim)
        self.encoder, self.features = encoder, features
        size = math.prod(features)
        self.to_latent = nn.Linear(size, latent_dim)
        self.from_latent = nn.Linear(latent_dim, size)
        self.decoder = decoder()

    def embed(self, fragments: Tensor) -> Tensor:
        """Embed fragments (M, C, h, w) as latents (M, D)."""
        latents: Tensor = self.to_latent(self.encoder(fragments))
        return latents

    def decode(self, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Decode latents (..., D) to fragments (..., C, h, w) in [0, 1]."""
        check_size(size, self.fragment_shape)
        images: Tensor = self.decoder(self.from_latent(latents.reshape(-1, self.latent_dim)))
        return images.view(*latents.shape[:-1], *self.fragment_shape)


class VariationalAutoencoder(Autoencoder):
    """An autoencoder with a second linear layer, for the variances of the latents.

    Source: Kingma and Welling, 2014. Embeddings are the means; only the objective draws samples. Use it as the second
    base class, after an `Autoencoder`; the arguments are the same.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.to_log_variance = nn.Linear(self.to_latent.in_features, self.latent_dim)

    def posterior(self, fragments: Tensor) -> Posterior:
        """Predict the distribution of each fragment's latents, always in float32, as variances are exponentials.

        Log-variances are not clamped: float32 can represent their exponentials up to 88. Beyond that, training has
        diverged and should stop rather than continue with latents that have no gradient.

        Args:
            fragments: (M, C, h, w) in [0, 1].

        Returns:
            Means and log-variances (M, D).
        """
        features = self.encoder(fragments)
        return Posterior(self.to_latent(features).float(), self.to_log_variance(features).float())
