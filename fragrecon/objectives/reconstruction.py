"""Reconstruction of fragments from their embeddings.

Shapes: images (..., C, h, w) in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError, nearest
from fragrecon.models.base import Decoder, FragmentModel
from fragrecon.objectives.base import Losses, Objective, Weight
from fragrecon.objectives.perceptual import Perceptual

ERRORS = {"mse": F.mse_loss, "l1": F.l1_loss}
"""Mean errors over all values, by name."""
Reduction = Literal["mean", "sum"]
Network = Literal["features", "vgg16"]
"""A name in `fragrecon.objectives.perceptual.NETWORKS`."""

BEST_PSNR = 100.0
"""Maximum reported PSNR in dB, also that of an error of zero."""


class Reconstruction(Objective):
    """Error between fragments and those decoded from their embeddings, and its ``psnr``.

    Args:
        error: ``mse``, ``l1`` or weights of both; see `ReconstructionLoss`, also for the other arguments.
        reduction: ``mean`` over all values, or ``sum`` over those of an image.
        perceptual: weight of the perceptual distance.
        perceptual_network: network that computes it.
        bottleneck: weight of the variance of the latents.

    Raises:
        ConfigError: the error is unknown, or the perceptual network is not available.
    """

    parts: tuple[str, ...] = ("loss", "psnr")

    def __init__(
        self,
        error: str | Mapping[str, float] = "mse",
        reduction: Reduction = "mean",
        perceptual: Weight = 0.0,
        perceptual_network: Network = "features",
        bottleneck: Weight = 0.0,
    ) -> None:
        super().__init__()
        self.cost = ReconstructionLoss(error, reduction, perceptual, perceptual_network, bottleneck)
        if len(self.cost.parts) > 1:
            self.parts = ("loss", *self.cost.parts, "psnr")

    def check(self, model: FragmentModel) -> None:
        """Check that a model decodes."""
        if not isinstance(model, Decoder):
            raise ConfigError(f"objective=reconstruction needs a model that decodes; {type(model).__name__} does not")

    def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
        """Compute the losses of a batch; see `Objective`."""
        assert isinstance(model, Decoder)
        latents = model.encode(batch.fragments)
        decoded = decoded_like(model, latents, batch.fragments)
        loss, parts = self.cost(decoded, batch.fragments, latents)
        found = {"loss": loss, **parts, "psnr": mean_psnr(decoded, batch.fragments)}
        return {name: found[name] for name in self.parts}


class ReconstructionLoss:
    """Weighted sum of the reconstruction error, a perceptual distance and the variance of the latents.

    Args:
        error: ``mse``, the squared difference of values in [0, 1], ``l1``, the absolute difference, or weights of
            these, such as ``{mse: 0.5, l1: 0.5}``.
        reduction: reduction of the error: ``mean`` over all values, or ``sum`` over those of an image.
        perceptual: weight of `fragrecon.objectives.perceptual.Perceptual`; 0 leaves it out.
        perceptual_network: network that computes it.
        bottleneck: weight of `latent_variance`; 0 leaves it out.

    Attributes:
        parts: names of the terms, ``error`` first.

    Raises:
        ConfigError: the error is unknown, or the perceptual network is not available.
    """

    def __init__(
        self,
        error: str | Mapping[str, float],
        reduction: Reduction,
        perceptual: float,
        perceptual_network: Network,
        bottleneck: float,
    ) -> None:
        self.error, self.reduction = error_weights(error), reduction
        weights = {"perceptual": perceptual, "bottleneck": bottleneck}
        self.weights = {name: weight for name, weight in weights.items() if weight}
        self.parts = ("error", *self.weights)
        self.perceptual = Perceptual(perceptual_network) if perceptual else None

    def __call__(self, decoded: Tensor, images: Tensor, latents: Tensor) -> tuple[Tensor, Losses]:
        """Compute the loss of decoded images.

        Args:
            decoded: (..., C, h, w), float32.
            images: the originals, (..., C, h, w) in [0, 1].
            latents: the decoded latents, (..., D).

        Returns:
            The loss, and its unweighted terms, without gradient.
        """
        found = {"error": reconstruction_error(decoded, images, self.error, self.reduction)}
        if self.perceptual:
            found["perceptual"] = self.perceptual(decoded.flatten(0, -4), images.flatten(0, -4))
        if "bottleneck" in self.weights:
            found["bottleneck"] = latent_variance(latents)
        total = found["error"]
        for name, weight in self.weights.items():
            total = total + weight * found[name]
        return total, {name: value.detach() for name, value in found.items()}


def error_weights(error: str | Mapping[str, float]) -> dict[str, float]:
    """Resolve the setting ``objective.error`` to weights of `ERRORS`.

    Args:
        error: a name, or weights by name.

    Returns:
        Weights by name.

    Raises:
        ConfigError: a name is unknown, a weight is not positive, or there are no weights.

    Example:
        >>> error_weights("l1"), error_weights({"mse": 0.5, "l1": 0.5})
        ({'l1': 1.0}, {'mse': 0.5, 'l1': 0.5})
    """
    weights = dict(error) if isinstance(error, Mapping) else {error: 1.0}
    for name, weight in weights.items():
        if name not in ERRORS:
            raise ConfigError(f"objective.error='{name}' is not known{nearest(str(name), ERRORS)}")
        if not 0 < weight < math.inf:
            raise ConfigError(f"objective.error.{name}={weight} should be a number above 0")
    if not weights:
        raise ConfigError("objective.error={} names no error; use a name, such as mse, or weights by name")
    return weights


def decoded_like(model: Decoder, latents: Tensor, images: Tensor) -> Tensor:
    """Decode latents to the size of the original images.

    Args:
        model: the model.
        latents: (..., D).
        images: (..., C, h, w).

    Returns:
        Decoded images (..., C, h, w), float32.
    """
    height, width = images.shape[-2:]
    return model.decode(latents, (height, width)).float()


def reconstruction_error(decoded: Tensor, images: Tensor, error: str | Mapping[str, float], reduction: str) -> Tensor:
    """Error of decoded images.

    Args:
        decoded: (..., C, h, w).
        images: the originals, (..., C, h, w).
        error: a name in `ERRORS`, or weights by name.
        reduction: ``mean`` over all values, or ``sum`` over those of an image, averaged over images.

    Returns:
        A scalar.

    Example:
        >>> decoded, images = torch.full((5, 3, 2, 2), 0.5), torch.zeros(5, 3, 2, 2)
        >>> reconstruction_error(decoded, images, "mse", "mean"), reconstruction_error(decoded, images, "mse", "sum")
        (tensor(0.2500), tensor(3.))
    """
    means = [weight * ERRORS[name](decoded, images) for name, weight in error_weights(error).items()]
    mean: Tensor = torch.stack(means).sum() if len(means) > 1 else means[0]
    return mean * math.prod(images.shape[-3:]) if reduction == "sum" else mean


def latent_variance(latents: Tensor) -> Tensor:
    """Variance of latents over a batch, averaged over their dimensions.

    As a loss it keeps latents close together, so that they carry less information. The decoder can undo this by scaling
    them up, unless weight decay prevents it.

    Args:
        latents: (..., D).

    Returns:
        A scalar; 0 for a single image.

    Example:
        >>> latent_variance(torch.tensor([[0.0, 5], [2, 5]]))
        tensor(1.)
    """
    rows = latents.float().flatten(0, -2)
    return rows.var(0, correction=min(1, len(rows) - 1)).mean()


@torch.no_grad()
def mean_psnr(decoded: Tensor, images: Tensor) -> Tensor:
    """Mean `psnr` of decoded images, clamped to [0, 1].

    Args:
        decoded: (..., C, h, w).
        images: the originals, (..., C, h, w) in [0, 1].

    Returns:
        A scalar in dB.

    Example:
        >>> mean_psnr(torch.full((5, 3, 2, 2), 0.1), torch.zeros(5, 3, 2, 2))
        tensor(20.)
    """
    return psnr((decoded.clamp(0, 1) - images).square().mean((-3, -2, -1))).mean()


def psnr(errors: Tensor) -> Tensor:
    """Peak signal-to-noise ratio, at most `BEST_PSNR`.

    Args:
        errors: mean squared errors of pixels in [0, 1], of any shape.

    Returns:
        Ratios in dB, of the same shape.

    Example:
        >>> psnr(torch.tensor([0.1, 0.01, 0.0]))
        tensor([ 10.,  20., 100.])
    """
    return (-10 * torch.log10(errors)).clamp(max=BEST_PSNR)
