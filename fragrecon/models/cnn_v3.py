"""An autoencoder of images of any size, grey or coloured, by residual convolutions of several kinds.

Whatever an image's size, its latents are as many: what the encoder makes of it is brought to 4 x 4 cells, the only
thing the decoder gets besides the size to decode to. `AutoEncoderCNNV3` has an interface of its own, and
`AdaptiveAutoencoder` puts it into the framework.

Shapes: B images, C channels, H x W pixels, D latents.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from fragrecon.errors import ConfigError, nearest
from fragrecon.models import cells
from fragrecon.models.base import FragmentModel, Shape, count_parameters
from fragrecon.models.residual import BLOCKS, SelfAttention

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Strategy = Literal["conv", "spatial"]
VIEWED = 8
"""Fragments whose saliency is shown."""

PLACES = cells.CELLS**2


class AutoEncoderCNNV3(nn.Module):
    """An encoder to latents, and a decoder from nothing but these and a size.

    A stage is a strided convolution and a residual block; the decoder mirrors it by a block and a convolution that lays
    out the pixels it stands for (Shi et al., 2016). The encoder's last map is averaged against cosines over 4 x 4 cells
    (`fragrecon.models.cells`), and the decoder begins by laying them over a map of that very size, so that nothing is
    stretched. Before training, the whole is close to linear, and latents to the longest waves.

    Args:
        latent_size: how many latents are asked for.
        block_config: kind of each stage's block: resnet, resnext, se or inception.
        channel_config: channels of each stage.
        stride_config: how many times each stage makes height and width smaller, rounded up.
        latent_strategy: ``conv`` takes all cells to ``latent_size`` numbers by a linear layer; ``spatial`` takes each
            cell alone, by a 1x1 convolution, to ``latent_size / 16`` channels, rounded.
        use_attention: whether places of the encoder's last map attend to each other.
        input_size: (height, width) that is decoded to unless another is asked for.
        channels: of images; 1 for grey, 3 for colour.
        DropOut: kept for callers of version 1; has no effect.
        embedding_dim: takes the place of ``latent_size``, as version 1 called it.

    Attributes:
        latent_shape: of an image's latents, as `Embedding` gives them: (D,), or (D / 16, 4, 4) if spatial.
        latent_size: D, which is near to what was asked for if spatial.

    Raises:
        ConfigError: the lists differ in length, a kind of block is not known, or a number is not positive.
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
            nn.Sequential(Shrink(before, after, stride), BLOCKS[kind](after))
            for (before, after), stride, kind in stages
        )
        last = widths[-1]
        self.attention = SelfAttention(last, heads=_heads(last)) if use_attention else None
        spatial = latent_strategy == "spatial"
        depth = max(1, round(latent_size / PLACES)) if spatial else last
        self.latent_shape: tuple[int, ...] = (depth, cells.CELLS, cells.CELLS) if spatial else (latent_size,)
        self.latent_size = math.prod(self.latent_shape)
        self.to_cells = cells.ToCells(last, depth)
        self.from_cells = cells.FromCells(depth, last, told=max(1, latent_size // PLACES))
        self.to_latent: nn.Module = nn.Identity()
        self.from_latent: nn.Module = nn.Identity()
        if not spatial:
            self.to_latent = nn.Sequential(nn.Flatten(), _near_identity(PLACES * last, latent_size))
            back = nn.Unflatten(1, (last, cells.CELLS, cells.CELLS))
            self.from_latent = nn.Sequential(_near_identity(latent_size, PLACES * last), back)
        self.up = nn.ModuleList(
            nn.Sequential(BLOCKS[kind](after), Grow(after, before, stride))
            for (before, after), stride, kind in reversed(stages)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] as they are decoded again; in [0, 1] too, but for training."""
        return self.decode(self.encode(x), (x.shape[-2], x.shape[-1]))

    def Embedding(self, x: Tensor) -> Tensor:
        """Latents of images (B, C, H, W), in their own shape: (B, D), or (B, D / 16, 4, 4) if spatial."""
        latents: Tensor = self.to_latent(self.to_cells(self._features(x)))
        return latents

    def encode(self, x: Tensor) -> Tensor:
        """Latents (B, D) of images (B, C, H, W)."""
        return self.Embedding(x).flatten(1)

    def decode(self, latent: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Images (B, C, H, W) of latents, flat or in their own shape; in [0, 1], but for training.

        Args:
            latent: (B, D), or (B, D / 16, 4, 4) if spatial.
            size: (H, W), by default ``input_size``.

        Raises:
            ValueError: latents, or a size, of another shape.
        """
        if tuple(latent.shape[1:]) not in ((self.latent_size,), self.latent_shape):
            own = "" if len(self.latent_shape) == 1 else f" or (B, {', '.join(map(str, self.latent_shape))})"
            raise ValueError(f"latents should be (B, {self.latent_size}){own}, not {tuple(latent.shape)}")
        if size is not None and (not isinstance(size, Sequence) or len(size) != 2 or min(size) < 1):
            raise ValueError(f"size={size} should be (height, width), each at least 1")
        *sizes, inner = self.sizes(size or self.input_size)
        hidden = self.from_cells(self.from_latent(latent.reshape(-1, *self.latent_shape)), inner)
        for stage, (height, width) in zip(self.up, reversed(sizes), strict=True):
            hidden = stage(hidden)[..., :height, :width]
        images: Tensor = hidden + 0.5
        return images if self.training else images.clamp(0, 1)  # a clamp would give what is beyond no gradient

    def decode_from_latent(self, latent: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """`decode`, by its other name."""
        return self.decode(latent, size)

    def get_attention_matrix(self, x: Tensor) -> Tensor | None:
        """How much each of N places of the encoder's last map attends to each, (B, N, N), rows summing to 1.

        The mean over heads, row by row of the grid of `fragrecon.models.residual.SelfAttention`; None without
        attention.
        """
        return None if self.attention is None else self.attention.matrix(self._convolved(x))

    def get_attention_map(self, x: Tensor) -> Tensor:
        """Which pixels the error depends on: (B, 1, H, W), from 0 to 1 at the strongest place of each image.

        The size of the gradient, with respect to each pixel, of an image's squared error (Simonyan et al., 2014),
        summed over colours. Gradients of weights are left as they are.
        """
        with torch.enable_grad(), torch.inference_mode(False):
            seen = x.detach().clone().requires_grad_()
            error = (self(seen) - seen).square().sum()
            (gradient,) = torch.autograd.grad(error, seen)
        strength = gradient.abs().sum(1, keepdim=True)
        return strength / strength.amax((2, 3), keepdim=True).clamp(min=torch.finfo(strength.dtype).tiny)

    def get_config(self) -> dict[str, Any]:
        """Arguments that make this network again, as plain values."""
        return {
            "latent_size": self.latent_size,
            "block_config": list(self.block_config),
            "channel_config": list(self.channel_config),
            "stride_config": list(self.stride_config),
            "latent_strategy": self.latent_strategy,
            "use_attention": self.use_attention,
            "input_size": list(self.input_size),
            "channels": self.channels,
            "DropOut": self.DropOut,
        }

    def costs(self, size: tuple[int, int] | None = None, batch_size: int = 1) -> Costs:
        """What images of a size, by default ``input_size``, cost; found without computing anything.

        Args:
            size: (H, W).
            batch_size: images that are trained with together.
        """
        with torch.device("meta"):
            same = AutoEncoderCNNV3(**self.get_config())
            images = torch.empty(batch_size, self.channels, *(size or self.input_size))
        saved: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            if not isinstance(tensor, nn.Parameter):
                kept.append(tensor)  # or another could get its place
                saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
            return tensor

        kept: list[Tensor] = []
        with FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, lambda tensor: tensor):
            same(images)
        parameters = count_parameters(self)
        weights = sum(parameter.nbytes for parameter in self.parameters())
        return Costs(parameters, counter.get_total_flops() // batch_size, weights, sum(saved.values()))

    def sizes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """(height, width) of an image and of the encoder's maps after each stage."""
        found = [size]
        for stride in self.stride_config:
            found.append((-(-found[-1][0] // stride), -(-found[-1][1] // stride)))
        return found

    def _convolved(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.channels or not x.is_floating_point():
            given = f"{tuple(x.shape)} of {str(x.dtype).removeprefix('torch.')}"
            raise ValueError(f"images should be (B, {self.channels}, H, W) of floats in [0, 1], not {given}")
        hidden = x - 0.5  # centred, as the decoder has it too
        for stage in self.down:
            hidden = stage(hidden)
        return hidden

    def _features(self, x: Tensor) -> Tensor:
        hidden = self._convolved(x)
        return hidden if self.attention is None else cast(Tensor, self.attention(hidden))


AutoEncoder_CNNV3 = AutoEncoderCNNV3


@dataclass(frozen=True)
class Costs:
    """Of a network, and of a batch of images.

    Attributes:
        parameters: their number.
        flops: of an image, forward; a multiplication and an addition are two. Training takes three times as many.
        weight_bytes: of the parameters; with gradients and Adam's two averages, training holds four times as many.
        activation_bytes: what a batch keeps for the gradients, besides the parameters.
    """

    parameters: int
    flops: int
    weight_bytes: int
    activation_bytes: int

    @property
    def training_bytes(self) -> int:
        """What training by Adam holds at least."""
        return 4 * self.weight_bytes + self.activation_bytes


@dataclass(frozen=True)
class Stages:
    """What `AutoEncoderCNNV3` takes as ``block_config``, ``channel_config`` and ``stride_config``."""

    blocks: tuple[str, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Preset:
    """How many latents, and the stages; those of the spatial strategy, if they are others."""

    latent_size: int
    conv: Stages
    spatial: Stages | None = None


PRESETS = {
    "tiny": Preset(128, Stages(("resnet", "resnet"), (64, 36), (4, 2))),
    "small": Preset(512, Stages(("resnet", "resnext"), (64, 96), (4, 1))),
    "medium": Preset(
        2048,
        Stages(("resnet", "resnext"), (64, 128), (4, 1)),
        Stages(("resnet", "resnext"), (32, 64), (2, 1)),
    ),
    "large": Preset(
        8192,
        Stages(("resnet", "resnext"), (64, 128), (4, 1)),
        Stages(("resnet", "resnet"), (16, 16), (1, 1)),
    ),
}


def create_autoencoder(
    preset: str = "small", input_size: Sequence[int] = (201, 201), **overrides: Any
) -> AutoEncoderCNNV3:
    """A network by a preset: tiny (128 latents), small (512), medium (2,048) or large (8,192).

    By the ``conv`` strategy they have about 0.5, 2, 8 and 32 million parameters. That of large is wider than the 2,048
    numbers that its cells hold, so that it cannot tell more than these. By the ``spatial`` strategy, they have no wide
    linear layers, and far fewer parameters. Attention is on unless overridden.

    Args:
        preset: its name.
        input_size: (height, width).
        overrides: other arguments of `AutoEncoderCNNV3`.

    Raises:
        ConfigError: there is no such preset.
    """
    if preset not in PRESETS:
        raise ConfigError(f"preset '{preset}' is not known{nearest(preset, PRESETS)}")
    chosen = PRESETS[preset]
    spatial = overrides.get("latent_strategy") == "spatial"
    stages = (chosen.spatial if spatial else None) or chosen.conv
    settings: dict[str, Any] = {
        "latent_size": chosen.latent_size,
        "block_config": stages.blocks,
        "channel_config": stages.channels,
        "stride_config": stages.strides,
    }
    return AutoEncoderCNNV3(**(settings | {"input_size": input_size} | overrides))


def visualize_attention(
    model: AutoEncoderCNNV3,
    x: Tensor,
    save_path: str | Path | None = None,
    show_matrix: bool = True,
    show_heatmap: bool = True,
) -> Figure:
    """A figure of images, their reconstructions, which places attend to which, and what the error depends on.

    An image's panels lie in a row or, if it is wide, in a column.

    Args:
        model: whose attention, if it has any.
        x: images (B, C, H, W) in [0, 1].
        save_path: file to write the figure to, in any format of matplotlib.
        show_matrix: whether the attention matrix is drawn.
        show_heatmap: whether the saliency is drawn, over the image.
    """
    from matplotlib.figure import Figure

    with torch.no_grad():
        decoded = model(x).clamp(0, 1)
        matrix = model.get_attention_matrix(x) if show_matrix else None
    heat = model.get_attention_map(x) if show_heatmap else None
    titles = ["image", "reconstruction"]
    titles += [] if matrix is None else ["attention of a row's place to a column's"]
    titles += [] if heat is None else ["what the error depends on"]
    height, width = x.shape[-2:]
    side_by_side = width < 2 * height
    grid = (len(x), len(titles)) if side_by_side else (len(titles), len(x))
    panel = (2.8, 2.8 * height / width) if side_by_side else (5.6, max(0.8, 5.6 * height / width))
    figure = Figure(figsize=(grid[1] * panel[0], grid[0] * (panel[1] + 0.3)), dpi=120, layout="constrained")
    panels = figure.subplots(*grid, squeeze=False)
    grey: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1}
    for row, axes in enumerate(panels if side_by_side else panels.T):
        pictures = [image[row].permute(1, 2, 0).cpu().numpy() for image in (x, decoded)]
        for place, picture in zip(axes, pictures, strict=False):
            place.imshow(picture, **grey)
        if matrix is not None:
            axes[2].imshow(matrix[row].cpu().numpy(), cmap="magma")
        if heat is not None:
            axes[-1].imshow(pictures[0], **grey)
            axes[-1].imshow(heat[row, 0].cpu().numpy(), cmap="magma", alpha=0.6, vmin=0, vmax=1)
        for place, title in zip(axes, titles, strict=True):
            place.set_axis_off()
            if row == 0:
                place.set_title(title, fontsize=9)
    if save_path is not None:
        figure.savefig(save_path)
    return figure


class AdaptiveAutoencoder(FragmentModel):
    """`AutoEncoderCNNV3` as a model of fragments, or of whole images of any size.

    Args:
        fragment_shape: (C, h, w), which it decodes to unless another size is asked for.
        latent_dim: D; with the spatial strategy, the nearest multiple of 16.
        preset: of `create_autoencoder`.
        latent_strategy: conv or spatial.
        use_attention: whether places of the encoder's last map attend to each other.
        block_config: kinds of blocks, by default the preset's.
        channel_config: channels of each stage, by default the preset's.
        stride_config: strides, by default the preset's.
    """

    any_size: ClassVar[bool] = True

    def __init__(
        self,
        fragment_shape: Shape,
        latent_dim: int = 512,
        preset: str = "small",
        latent_strategy: str = "conv",
        use_attention: bool = False,
        block_config: Sequence[str] | None = None,
        channel_config: Sequence[int] | None = None,
        stride_config: Sequence[int] | None = None,
    ) -> None:
        super().__init__(fragment_shape, latent_dim)
        own = {"block_config": block_config, "channel_config": channel_config, "stride_config": stride_config}
        self.network = create_autoencoder(
            preset,
            fragment_shape[1:],
            latent_size=latent_dim,
            latent_strategy=latent_strategy,
            use_attention=use_attention,
            channels=fragment_shape[0],
            **{name: value for name, value in own.items() if value is not None},
        )
        self.latent_dim = math.prod(self.network.latent_shape)

    def embed(self, fragments: Tensor) -> Tensor:
        return self.network.encode(fragments)

    def decode(self, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        images = self.network.decode(latents.reshape(-1, self.latent_dim), size)
        return images.view(*latents.shape[:-1], *images.shape[1:])

    def views(self, fragments: Tensor) -> dict[str, Tensor]:
        """For `fragrecon.models.base.Viewer`: saliency in red over the first fragments, and attention in the first."""
        shown = fragments[0, :VIEWED]
        heat, red = self.network.get_attention_map(shown), torch.tensor([1.0, 0, 0], device=shown.device)[:, None, None]
        found = {"saliency": shown.mean(1, keepdim=True).expand(-1, 3, -1, -1) * (1 - heat) + red * heat}
        matrix = self.network.get_attention_matrix(shown[:1])
        if matrix is not None:
            found["attention_matrix"] = matrix.unsqueeze(1) / matrix.amax()
        return found


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
            f"block_config, channel_config and stride_config should be equally long, one entry a stage; they have "
            f"{len(blocks)}, {len(channels)} and {len(strides)}"
        )
    for kind in blocks:
        if kind not in BLOCKS:
            raise ConfigError(
                f"block_config: '{kind}' is not known{nearest(kind, BLOCKS)}; there are {', '.join(BLOCKS)}"
            )
    for kind, width in zip(blocks, channels, strict=True):
        if kind == "inception" and width < 4:
            raise ConfigError(f"channel_config: inception has four ways side by side, and {width} channels are too few")
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


class Shrink(nn.Conv2d):
    """A convolution from sides to these over the stride, rounded up; at first nearly means of pixels and channels.

    Beyond its sides, an image goes on as at its border.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, stride + 2, stride)
        _begin(self, cells.NOISE)
        with torch.no_grad():
            self.weight[..., 1:-1, 1:-1] += 1 / (inputs * stride**2)

    def forward(self, input: Tensor) -> Tensor:
        stride = self.stride[0]
        beyond = (1, 1 + -input.shape[3] % stride, 1, 1 + -input.shape[2] % stride)
        return super().forward(functional.pad(input, beyond, mode="replicate"))


class Grow(nn.Sequential):
    """From sides to these times the stride; at first nearly divides the mean of all channels, so that means are kept.

    Along each side a pixel is divided by the parabola that has its mean and those of both neighbours (van Leer, 1977).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        layer = nn.Conv2d(inputs, outputs * stride**2, 3, padding=1, padding_mode="replicate")
        _begin(layer, cells.NOISE)
        d = (torch.arange(stride)[:, None] + 0.5) / stride - 0.5
        slope, bend = torch.tensor([-0.5, 0, 0.5]), torch.tensor([0.5, -1, 0.5])
        # A part of this width at a distance d has the mean m + slope d + bend (d^2 + (1 / stride^2 - 1) / 12).
        taps = torch.tensor([0.0, 1, 0]) + d * slope + (d**2 + (stride**-2 - 1) / 12) * bend
        with torch.no_grad():
            phases = torch.einsum("ai,bj->abij", taps, taps).flatten(0, 1)
            layer.weight.add_(phases.repeat(outputs, 1, 1)[:, None] / inputs)
        super().__init__(layer, nn.PixelShuffle(stride))


def _near_identity(inputs: int, outputs: int) -> nn.Linear:
    """Hands on its first inputs, but for some noise that keeps the others alive."""
    layer = nn.Linear(inputs, outputs)
    _begin(layer, cells.NOISE / 10)
    with torch.no_grad():
        layer.weight.diagonal().add_(1)
    return layer


def _begin(layer: nn.Linear | nn.Conv2d, noise: float) -> None:
    with torch.no_grad():
        layer.weight.mul_(noise)
        layer.bias.zero_()  # type: ignore[union-attr]


def _heads(channels: int) -> int:
    return next(heads for heads in (4, 2, 1) if channels % heads == 0)
