"""Functions that create the four models of the fragment study, for use without a configuration."""

from __future__ import annotations

from collections.abc import Sequence

from fragrecon.models.conv import ConvAutoencoder
from fragrecon.models.linear import LinearAutoencoder
from fragrecon.models.pca import PCAAutoencoder
from fragrecon.models.supervised import SupervisedClassifier


def create_conv_autoencoder(
    latent_dim: int = 128, input_channels: int = 3, input_size: int = 16, encoder_channels: Sequence[int] = (32, 64)
) -> ConvAutoencoder:
    """Create a convolutional autoencoder of square fragments."""
    return ConvAutoencoder((input_channels, input_size, input_size), latent_dim, encoder_channels)


def create_linear_autoencoder(
    latent_dim: int = 128, input_channels: int = 3, input_size: int = 16
) -> LinearAutoencoder:
    """Create an autoencoder of linear layers for square fragments."""
    return LinearAutoencoder((input_channels, input_size, input_size), latent_dim)


def create_pca_autoencoder(latent_dim: int = 128, input_channels: int = 3, input_size: int = 16) -> PCAAutoencoder:
    """Create an autoencoder of one linear layer each way for square fragments."""
    return PCAAutoencoder((input_channels, input_size, input_size), latent_dim)


def create_supervised_classifier(
    num_classes: int = 1000, latent_dim: int = 128, input_channels: int = 3, input_size: int = 16
) -> SupervisedClassifier:
    """Create a classifier of square fragments."""
    return SupervisedClassifier((input_channels, input_size, input_size), num_classes, latent_dim)
