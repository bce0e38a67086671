"""The autoencoder network.

Shapes: B images, C channels, H x W pixels, D latents.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from fragrecon.errors import ConfigError, nearest
from fragrecon.models.cnn_v3 import cells
from fragrecon.models.cnn_v3.blocks import BLOCKS, Downsample, SelfAttention, Upsample, scale_initial_weights

Strategy = Literal["conv", "spatial"]

CELL_COUNT = cells.CELLS**2


class AutoEncoderCNNV3(nn.Module):
    """Encoder of images of any size to D latents, and a decoder that reads only the latents and the output size.

    A stage of the encoder is a strided convolution followed by a residual block. A stage of the decoder is a residual
    block followed by a sub-pixel convolution (Shi et al., CVPR 2016). The encoder's last map is averaged against cosine
    waves over 4 x 4 cells (`fragrecon.models.cnn_v3.cells`). The decoder expands the cells to a map of the same size,
    so that images are never resized. The initial network is nearly linear, and its latents are near the coefficients of
    the longest waves.

    Args:
        latent_size: Requested number of latents.
        block_config: Kind of residual block of each stage: resnet, resnext, se or inception.
        channel_config: Channels of each stage.
        stride_config: Factor by which each stage reduces height and width, rounded up.
        latent_strategy: ``conv`` maps all cells to ``latent_size`` values by a linear layer; ``spatial`` maps each cell
            by a 1x1 convolution to ``latent_size / 16`` channels, rounded.
        use_attention: Whether positions of the encoder's last map attend to each other.
        input_size: (height, width) that `decode` uses by default.
        channels: Channels of the images: 1 for grey, 3 for colour.
        DropOut: Accepted and saved, but has no effect.
        embedding_dim: Alias of ``latent_size``; takes precedence over it.

    Attributes:
        latent_shape: Shape of the latents of one image as `Embedding` returns them: (D,), or (D / 16, 4, 4) with the
            spatial strategy.
        latent_size: D; with the spatial strategy, the multiple of 16 nearest to the requested number.

    Raises:
        ConfigError: The lists differ in length, a kind of block is unknown, or a number is not positive.
    """

    def __init__(
        self,
        latent_size: int = 512,
        block_config: Sequence[str] = ("resnet", "se", "resnet"),
        channel_config: Sequence[int] = (64, 128, 256),
        stride_config: Sequence[int] = (2, 2, 2),
        latent_strategy: Strategy = "conv",
        use_attention: bool = True,
        input_size: Sequence[int] = (201, 201),
        channels: int = 1,
        DropOut: bool | float = False,
        embedding_dim: int | None = None,
    ) -> None:
        super().__init__()
        latent_size = latent_size if embedding_dim is None else embedding_dim
        _check(latent_size, block_config, channel_config, stride_config, latent_strategy, input_size, channels)
        self.latent_strategy, self.use_attention = latent_strategy, use_attention
        self.block_config, self.channel_config = tuple(block_config), tuple(channel_config)
        self.stride_config = tuple(stride_config)
        self.input_size, self.channels, self.DropOut = (input_size[0], input_size[1]), channels, DropOut

        widths = [channels, *channel_config]
        stages = list(zip(itertools.pairwise(widths), stride_config, block_config, strict=True))
        self.down = nn.ModuleList(
            nn.Sequential(Downsample(before, after, stride), BLOCKS[kind](after))
            for (before, after), stride, kind in stages
        )
        last = widths[-1]
        self.attention = SelfAttention(last, heads=_heads(last)) if use_attention else None
        spatial = latent_strategy == "spatial"
        depth = max(1, round(latent_size / CELL_COUNT)) if spatial else last
        self.latent_shape: tuple[int, ...] = (depth, cells.CELLS, cells.CELLS) if spatial else (latent_size,)
        self.latent_size = math.prod(self.latent_shape)
        self.to_cells = cells.ToCells(last, depth)
        self.from_cells = cells.FromCells(depth, last, fade_channels=max(1, latent_size // CELL_COUNT))
        self.to_latent: nn.Module = nn.Identity()
        self.from_latent: nn.Module = nn.Identity()
        if not spatial:
            self.to_latent = nn.Sequential(nn.Flatten(), _identity_linear(CELL_COUNT * last, latent_size))
            back = nn.Unflatten(1, (last, cells.CELLS, cells.CELLS))
            self.from_latent = nn.Sequential(_identity_linear(latent_size, CELL_COUNT * last), back)
        self.up = nn.ModuleList(
            nn.Sequential(BLOCKS[kind](after), Upsample(after, before, stride))
            for (before, after), stride, kind in reversed(stages)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Encode and decode images (B, C, H, W) in [0, 1]; the result is clamped to [0, 1] only in eval mode."""
        return self.decode(self.encode(x), (x.shape[-2], x.shape[-1]))

    def Embedding(self, x: Tensor) -> Tensor:
        """Encode images (B, C, H, W) to latents (B, D), or (B, D / 16, 4, 4) with the spatial strategy."""
        latents: Tensor = self.to_latent(self.to_cells(self._attended(x)))
        return latents

    def encode(self, x: Tensor) -> Tensor:
        """Encode images (B, C, H, W) to flat latents (B, D)."""
        return self.Embedding(x).flatten(1)

    def decode(self, latent: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Decode latents to images.

        Args:
            latent: Latents (B, D), or (B, D / 16, 4, 4) with the spatial strategy.
            size: (H, W), by default ``input_size``.

        Returns:
            Images (B, C, H, W), clamped to [0, 1] in eval mode.

        Raises:
            ValueError: The shape of the latents, or the size, is invalid.
        """
        if tuple(latent.shape[1:]) not in ((self.latent_size,), self.latent_shape):
            alternative = "" if len(self.latent_shape) == 1 else f" or (B, {', '.join(map(str, self.latent_shape))})"
            raise ValueError(f"latents should be (B, {self.latent_size}){alternative}, not {tuple(latent.shape)}")
        if size is not None and (not isinstance(size, Sequence) or len(size) != 2 or min(size) < 1):
            raise ValueError(f"size={size} should be (height, width), each at least 1")
        *sizes, inner = self.sizes(size or self.input_size)
        hidden = self.from_cells(self.from_latent(latent.reshape(-1, *self.latent_shape)), inner)
        for stage, (height, width) in zip(self.up, reversed(sizes), strict=True):
            hidden = stage(hidden)[..., :height, :width]
        images: Tensor = hidden + 0.5
        return images if self.training else images.clamp(0, 1)  # clamped values have no gradient

    def decode_from_latent(self, latent: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Decode latents; the same as `decode`."""
        return self.decode(latent, size)

    def get_attention_matrix(self, x: Tensor) -> Tensor | None:
        """Compute the attention weights between positions of the encoder's last map, averaged over heads.

        Args:
            x: Images (B, C, H, W) in [0, 1].

        Returns:
            Weights (B, N, N) for N positions of the grid of `fragrecon.models.cnn_v3.blocks.SelfAttention`, row by row;
            each row sums to 1. None for a network without attention.
        """
        return None if self.attention is None else self.attention.matrix(self._feature_map(x))

    def get_attention_map(self, x: Tensor) -> Tensor:
        """Compute a saliency map: the gradient magnitude of the squared error (Simonyan et al., 2014).

        Gradients are summed over colours; the gradients of the weights are not changed.

        Args:
            x: Images (B, C, H, W) in [0, 1].

        Returns:
            Saliency (B, 1, H, W), scaled so that the maximum of each image is 1.
        """
        with torch.enable_grad(), torch.inference_mode(False):
            images = x.detach().clone().requires_grad_()
            error = (self(images) - images).square().sum()
            (gradient,) = torch.autograd.grad(error, images)
        strength = gradient.abs().sum(1, keepdim=True)
        return strength / strength.amax((2, 3), keepdim=True).clamp(min=torch.finfo(strength.dtype).tiny)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that create this network again, as plain values."""
        names = inspect.signature(AutoEncoderCNNV3).parameters
        values = {name: getattr(self, name) for name in names if name != "embedding_dim"}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def sizes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """Return (height, width) of an image and of the encoder's map after each stage."""
        sizes = [size]
        for stride in self.stride_config:
            sizes.append((-(-sizes[-1][0] // stride), -(-sizes[-1][1] // stride)))
        return sizes

    def _feature_map(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.channels or not x.is_floating_point():
            given = f"{tuple(x.shape)} of {str(x.dtype).removeprefix('torch.')}"
            raise ValueError(f"images should be (B, {self.channels}, H, W) of floats in [0, 1], not {given}")
        hidden = x - 0.5  # `decode` adds it again
        for stage in self.down:
            hidden = stage(hidden)
        return hidden

    def _attended(self, x: Tensor) -> Tensor:
        hidden = self._feature_map(x)
        return hidden if self.attention is None else cast(Tensor, self.attention(hidden))


AutoEncoder_CNNV3 = AutoEncoderCNNV3


def _check(
    latent_size: int,
    blocks: Sequence[str],
    channels: Sequence[int],
    strides: Sequence[int],
    strategy: str,
    input_size: Sequence[int],
    colours: int,
) -> None:
    if not 0 < len(blocks) == len(channels) == len(strides):
        raise ConfigError(
            f"block_config, channel_config and stride_config should have the same length, one entry per stage; they "
            f"have {len(blocks)}, {len(channels)} and {len(strides)}"
        )
    for kind, width in zip(blocks, channels, strict=True):
        if kind not in BLOCKS:
            raise ConfigError(f"block_config: '{kind}' is not known{nearest(kind, BLOCKS)}")
        if kind == "inception" and width < 4:
            raise ConfigError(f"channel_config: inception has four branches and needs at least 4 channels, not {width}")
    if strategy not in ("conv", "spatial"):
        raise ConfigError(f"latent_strategy='{strategy}' should be conv or spatial")
    if not isinstance(input_size, Sequence) or len(input_size) != 2:
        raise ConfigError(f"input_size={input_size} should be (height, width)")
    for name, least in (
        ("latent_size", latent_size),
        ("channel_config", min(channels)),
        ("stride_config", min(strides)),
        ("input_size", min(input_size)),
        ("channels", colours),
    ):
        if least < 1:
            raise ConfigError(f"{name} should be at least 1, not {least}")


def _identity_linear(inputs: int, outputs: int) -> nn.Linear:
    """Create a linear layer that copies its first inputs, plus noise so that all others have gradients too."""
    layer = nn.Linear(inputs, outputs)
    scale_initial_weights(layer, cells.NOISE / 10)
    with torch.no_grad():
        layer.weight.diagonal().add_(1)
    return layer


def _heads(channels: int) -> int:
    return next(heads for heads in (4, 2, 1) if channels % heads == 0)
