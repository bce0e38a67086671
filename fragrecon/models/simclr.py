"""A convolutional encoder of single fragments for contrastive learning."""

from __future__ import annotations

import math

import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from fragrecon.models.base import FragmentModel, Shape
from fragrecon.models.blocks import Channels, conv_encoder


class SimCLR(FragmentModel):
    """Convolutions and an MLP; its normalised output is the embedding (Chen et al., ICML 2020).

    The views of an image are its fragments. The projection head is kept after training, because clustering
    and the contrastive loss need the same: fragments of an image close to each other.

    Args:
        fragment_shape: (C, h, w).
        latent_dim: number of embedding dimensions, D.
        encoder_channels: channels after each stage, which halves height and width.
        hidden: width of the MLP's hidden layer.

    Raises:
        ConfigError: the fragment cannot be halved once per stage.
    """

    def __init__(
        self,
        fragment_shape: Shape,
        latent_dim: PositiveInt = 128,
        encoder_channels: Channels = (64, 128, 256),
        hidden: PositiveInt = 512,
    ) -> None:
        super().__init__(fragment_shape, latent_dim)
        self.encoder, features = conv_encoder(fragment_shape, encoder_channels)
        self.head = nn.Sequential(nn.Linear(math.prod(features), hidden), nn.ReLU(), nn.Linear(hidden, latent_dim))

    def embed(self, fragments: Tensor) -> Tensor:
        """Embed fragments (M, C, h, w) as unit-norm vectors (M, D)."""
        return F.normalize(self.head(self.encoder(fragments)).float(), dim=-1)
