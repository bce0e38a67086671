"""Perceptual features and distances from networks pretrained on photographs.

Distances between an image and its reconstruction: LPIPS, and the Euclidean distance of features. Distance between the
sets of reconstructions and images: the Fréchet distance between Gaussians fitted to their features (Heusel et al.,
2017), called FID for the features of Inception.

Shapes: M images (C, H, W) in [0, 1], D features; grey images are repeated over three channels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

from fragrecon.data.module import FixedPuzzles
from fragrecon.evaluation.pixels.reconstruction import Output, by_puzzle
from fragrecon.evaluation.statistics import Scores
from fragrecon.models.pretrained import EfficientNetLite, download_weights, import_optional, upsampled

log = logging.getLogger(__name__)

AT_ONCE = 16
"""Images per forward pass, independent of the batch size, because images are upsampled."""

FEATURES = "frechet_feature_distance"
"""Name of the Fréchet distance for the features of `EfficientNetLite`."""


class Inception(nn.Module):
    """Inception-v3 features that define FID (Heusel et al., 2017); images are resized bilinearly to 299 x 299.

    Raises:
        ConfigError: torch-fidelity is not installed, or the weights cannot be downloaded.
    """

    num_features = 2048

    def __init__(self) -> None:
        super().__init__()
        extractor = import_optional("torch_fidelity.feature_extractor_inceptionv3", "fid", "perceptual")
        download_weights("fid", extractor.URL_INCEPTION_V3)
        self.network = NoTrainInceptionV3("inception-v3-compat", [str(self.num_features)])

    def forward(self, images: Tensor) -> Tensor:
        """Return features (M, D)."""
        features: Tensor = self.network((images.expand(-1, 3, -1, -1) * 255).round().byte())
        return features


class Lpips(nn.Module):
    """LPIPS by AlexNet (Zhang et al., 2018).

    Images whose shorter side is below 64 pixels, the size that its weights were fitted on, are upsampled bilinearly
    to 64.

    Raises:
        ConfigError: torchvision is not installed, or AlexNet's weights cannot be downloaded.
    """

    least = 64

    def __init__(self) -> None:
        super().__init__()
        models = import_optional("torchvision.models", "lpips", "perceptual")
        download_weights("lpips", models.AlexNet_Weights.DEFAULT.url)
        self.network = LearnedPerceptualImagePatchSimilarity(net_type="alex").net

    def forward(self, output: Tensor, images: Tensor) -> Tensor:
        """Return distances (M,)."""
        output, images = (upsampled(every.expand(-1, 3, -1, -1), self.least) for every in (output, images))
        distances: Tensor = self.network(output, images, normalize=True)
        return distances.flatten()


class PerceptualNetworks:
    """The pretrained networks of an evaluation, on one device.

    Attributes:
        features: feature extractors, by the name of their Fréchet distance.
        lpips: the LPIPS network, if requested.

    Args:
        names: names from `fragrecon.config.evaluation.PERCEPTUAL`.
        device: device of the networks.

    Raises:
        ConfigError: a requested network is not installed, or its weights cannot be downloaded.
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.features: dict[str, EfficientNetLite | Inception] = {}
        if "features" in names:
            self.features[FEATURES] = EfficientNetLite().to(device)
        if "fid" in names:
            self.features["fid"] = Inception().to(device)
        self.lpips = Lpips().to(device) if "lpips" in names else None

    def extract(self, images: Tensor) -> dict[str, Tensor]:
        """Compute features (M, D) of images (M, C, H, W), by the name of their Fréchet distance."""
        return {name: in_parts(network, images) for name, network in self.features.items()}

    def compare(
        self,
        made: Tensor,
        images: Tensor,
        made_features: Mapping[str, Tensor],
        true_features: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Compute distances between outputs and images.

        Args:
            made: outputs (M, C, H, W) in [0, 1].
            images: the true images, of the same shape.
            made_features: features of ``made``, as `extract` returns them.
            true_features: features of ``images``.

        Returns:
            Distances (M,) by name; the feature distance is Euclidean.
        """
        scores = {}
        if self.lpips is not None:
            scores["lpips"] = in_parts(self.lpips, made, images).double()
        if FEATURES in made_features:
            scores["feature_distance"] = (made_features[FEATURES] - true_features[FEATURES]).norm(dim=1).double()
        return scores


def in_parts(network: nn.Module, *images: Tensor) -> Tensor:
    """Apply a network to images (M, C, H, W), `AT_ONCE` at a time."""
    parts = zip(*(torch.split(every, AT_ONCE) for every in images), strict=True)
    return torch.cat([network(*part) for part in parts])


class PrecomputedFeatures(nn.Identity):
    """Replaces the network of a metric whose features are already computed."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def frechet_distance(num_features: int) -> FrechetInceptionDistance:
    """Return a torchmetrics Fréchet distance that is updated with features (M, D) instead of images."""
    return FrechetInceptionDistance(PrecomputedFeatures(num_features))


@dataclass(frozen=True)
class PerceptualScores:
    """Perceptual scores of several methods; empty if no network was requested.

    Attributes:
        scores: scores (puzzles,) by method and metric.
        dataset_wide: values for all images together, by method and metric.
        images: number of images.
    """

    scores: dict[str, dict[str, Scores]] = field(default_factory=dict)
    dataset_wide: dict[str, dict[str, float]] = field(default_factory=dict)
    images: int = 0


@torch.inference_mode()
def score_perceptual(
    puzzles: FixedPuzzles,
    outputs: Mapping[str, Output],
    networks: PerceptualNetworks,
    *,
    prefix: str,
    batch_size: int,
    device: torch.device,
    advance: Callable[[int], None] = lambda count: None,
    setting: str = "evaluation.puzzles",
) -> PerceptualScores:
    """Score the outputs of methods on test images; each fragment of a puzzle counts as an image.

    Args:
        puzzles: puzzles to score on.
        outputs: outputs by method.
        networks: networks to score with.
        prefix: prefix of the metric names.
        batch_size: puzzles per batch.
        device: device of the networks.
        advance: called with the number of puzzles done, for a progress bar.
        setting: config key that sets the number of images, for the warning about too few.

    Returns:
        The scores, with ``{prefix}_{name}`` as metric names.
    """
    distances = {
        method: {name: frechet_distance(network.num_features) for name, network in networks.features.items()}
        for method in outputs
    }
    rows: dict[str, list[dict[str, Tensor]]] = {method: [] for method in outputs}
    count = 0
    for part in puzzles.parts(batch_size):
        batch = puzzles.read(part).to(device).as_float()
        images = batch.fragments.flatten(0, 1)
        count += len(images)
        true_features = networks.extract(images)
        for method, output in outputs.items():
            made = output(batch)
            made_features = networks.extract(made)
            for name, distance in distances[method].items():
                distance.update(true_features[name].cpu(), real=True)
                distance.update(made_features[name].cpu(), real=False)
            rows[method].append(by_puzzle(networks.compare(made, images, made_features, true_features), batch))
        advance(len(batch))
    for name, network in networks.features.items():
        if count <= network.num_features:
            log.warning(
                "%s of %d images is biased upwards, as these are too few for the covariance of %d features; compare it "
                "only with values on the same images, or set %s higher",
                name,
                count,
                network.num_features,
                setting,
            )
    return PerceptualScores(
        {
            method: {f"{prefix}_{name}": torch.cat([row[name] for row in found]).numpy() for name in found[0]}
            for method, found in rows.items()
        },
        {
            method: {f"{prefix}_{name}": float(distance.compute()) for name, distance in found.items()}
            for method, found in distances.items()
            if found
        },
        count,
    )
