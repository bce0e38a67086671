"""A network that compares fragments two by two, as the best published system on the mixed puzzle does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel, PairLogits, PairScores, Shape
from fragrecon.models.blocks import conv_block


class Siamese(FragmentModel):
    """Convolutions embed each fragment, a perceptron judges pairs: of one image? and do they abut?

    The recipe of github.com/robert9283/Image-Fragment-Reconstruction. Its perceptron reads a - b, a * b, a and b; here
    it reads a * b, a and b, as a linear map of the difference is one of a and b already.

    Args:
        fragment_shape: (C, h, w), at least 4x4 pixels.
        latent_dim: D.
        channels: of the three convolutions; the second and third are followed by pooling.
        hidden: width of the perceptron.
        dropout: of the embeddings, in training.
    """

    def __init__(
        self,
        fragment_shape: Shape,
        latent_dim: int = 256,
        channels: Sequence[int] = (32, 64, 128),
        hidden: int = 128,
        dropout: float = 0.3,
    ) -> None:
        super().__init__(fragment_shape, latent_dim)
        colours, height, width = fragment_shape
        if min(height, width) < 4:
            raise ConfigError(f"model=siamese halves a fragment twice; {height}x{width} pixels are too few for it")
        if len(channels) != 3 or min(channels) < 1:
            raise ConfigError(f"model.channels={list(channels)} should be three positive numbers")
        if hidden < 1:
            raise ConfigError(f"model.hidden={hidden} should be at least 1")
        if not 0 <= dropout < 1:
            raise ConfigError(f"model.dropout={dropout} should be at least 0 and below 1")
        first, second, third = channels
        self.encoder = nn.Sequential(
            conv_block(colours, first, 1),
            conv_block(first, second, 1),
            nn.MaxPool2d(2),
            conv_block(second, third, 1),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(third * (height // 4) * (width // 4), latent_dim),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        self.product = nn.Linear(latent_dim, hidden)
        self.first, self.second = (nn.Linear(latent_dim, hidden, bias=False) for _ in range(2))
        self.judge = nn.Sequential(nn.ReLU(), nn.Linear(hidden, 2))

    def embed(self, fragments: Tensor) -> Tensor:
        embedded: Tensor = self.encoder(fragments)
        return embedded

    def pair_logits(self, fragments: Tensor) -> PairLogits:
        """Of fragments (B, F, C, h, w)."""
        embedded = self.encode(fragments)
        one, other = embedded.unsqueeze(2), embedded.unsqueeze(1)
        read = self.product(one * other) + self.first(one) + self.second(other)  # (B, F, F, hidden)
        same, adjacent = self.judge(read).float().unbind(-1)
        return PairLogits(same, adjacent)

    def pair_scores(self, fragments: Tensor) -> PairScores:
        """Of fragments (B, F, C, h, w)."""
        logits = self.pair_logits(fragments)
        same, adjacent = (torch.sigmoid(found) for found in (logits.same, logits.adjacent))
        return PairScores((same + same.mT) / 2, (adjacent + adjacent.mT) / 2)
