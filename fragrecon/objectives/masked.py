"""Filling in masked patches."""

from __future__ import annotations

import torch
from torch import Tensor

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel, Inpainter
from fragrecon.objectives.base import Losses, Objective


class Masked(Objective):
    """Mean squared error on the masked patches alone, of pixels in 0..1.

    Args:
        ratio: share of the patches that are masked.
        noise: standard deviation of noise that is added to what the model sees.
        normalize: whether the targets are the patches' pixels brought to mean 0 and variance 1, patch by patch.
    """

    def __init__(self, ratio: float = 0.85, noise: float = 0.0, normalize: bool = False) -> None:
        super().__init__()
        if not 0 < ratio < 1:
            raise ConfigError(f"objective.ratio={ratio} should lie between 0 and 1")
        if noise < 0:
            raise ConfigError(f"objective.noise={noise} should not be negative")
        self.ratio, self.noise, self.normalize = ratio, noise, normalize

    def check(self, model: FragmentModel) -> None:
        if not isinstance(model, Inpainter):
            raise ConfigError(
                "objective=masked needs a model that fills in patches, such as model=mae; "
                f"{type(model).__name__} does not"
            )

    def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
        assert isinstance(model, Inpainter)
        images = batch.fragments.flatten(0, 1)
        mask = draw_mask(len(images), model.patches.count, self.ratio, generator)
        targets = model.patches.of(images)
        if self.normalize:
            targets = normalized(targets)
        seen = images
        if self.noise:
            seen = images + self.noise * torch.randn(images.shape, generator=generator, device=images.device)
        return {"loss": masked_error(model.predict(seen, mask).float(), targets, mask)}


def masked_error(predicted: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of patches (M, P, values) where mask (M, P)."""
    return (predicted - targets).square().mean(-1)[mask].mean()


def normalized(patches: Tensor, eps: float = 1e-6) -> Tensor:
    """Patches (..., values) with mean 0 and variance 1 each, as He et al. (2022) have it."""
    variance, mean = torch.var_mean(patches, -1, keepdim=True)
    return (patches - mean) / (variance + eps).sqrt()


def draw_mask(images: int, patches: int, ratio: float, generator: torch.Generator) -> Tensor:
    """A random `mask_of` images (M, P)."""
    return mask_of(torch.rand(images, patches, generator=generator, device=generator.device), ratio)


def mask_of(draws: Tensor, ratio: float) -> Tensor:
    """Which patches are hidden, (M, P), by a random number each: equally many of each image, at least one, never all.

    54 of 64 for a ratio of 0.85.
    """
    patches = draws.shape[1]
    hidden = min(max(round(ratio * patches), 1), patches - 1)
    return draws.argsort(1).argsort(1) < hidden
