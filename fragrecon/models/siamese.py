"""A network that compares pairs of fragments, like the best published system for mixed puzzles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel, PairLogits, PairScores, Shape
from fragrecon.models.blocks import Probability, conv_block


class Siamese(FragmentModel):
    """Convolutions embed each fragment; an MLP predicts whether two fragments are from one image, and adjacent.

    Source: github.com/robert9283/Image-Fragment-Reconstruction. The inputs of the MLP there are a - b, a * b, a and b;
    here a - b is omitted, because a linear layer computes it from a and b.

    Args:
        fragment_shape: (C, h, w), at least 4x4 pixels.
        latent_dim: number of embedding dimensions, D.
        channels: channels of the three convolutions; the second and third are followed by pooling.
        hidden: width of the MLP's hidden layer.
        dropout: dropout probability on the embeddings.

    Raises:
        ConfigError: the fragment is too small.
    """

    def __init__(
        self,
        fragment_shape: Shape,
        latent_dim: PositiveInt = 256,
        channels: Annotated[Sequence[PositiveInt], Field(min_length=3, max_length=3)] = (32, 64, 128),
        hidden: PositiveInt = 128,
        dropout: Probability = 0.3,
    ) -> None:
        super().__init__(fragment_shape, latent_dim)
        colours, height, width = fragment_shape
        if min(height, width) < 4:
            raise ConfigError(
                f"model=siamese halves a fragment twice, for which {height}x{width} pixels are too few; "
                "data.fragment_size should be at least 4"
            )
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
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(hidden, 2))

    def embed(self, fragments: Tensor) -> Tensor:
        """Embed fragments (M, C, h, w) as (M, D)."""
        embedded: Tensor = self.encoder(fragments)
        return embedded

    def pair_logits(self, fragments: Tensor) -> PairLogits:
        """Predict logits of all ordered pairs of the fragments (B, F, C, h, w) of each puzzle."""
        embedded = self.encode(fragments)
        one, other = embedded.unsqueeze(2), embedded.unsqueeze(1)
        hidden = self.product(one * other) + self.first(one) + self.second(other)  # (B, F, F, hidden)
        same, adjacent = self.head(hidden).float().unbind(-1)
        return PairLogits(same, adjacent)

    def pair_scores(self, fragments: Tensor) -> PairScores:
        """Score all pairs of the fragments (B, F, C, h, w) of each puzzle: probabilities, averaged over both orders."""
        logits = self.pair_logits(fragments)
        same, adjacent = (torch.sigmoid(found) for found in (logits.same, logits.adjacent))
        return PairScores((same + same.mT) / 2, (adjacent + adjacent.mT) / 2)
