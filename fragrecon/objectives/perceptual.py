"""How far apart images are in the eyes of a network that was trained on photographs, as something to train for.

Johnson et al., "Perceptual Losses for Real-Time Style Transfer and Super-Resolution", ECCV 2016; with features of
length 1, as in Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018, eq.
1, but without the weights fitted there.
Shapes: M images (C, H, W) in 0..1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fragrecon.errors import ConfigError, nearest
from fragrecon.models.pretrained import VGG16, EfficientNetLite, upsampled

NETWORKS: dict[str, Callable[[], EfficientNetLite | VGG16]] = {"features": EfficientNetLite, "vgg16": VGG16}
"""By name: one that is installed with its weights, and one whose weights are downloaded, untested with them."""

LEAST = 64
"""The shorter side of what the network is shown, in pixels: smaller images are enlarged, which leaves of them a few
features at least after all halvings.
"""


class Perceptual:
    """The mean, over stages of a network, of the distance of what it sees of two images.

    Not a module: the network is nothing that an objective trains, saves, or sets to training.

    Args:
        network: of `NETWORKS`.

    Raises:
        ConfigError: the network is not known or not installed, or its weights cannot be had.
    """

    def __init__(self, network: str) -> None:
        if network not in NETWORKS:
            raise ConfigError(f"objective.perceptual_network='{network}' is not known{nearest(network, NETWORKS)}")
        self.network = NETWORKS[network]()

    def __call__(self, decoded: Tensor, images: Tensor) -> Tensor:
        """Of images (M, C, H, W): a scalar in 0..4."""
        with torch.inference_mode(False):  # weights that validation has moved must serve training too
            self.network.to(images.device)
        with torch.no_grad():
            wanted = self.network.stages(upsampled(images, LEAST))
        seen = self.network.stages(upsampled(decoded, LEAST))
        return torch.stack([distance(*stage) for stage in zip(seen, wanted, strict=True)]).mean()


def distance(one: Tensor, other: Tensor) -> Tensor:
    """The mean over images and places of the squared distance of features (M, D, rows, columns), each of length 1."""
    one, other = (F.normalize(features.float(), dim=1, eps=1e-6) for features in (one, other))
    return (one - other).square().sum(1).mean()
