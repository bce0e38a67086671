"""Perceptual loss: the distance of two images in the features of a pretrained network.

Johnson et al., "Perceptual Losses for Real-Time Style Transfer and Super-Resolution", ECCV 2016; with features
normalised as in Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018,
eq. 1, but without the weights fitted there.

Shapes: M images (C, H, W) in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fragrecon.models.pretrained import VGG16, EfficientNetLite, upsampled

NETWORKS: dict[str, Callable[[], EfficientNetLite | VGG16]] = {"features": EfficientNetLite, "vgg16": VGG16}
"""Networks by name. The first is installed with its weights; those of the second are downloaded, and are not tested."""

LEAST = 64
"""Minimum length of the shorter side of the network's input, in pixels. Smaller images are upsampled, so that the last
maps, after all halvings, still have several positions.
"""


class Perceptual:
    """Mean distance of two images over the stages of a pretrained network.

    It is not an ``nn.Module``, so an objective neither trains nor saves the network, nor switches it to training mode.

    Args:
        network: name in `NETWORKS`.

    Raises:
        ConfigError: the network is not installed, or its weights cannot be downloaded.
    """

    def __init__(self, network: str) -> None:
        self.network = NETWORKS[network]()

    def __call__(self, decoded: Tensor, images: Tensor) -> Tensor:
        """Compute the distance of decoded images (M, C, H, W) and the originals: a scalar in [0, 4]."""
        with torch.inference_mode(False):  # otherwise weights moved in validation could not be used in training
            self.network.to(images.device)
        with torch.no_grad():
            targets = self.network.stages(upsampled(images, LEAST))
        features = self.network.stages(upsampled(decoded, LEAST))
        return torch.stack([distance(*stage) for stage in zip(features, targets, strict=True)]).mean()


def distance(one: Tensor, other: Tensor) -> Tensor:
    """Mean squared distance of the L2-normalised feature vectors of two maps.

    Args:
        one: (M, D, rows, columns).
        other: (M, D, rows, columns).

    Returns:
        A scalar in [0, 4].

    Example:
        >>> distance(torch.tensor([1.0, 0]).view(1, 2, 1, 1), torch.tensor([0.0, 5]).view(1, 2, 1, 1))
        tensor(2.)
    """
    one, other = (F.normalize(features.float(), dim=1, eps=1e-6) for features in (one, other))
    return (one - other).square().sum(1).mean()
