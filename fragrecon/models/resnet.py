"""Residual autoencoders, plain and variational."""

from __future__ import annotations

import itertools

from pydantic import PositiveInt
from torch import nn

from fragrecon.errors import ConfigError
from fragrecon.models.autoencoder import Autoencoder, VariationalAutoencoder
from fragrecon.models.base import Shape
from fragrecon.models.blocks import Residual, conv_block

GROWTH = (1, 2, 4, 8)
"""Channels of the four stages, as multiples of those of the first stage."""


class ResNetAutoencoder(Autoencoder):
    """ResNet-18 down to a linear bottleneck, and its mirror image back up.

    He et al., CVPR 2016: four stages of two blocks; all but the first halve height and width. As in their networks for
    CIFAR-10, the first layer is a 3x3 convolution without pooling. The output of the last stage is flattened, not
    averaged, because the decoder needs the positions of features. With the default settings, on 32x32
    colour images, it has 17,471,235 parameters.

    Args:
        fragment_shape: (C, h, w).
        latent_dim: number of embedding dimensions, D.
        width: channels of the first stage; the next ones have 2, 4 and 8 times as many.

    Raises:
        ConfigError: the fragment cannot be halved three times.
    """

    def __init__(self, fragment_shape: Shape, latent_dim: PositiveInt = 128, width: PositiveInt = 64) -> None:
        channels, rows, columns = fragment_shape
        halving = 2 ** (len(GROWTH) - 1)
        if rows % halving or columns % halving:
            raise ConfigError(
                f"model=resnet_ae and resnet_vae halve a fragment {len(GROWTH) - 1} times, which {rows}x{columns} "
                f"pixels do not allow; data.fragment_size should be a multiple of {halving}"
            )
        widths = [width * factor for factor in GROWTH]
        features = (widths[-1], rows // halving, columns // halving)
        encoder = nn.Sequential(
            conv_block(channels, width, 1),
            *_stage(width, width),
            *(block for a, b in itertools.pairwise(widths) for block in _stage(a, b, down=2)),
            nn.Flatten(),
        )

        def decoder() -> nn.Module:
            return nn.Sequential(
                nn.Unflatten(-1, features),
                *(block for a, b in itertools.pairwise(widths[::-1]) for block in _stage(a, b, up=2)),
                *_stage(width, width),
                nn.Conv2d(width, channels, 3, 1, 1),
                nn.Sigmoid(),
            )

        super().__init__(fragment_shape, latent_dim, encoder, features, decoder)


class ResNetVAE(ResNetAutoencoder, VariationalAutoencoder):
    """Variational form of `ResNetAutoencoder`, with the same arguments."""


def _stage(inputs: int, outputs: int, down: int = 1, up: int = 1) -> tuple[Residual, Residual]:
    return Residual(inputs, outputs, down, up), Residual(outputs, outputs)
