"""Prediction of masked patches."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel, Inpainter, Unmixer
from fragrecon.objectives.base import Losses, Objective, Weight
from fragrecon.objectives.contrastive import supervised_contrastive
from fragrecon.objectives.mixing import contrast_accuracy, draw_sources, hidden_from, mixed


class Masked(Objective):
    """Mean squared error on the masked patches only, of pixels in [0, 1].

    Args:
        ratio: share of the patches that are masked.
        noise: standard deviation of the Gaussian noise added to the model's input.
        normalize: whether each target patch is normalised to mean 0 and variance 1.
        mix: number of images per mixed image: each patch comes from one of them, and the model predicts the others.
            Replaces ``ratio``. If None, images are masked.
        homologous: weight of the contrastive loss between the patches of a mixed image; the label of a patch is its
            source image.
        temperature: temperature of the contrastive loss.

    Raises:
        ConfigError: ``homologous`` has a weight, but no images are mixed.
    """

    def __init__(
        self,
        ratio: Annotated[float, Field(gt=0, lt=1)] = 0.85,
        noise: NonNegativeFloat = 0.0,
        normalize: bool = False,
        mix: Annotated[int, Field(ge=2)] | None = None,
        homologous: Weight = 0.0,
        temperature: PositiveFloat = 0.25,
    ) -> None:
        super().__init__()
        if homologous and mix is None:
            raise ConfigError(f"objective.homologous={homologous} needs mixed images, such as objective.mix=4")
        self.ratio, self.noise, self.normalize = ratio, noise, normalize
        self.mix, self.homologous, self.temperature = mix, homologous, temperature
        if mix:
            self.parts = ("loss", "error", "contrast", "contrast_accuracy")

    def check(self, model: FragmentModel) -> None:
        """Check that a model predicts masked patches, and that its images can be mixed."""
        if not isinstance(model, Inpainter):
            raise ConfigError(
                "objective=masked needs a model that predicts masked patches, such as model=mae; "
                f"{type(model).__name__} does not"
            )
        if self.mix is None:
            return
        if not isinstance(model, Unmixer):
            raise ConfigError(
                f"objective.mix={self.mix} needs a model with a separate encoder and decoder, such as model=mae; "
                f"{type(model).__name__} has none"
            )
        patches = model.patches.count
        # The contrastive loss needs at least two patches of each image.
        fitting = [str(n) for n in range(2, patches // 2 + 1) if patches % n == 0]
        if str(self.mix) not in fitting:
            raise ConfigError(
                f"objective.mix={self.mix} must divide the {patches} patches into shares of at least 2; "
                + (f"use {', '.join(fitting)}" if fitting else "use smaller patches (model.patch)")
            )

    def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
        """Compute the losses of a batch; see `Objective`."""
        assert isinstance(model, Inpainter)
        images = batch.fragments.flatten(0, 1)
        if self.mix:
            assert isinstance(model, Unmixer)
            return self._mixed(model, images, self.mix, generator)
        mask = draw_mask(len(images), model.patches.count, self.ratio, generator)
        predicted = model.predict(self._noisy(images, generator), mask)
        return {"loss": masked_error(predicted.float(), self._targets(model.patches.cut(images)), mask)}

    def _mixed(self, model: Unmixer, images: Tensor, mix: int, generator: torch.Generator) -> Losses:
        """Compute the losses of images (M, C, h, w) in groups of ``mix``; images that fill no group are dropped."""
        groups = len(images) // mix
        if not groups:
            raise ConfigError(
                f"objective.mix={mix} needs at least {mix} images per batch, but a batch has {len(images)}; set "
                "data.puzzles_per_batch higher, or evaluation.validation_puzzles to a multiple of it"
            )
        images = images[: groups * mix]
        sources = draw_sources(groups, model.patches.count, mix, generator)
        mask = hidden_from(sources, mix)
        noisy = model.patches.cut(self._noisy(images, generator)).view(*mask.shape, -1)
        unmixed = model.unmix(model.patches.join(mixed(noisy, sources)), mask)
        targets = self._targets(model.patches.cut(images)).view(*mask.shape, -1)
        error = masked_error(unmixed.patches.float(), targets, mask)
        tokens = F.normalize(unmixed.tokens.float(), dim=-1)
        contrast = supervised_contrastive(tokens, sources, self.temperature)
        return {
            "loss": error + self.homologous * contrast,
            "error": error.detach(),
            "contrast": contrast.detach(),
            "contrast_accuracy": contrast_accuracy(tokens, sources),
        }

    def _noisy(self, images: Tensor, generator: torch.Generator) -> Tensor:
        if not self.noise:
            return images
        return images + self.noise * torch.randn(images.shape, generator=generator, device=images.device)

    def _targets(self, patches: Tensor) -> Tensor:
        return normalized(patches) if self.normalize else patches


def masked_error(predicted: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of the masked patches.

    Args:
        predicted: (..., P, values).
        targets: (..., P, values).
        mask: True for masked patches, (..., P) bool.

    Returns:
        A scalar.

    Example:
        >>> predicted, targets = torch.tensor([[[1.0, 1], [5, 5]]]), torch.zeros(1, 2, 2)
        >>> masked_error(predicted, targets, torch.tensor([[True, False]]))
        tensor(1.)
    """
    return (predicted - targets).square().mean(-1)[mask].mean()


def normalized(patches: Tensor, eps: float = 1e-6) -> Tensor:
    """Normalise each patch to mean 0 and variance 1.

    Source: the targets of He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022.

    Args:
        patches: (..., values).
        eps: added to the variance.

    Returns:
        Patches (..., values).

    Example:
        >>> normalized(torch.tensor([1.0, 2, 3]))
        tensor([-1.0000,  0.0000,  1.0000])
    """
    variance, mean = torch.var_mean(patches, -1, keepdim=True)
    return (patches - mean) / (variance + eps).sqrt()


def draw_mask(images: int, patches: int, ratio: float, generator: torch.Generator) -> Tensor:
    """Draw a random mask for each image; see `mask_of`.

    Args:
        images: number of images, M.
        patches: number of patches per image, P.
        ratio: share of masked patches.
        generator: source of random numbers.

    Returns:
        True for masked patches, (M, P) bool.

    Example:
        >>> draw_mask(2, 64, 0.85, torch.Generator().manual_seed(0)).sum(1)
        tensor([54, 54])
    """
    return mask_of(torch.rand(images, patches, generator=generator, device=generator.device), ratio)


def mask_of(draws: Tensor, ratio: float) -> Tensor:
    """Mask the patches with the smallest random numbers: the same number in each image, at least one and never all.

    Args:
        draws: one random number per patch, (M, P).
        ratio: share of masked patches.

    Returns:
        True for masked patches, (M, P) bool.

    Example:
        >>> mask_of(torch.tensor([[0.7, 0.1, 0.4, 0.9]]), 0.5)
        tensor([[False,  True,  True, False]])
    """
    patches = draws.shape[1]
    masked = min(max(round(ratio * patches), 1), patches - 1)
    return draws.argsort(1).argsort(1) < masked
