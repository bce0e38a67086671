"""Reconstruction of fragments from their embeddings.

Shapes: images (..., C, h, w) in 0..1.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError, nearest
from fragrecon.models.base import Decoder, FragmentModel
from fragrecon.objectives.base import Losses, Objective

ERRORS = {"mse": F.mse_loss, "l1": F.l1_loss}
"""Means over all values, by name."""

REDUCTIONS = ("mean", "sum")

BEST_PSNR = 100.0
"""Of an error too small to tell, in dB."""


class Reconstruction(Objective):
    """The error between fragments and what is decoded from their embeddings; ``psnr`` is reported beside it.

    Args:
        error: ``mse``, the squared difference of values in 0..1, or ``l1``, the absolute one.
        reduction: ``mean`` of all values, or ``sum`` over those of an image.
    """

    parts = ("loss", "psnr")

    def __init__(self, error: str = "mse", reduction: str = "mean") -> None:
        super().__init__()
        check_error(error, reduction)
        self.error, self.reduction = error, reduction

    def check(self, model: FragmentModel) -> None:
        if not isinstance(model, Decoder):
            raise ConfigError(f"objective=reconstruction needs a model that decodes; {type(model).__name__} does not")

    def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
        assert isinstance(model, Decoder)
        decoded = model.decode(model.encode(batch.fragments)).float()
        return {
            "loss": reconstruction_error(decoded, batch.fragments, self.error, self.reduction),
            "psnr": mean_psnr(decoded, batch.fragments),
        }


def check_error(error: str, reduction: str) -> None:
    """Refuse what `reconstruction_error` does not know; raises `ConfigError`."""
    for key, value, valid in (("error", error, ERRORS), ("reduction", reduction, REDUCTIONS)):
        if value not in valid:
            raise ConfigError(f"objective.{key}='{value}' is not known{nearest(value, valid)}")


def reconstruction_error(decoded: Tensor, images: Tensor, error: str, reduction: str) -> Tensor:
    """How far decoded images are from the originals, averaged over values, or summed over those of an image and
    averaged over images: a scalar.
    """
    mean: Tensor = ERRORS[error](decoded, images)
    return mean * math.prod(images.shape[-3:]) if reduction == "sum" else mean


@torch.no_grad()
def mean_psnr(decoded: Tensor, images: Tensor) -> Tensor:
    """The `psnr` of each decoded image, brought into 0..1, averaged over images: a scalar."""
    return psnr((decoded.clamp(0, 1) - images).square().mean((-3, -2, -1))).mean()


def psnr(errors: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of mean squared errors of pixels in 0..1, at most `BEST_PSNR`."""
    return (-10 * torch.log10(errors)).clamp(max=BEST_PSNR)
