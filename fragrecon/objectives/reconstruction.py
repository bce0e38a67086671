"""Reconstruction of fragments from their embeddings.

Shapes: images (..., C, h, w) in 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError, nearest
from fragrecon.models.base import Decoder, FragmentModel
from fragrecon.objectives.base import Losses, Objective
from fragrecon.objectives.perceptual import Perceptual

ERRORS = {"mse": F.mse_loss, "l1": F.l1_loss}
"""Means over all values, by name."""

REDUCTIONS = ("mean", "sum")

BEST_PSNR = 100.0
"""Of an error too small to tell, in dB."""


class Reconstruction(Objective):
    """The error between fragments and what is decoded from their embeddings; ``psnr`` is reported beside it.

    Args:
        error: of `Costs`, as is all that follows.
        reduction: ``mean`` of all values, or ``sum`` over those of an image.
        perceptual: weight of the perceptual distance.
        perceptual_network: in whose eyes.
        bottleneck: weight of the variance of latents.
    """

    parts: tuple[str, ...] = ("loss", "psnr")

    def __init__(
        self,
        error: str | Mapping[str, float] = "mse",
        reduction: str = "mean",
        perceptual: float = 0.0,
        perceptual_network: str = "features",
        bottleneck: float = 0.0,
    ) -> None:
        super().__init__()
        self.costs = Costs(error, reduction, perceptual, perceptual_network, bottleneck)
        if len(self.costs.parts) > 1:
            self.parts = ("loss", *self.costs.parts, "psnr")

    def check(self, model: FragmentModel) -> None:
        if not isinstance(model, Decoder):
            raise ConfigError(f"objective=reconstruction needs a model that decodes; {type(model).__name__} does not")

    def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
        assert isinstance(model, Decoder)
        latents = model.encode(batch.fragments)
        made = decoded_like(model, latents, batch.fragments)
        loss, parts = self.costs(made, batch.fragments, latents)
        found = {"loss": loss, **parts, "psnr": mean_psnr(made, batch.fragments)}
        return {name: found[name] for name in self.parts}


class Costs:
    """What is charged for decoded images and their latents: the error and, where they have a weight, other things.

    Args:
        error: ``mse``, the squared difference of values in 0..1, ``l1``, the absolute one, or how much each of these
            counts in a sum, as in ``{mse: 0.5, l1: 0.5}``.
        reduction: of the error alone: ``mean`` of all values, or ``sum`` over those of an image.
        perceptual: weight of how far the decoded images are from the originals in the eyes of a pretrained network.
        perceptual_network: its name in `fragrecon.objectives.perceptual.NETWORKS`.
        bottleneck: weight of `spread`, the variance of latents over the batch.

    Attributes:
        parts: names of what is charged for, the error first.

    Raises:
        ConfigError: a name that is not known, a weight that cannot be one, or a network that cannot be had.
    """

    def __init__(
        self,
        error: str | Mapping[str, float],
        reduction: str,
        perceptual: float,
        perceptual_network: str,
        bottleneck: float,
    ) -> None:
        self.error = error_weights(error)
        if reduction not in REDUCTIONS:
            raise ConfigError(f"objective.reduction='{reduction}' is not known{nearest(reduction, REDUCTIONS)}")
        weights = {"perceptual": perceptual, "bottleneck": bottleneck}
        for name, weight in weights.items():
            if not 0 <= weight < math.inf:
                raise ConfigError(f"objective.{name}={weight} should be a weight, at least 0")
        self.reduction = reduction
        self.weights = {name: weight for name, weight in weights.items() if weight}
        self.parts = ("error", *self.weights)
        self.perceptual = Perceptual(perceptual_network) if perceptual else None

    def __call__(self, decoded: Tensor, images: Tensor, latents: Tensor) -> tuple[Tensor, Losses]:
        """The total, and its parts, without their weights and detached.

        Args:
            decoded: (..., C, h, w), float32.
            images: (..., C, h, w) in 0..1.
            latents: (..., D).
        """
        found = {"error": reconstruction_error(decoded, images, self.error, self.reduction)}
        if self.perceptual:
            found["perceptual"] = self.perceptual(*(every.flatten(0, -4) for every in (decoded, images)))
        if "bottleneck" in self.weights:
            found["bottleneck"] = spread(latents)
        total = found["error"]
        for name, weight in self.weights.items():
            total = total + weight * found[name]
        return total, {name: value.detach() for name, value in found.items()}


def error_weights(error: str | Mapping[str, float]) -> dict[str, float]:
    """How much each of `ERRORS` counts; raises `ConfigError` where one is not known, or none counts."""
    weights = dict(error) if isinstance(error, Mapping) else {error: 1.0}
    for name, weight in weights.items():
        if name not in ERRORS:
            raise ConfigError(f"objective.error='{name}' is not known{nearest(str(name), ERRORS)}")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
            raise ConfigError(f"objective.error.{name}={weight} should be a number above 0")
    if not weights:
        raise ConfigError("objective.error={} names no error; give one, such as mse, or some with weights")
    return weights


def decoded_like(model: Decoder, latents: Tensor, images: Tensor) -> Tensor:
    """What a model decodes from latents (..., D) of images (..., C, h, w), at the size of these, as float32."""
    height, width = images.shape[-2:]
    return model.decode(latents, (height, width)).float()


def reconstruction_error(decoded: Tensor, images: Tensor, error: str | Mapping[str, float], reduction: str) -> Tensor:
    """How far decoded images are from the originals, averaged over values, or summed over those of an image and
    averaged over images: a scalar.
    """
    means = [weight * ERRORS[name](decoded, images) for name, weight in error_weights(error).items()]
    mean: Tensor = torch.stack(means).sum() if len(means) > 1 else means[0]
    return mean * math.prod(images.shape[-3:]) if reduction == "sum" else mean


def spread(latents: Tensor) -> Tensor:
    """The variance over a batch of latents (..., D), averaged over these: a scalar, 0 for a single image.

    Charged for, it keeps latents close together, so that they carry less; but only as far as a decoder does not scale
    them up again, which weight decay should keep it from.
    """
    rows = latents.float().flatten(0, -2)
    return rows.var(0, correction=min(1, len(rows) - 1)).mean()


@torch.no_grad()
def mean_psnr(decoded: Tensor, images: Tensor) -> Tensor:
    """The `psnr` of each decoded image, brought into 0..1, averaged over images: a scalar."""
    return psnr((decoded.clamp(0, 1) - images).square().mean((-3, -2, -1))).mean()


def psnr(errors: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of mean squared errors of pixels in 0..1, at most `BEST_PSNR`."""
    return (-10 * torch.log10(errors)).clamp(max=BEST_PSNR)
