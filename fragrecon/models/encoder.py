"""Any network that maps fragments to vectors, as a model."""

from __future__ import annotations

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel, Shape


class Encoder(FragmentModel):
    """A network whose output is the embedding; it may be any module that maps (M, C, h, w) to (M, D).

    Args:
        fragment_shape: (C, h, w).
        network: the network. In a config, a node; its class may take ``fragment_shape``, ``grid`` and ``num_classes``.
        latent_dim: number of embedding dimensions, D, by a linear layer after the network; by default the output of the
            network is the embedding.

    Raises:
        ConfigError: the network does not accept fragments of this shape, or its output is not (M, D).

    Example:
        >>> encoder = Encoder((3, 16, 16), nn.Sequential(nn.Flatten(), nn.Linear(768, 32)))
        >>> encoder.latent_dim
        32
    """

    def __init__(self, fragment_shape: Shape, network: nn.Module, latent_dim: PositiveInt | None = None) -> None:
        size = output_size(network, fragment_shape)
        super().__init__(fragment_shape, latent_dim or size)
        self.network = network
        self.head = nn.Identity() if latent_dim is None else nn.Linear(size, latent_dim)

    def embed(self, fragments: Tensor) -> Tensor:
        """Embed fragments (M, C, h, w) as (M, D)."""
        latents: Tensor = self.head(self.network(fragments))
        return latents


def output_size(network: nn.Module, shape: Shape) -> int:
    """Determine the number of values that a network maps a fragment to, by two fragments of zeros.

    Args:
        network: module that maps (M, C, h, w) to (M, D).
        shape: (C, h, w).

    Returns:
        D.

    Raises:
        ConfigError: the network raises an error, or its output is not (M, D).
    """
    training = network.training
    device = next((weight.device for weight in network.parameters()), torch.zeros(0).device)
    try:
        with torch.no_grad():
            found = network.eval()(torch.zeros(2, *shape, device=device))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"model.network: {type(network).__name__} does not accept fragments (M, C, h, w) = {(2, *shape)}: {reason}"
        ) from error
    finally:
        network.train(training)
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != 2:
        what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError(
            f"model.network: {type(network).__name__} maps fragments {(2, *shape)} to {what}; it should map "
            "(M, C, h, w) to (M, D)"
        )
    return int(found.shape[1])
