"""What pretrained networks see of images, and how far apart two images are in their eyes.

Shapes: M images (C, H, W) in 0..1, D features; grey images count as colour images without colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import NoTrainInceptionV3
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

from fragrecon.models.pretrained import EfficientNetLite, enlarged, have_weights, needed

AT_ONCE = 16
"""Images that go through a network together, whatever the size of a batch of puzzles: they are enlarged for it."""

FEATURES = "frechet_feature_distance"
"""The Fréchet distance of the features of `EfficientNetLite`."""


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
        output, images = (enlarged(every.expand(-1, 3, -1, -1), self.least) for every in (output, images))
        distances: Tensor = self.network(output, images, normalize=True)
        return distances.flatten()


class Networks:
    """What images are looked at with, on one device.

    Attributes:
        features: by the name of the Fréchet distance between what they see.
        lpips: where it is asked for.

    Args:
        names: of `fragrecon.config.schema.PERCEPTUAL`.
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
