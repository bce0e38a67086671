"""A classifier of fragments."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import PositiveInt
from torch import Tensor, nn

from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel, Shape
from fragrecon.models.blocks import Probability, mlp


class SupervisedClassifier(FragmentModel):
    """Linear layers that predict the class of a fragment's source image; the last hidden layer is the embedding.

    Args:
        fragment_shape: (C, h, w).
        num_classes: number of classes of the data set.
        latent_dim: number of embedding dimensions, D.
        hidden: widths of the hidden layers.
        dropout: dropout probability after each hidden layer and before the head.

    Raises:
        ConfigError: the data set has no classes, or more than 1000.
    """

    def __init__(
        self,
        fragment_shape: Shape,
        num_classes: int,
        latent_dim: PositiveInt = 128,
        hidden: Sequence[PositiveInt] = (512, 256),
        dropout: Probability = 0.2,
    ) -> None:
        super().__init__(fragment_shape, latent_dim)
        if not 1 <= num_classes <= 1000:
            raise ConfigError(
                f"the data set has {num_classes} classes; model=supervised takes 1 to 1000 "
                "(a folder of images without subfolders has no classes to learn)"
            )
        self.encoder = mlp([math.prod(fragment_shape), *hidden, latent_dim], dropout)
        self.head = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), nn.Linear(latent_dim, num_classes))

    def embed(self, fragments: Tensor) -> Tensor:
        """Embed fragments (M, C, h, w) as (M, D)."""
        latents: Tensor = self.encoder(fragments.flatten(1))
        return latents

    def classify(self, latents: Tensor) -> Tensor:
        """Predict logits (..., classes) from embeddings (..., D)."""
        logits: Tensor = self.head(latents)
        return logits
