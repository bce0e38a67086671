"""The network as a model of fragments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from fragrecon.models.base import FragmentModel, Shape
from fragrecon.models.cnn_v3.blocks import Kind
from fragrecon.models.cnn_v3.network import Strategy
from fragrecon.models.cnn_v3.presets import create_autoencoder

VIEWED_FRAGMENTS = 8
"""Number of fragments whose saliency is drawn."""


class AdaptiveAutoencoder(FragmentModel):
    """`AutoEncoderCNNV3` as a model of fragments, or of whole images of any size.

    Args:
        fragment_shape: (C, h, w), the default output shape.
        latent_dim: Number of embedding dimensions, D; the spatial strategy rounds it to a multiple of 16.
        preset: Name of a preset of `create_autoencoder`.
        latent_strategy: ``conv`` or ``spatial``.
        use_attention: Whether positions of the encoder's last map attend to each other.
        block_config: Kind of block of each stage; None for the preset's.
        channel_config: Channels of each stage; None for the preset's.
        stride_config: Stride of each stage; None for the preset's.

    Raises:
        ConfigError: The lists differ in length, or an argument is invalid.
    """

    any_size: ClassVar[bool] = True

    def __init__(
        self,
        fragment_shape: Shape,
        latent_dim: PositiveInt = 512,
        preset: Literal["tiny", "small", "medium", "large"] = "small",
        latent_strategy: Strategy = "conv",
        use_attention: bool = False,
        block_config: Sequence[Kind] | None = None,
        channel_config: Sequence[PositiveInt] | None = None,
        stride_config: Sequence[PositiveInt] | None = None,
    ) -> None:
        super().__init__(fragment_shape, latent_dim)
        stages = {"block_config": block_config, "channel_config": channel_config, "stride_config": stride_config}
        self.network = create_autoencoder(
            preset,
            fragment_shape[1:],
            latent_size=latent_dim,
            latent_strategy=latent_strategy,
            use_attention=use_attention,
            channels=fragment_shape[0],
            **{name: value for name, value in stages.items() if value is not None},
        )
        self.latent_dim = math.prod(self.network.latent_shape)

    def embed(self, fragments: Tensor) -> Tensor:
        """Embed fragments (M, C, h, w) of any size as (M, D)."""
        return self.network.encode(fragments)

    def decode(self, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Decode latents (..., D) to images (..., C, h, w) of the given size, by default the fragment size."""
        images = self.network.decode(latents.reshape(-1, self.latent_dim), size)
        return images.view(*latents.shape[:-1], *images.shape[1:])

    def views(self, fragments: Tensor) -> dict[str, Tensor]:
        """Draw the saliency of the first fragments in red, and the attention matrix of the first fragment.

        Args:
            fragments: (B, F, C, h, w) in [0, 1].

        Returns:
            Pictures (K, C, H, W) in [0, 1] by name, see `fragrecon.models.base.Viewer`.
        """
        shown = fragments[0, :VIEWED_FRAGMENTS]
        heat, red = self.network.get_attention_map(shown), torch.tensor([1.0, 0, 0], device=shown.device)[:, None, None]
        pictures = {"saliency": shown.mean(1, keepdim=True).expand(-1, 3, -1, -1) * (1 - heat) + red * heat}
        matrix = self.network.get_attention_matrix(shown[:1])
        if matrix is not None:
            pictures["attention_matrix"] = matrix.unsqueeze(1) / matrix.amax()
        return pictures
