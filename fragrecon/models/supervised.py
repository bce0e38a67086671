"""A classifier of fragments, whose last hidden layer embeds them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel, Shape
from fragrecon.models.blocks import perceptron


class SupervisedClassifier(FragmentModel):
    """Linear layers that learn the class of the image a fragment was cut from; the last hidden layer is the embedding.

    Args:
        fragment_shape: (C, h, w).
        num_classes: of the data set.
        latent_dim: D.
        hidden: widths between the pixels and the latents.
        dropout: probability, after each hidden layer and before the head.
    """

    def __init__(
        self,
        fragment_shape: Shape,
        num_classes: int,
        latent_dim: int = 128,
        hidden: Sequence[int] = (512, 256),
        dropout: float = 0.2,
    ) -> None:
        super().__init__(fragment_shape, latent_dim)
        if not 1 <= num_classes <= 1000:
            raise ConfigError(
                f"the data set has {num_classes} classes; model=supervised takes 1 to 1000 "
                "(a folder of images without subfolders has no classes to learn)"
            )
        self.encoder = perceptron([math.prod(fragment_shape), *hidden, latent_dim], dropout)
        self.head = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), nn.Linear(latent_dim, num_classes))

    def embed(self, fragments: Tensor) -> Tensor:
        latents: Tensor = self.encoder(fragments.flatten(1))
        return latents

    def classify(self, latents: Tensor) -> Tensor:
        logits: Tensor = self.head(latents)
        return logits
