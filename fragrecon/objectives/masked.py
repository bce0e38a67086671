"""Filling in masked patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel, Inpainter, Unmixer
from fragrecon.objectives.base import Losses, Objective
from fragrecon.objectives.contrastive import supervised_contrastive
from fragrecon.objectives.mixing import draw_sources, hidden_from, mixed, recognized


class Masked(Objective):
    """Mean squared error on the masked patches alone, of pixels in 0..1.

    Args:
        ratio: share of the patches that are masked.
        noise: standard deviation of noise that is added to what the model sees.
        normalize: whether the targets are the patches' pixels brought to mean 0 and variance 1, patch by patch.
        mix: how many images are seen mixed; each is hidden where the mix shows another, which takes the place of
            ``ratio``.
        homologous: weight of the contrast between the patches of a mix, which are alike if they are of one image.
        temperature: of that contrast.
    """

    def __init__(
        self,
        ratio: float = 0.85,
        noise: float = 0.0,
        normalize: bool = False,
        mix: int | None = None,
        homologous: float = 0.0,
        temperature: float = 0.25,
    ) -> None:
        super().__init__()
        if not 0 < ratio < 1:
            raise ConfigError(f"objective.ratio={ratio} should lie between 0 and 1")
        if noise < 0:
            raise ConfigError(f"objective.noise={noise} should not be negative")
        if mix is not None and not (isinstance(mix, int) and mix > 1):
            raise ConfigError(f"objective.mix={mix} should be a number of images, at least 2, or null for none")
        if homologous < 0:
            raise ConfigError(f"objective.homologous={homologous} should not be negative")
        if homologous and mix is None:
            raise ConfigError(f"objective.homologous={homologous} needs images that are mixed, such as objective.mix=4")
        if temperature <= 0:
            raise ConfigError(f"objective.temperature={temperature} should be above 0")
        self.ratio, self.noise, self.normalize = ratio, noise, normalize
        self.mix, self.homologous, self.temperature = mix, homologous, temperature
        if mix:
            self.parts = ("loss", "error", "contrast", "recognition")

    def check(self, model: FragmentModel) -> None:
        if not isinstance(model, Inpainter):
            raise ConfigError(
                "objective=masked needs a model that fills in patches, such as model=mae; "
                f"{type(model).__name__} does not"
            )
        if self.mix is None:
            return
        if not isinstance(model, Unmixer):
            raise ConfigError(
                f"objective.mix={self.mix} needs a model with an encoder apart from its decoder, such as model=mae; "
                f"{type(model).__name__} has none"
            )
        patches = model.patches.count
        # A patch without another of its image would have nothing to be recognised by.
        fitting = [str(n) for n in range(2, patches // 2 + 1) if patches % n == 0]
        if str(self.mix) not in fitting:
            raise ConfigError(
                f"objective.mix={self.mix} images cannot share the {patches} patches of one equally, two or more each; "
                + (f"it may be {', '.join(fitting)}" if fitting else "smaller patches can be shared (model.patch)")
            )

    def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
        assert isinstance(model, Inpainter)
        images = batch.fragments.flatten(0, 1)
        if self.mix:
            assert isinstance(model, Unmixer)
            return self._mixed(model, images, self.mix, generator)
        mask = draw_mask(len(images), model.patches.count, self.ratio, generator)
        predicted = model.predict(self._seen(images, generator), mask)
        return {"loss": masked_error(predicted.float(), self._targets(model.patches.cut(images)), mask)}

    def _mixed(self, model: Unmixer, images: Tensor, mix: int, generator: torch.Generator) -> Losses:
        """Of images in groups of ``mix`` as they come; those that make no whole group are left out."""
        groups = len(images) // mix
        if not groups:
            raise ConfigError(
                f"objective.mix={mix} needs as many images in every batch, but one has {len(images)}; set "
                "data.puzzles_per_batch higher, or evaluation.validation_puzzles to a multiple of it"
            )
        images = images[: groups * mix]
        sources = draw_sources(groups, model.patches.count, mix, generator)
        mask = hidden_from(sources, mix)
        seen = model.patches.cut(self._seen(images, generator)).view(*mask.shape, -1)
        unmixed = model.unmix(model.patches.join(mixed(seen, sources)), mask)
        targets = self._targets(model.patches.cut(images)).view(*mask.shape, -1)
        error = masked_error(unmixed.patches.float(), targets, mask)
        tokens = F.normalize(unmixed.tokens.float(), dim=-1)
        contrast = supervised_contrastive(tokens, sources, self.temperature)
        return {
            "loss": error + self.homologous * contrast,
            "error": error.detach(),
            "contrast": contrast.detach(),
            "recognition": recognized(tokens, sources),
        }

    def _seen(self, images: Tensor, generator: torch.Generator) -> Tensor:
        if not self.noise:
            return images
        return images + self.noise * torch.randn(images.shape, generator=generator, device=images.device)

    def _targets(self, patches: Tensor) -> Tensor:
        return normalized(patches) if self.normalize else patches


def masked_error(predicted: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of patches (..., P, values) where mask (..., P)."""
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
