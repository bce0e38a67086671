"""A convolutional encoder of single fragments, to be trained by contrast alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel, Shape
from fragrecon.models.blocks import conv_encoder


class SimCLR(FragmentModel):
    """Convolutions and a perceptron, whose output of length 1 is the embedding that the contrast is made on.

    After Chen et al., ICML 2020; here the views of an image are its fragments, and as clustering asks for the same as
    the contrast, nothing is cut off after training.

    Args:
        fragment_shape: (C, h, w).
        latent_dim: D.
        encoder_channels: channels after each stage.
        hidden: width of the perceptron.
    """

    def __init__(
        self,
        fragment_shape: Shape,
        latent_dim: int = 128,
        encoder_channels: Sequence[int] = (64, 128, 256),
        hidden: int = 512,
    ) -> None:
        super().__init__(fragment_shape, latent_dim)
        if hidden < 1:
            raise ConfigError(f"model.hidden={hidden} should be at least 1")
        self.encoder, features = conv_encoder(fragment_shape, encoder_channels)
        self.head = nn.Sequential(nn.Linear(math.prod(features), hidden), nn.ReLU(), nn.Linear(hidden, latent_dim))

    def embed(self, fragments: Tensor) -> Tensor:
        return F.normalize(self.head(self.encoder(fragments)).float(), dim=-1)
