"""The evidence lower bound of a variational autoencoder, with a weight on its divergence."""

from __future__ import annotations

import torch
from torch import Tensor

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel, Posterior, Variational
from fragrecon.objectives.base import Losses, Objective
from fragrecon.objectives.reconstruction import check_error, mean_psnr, reconstruction_error


class VAE(Objective):
    """Reconstruction from one sample of each fragment's posterior, and its divergence from the standard normal.

    Kingma and Welling, 2014, eq. 10, with the divergence weighted as by Higgins et al., 2017. With ``error=mse`` and
    ``reduction=sum`` that is the bound, up to constants, of pixels with a variance of ``kl_weight / 2``. ``psnr``
    is that of the samples; the embedding, which is the mean, reconstructs better.

    Args:
        error: ``mse`` or ``l1``, as in `fragrecon.objectives.reconstruction.Reconstruction`.
        reduction: ``sum`` over the values of an image, or ``mean``.
        kl_weight: of the divergence in nats, summed over latents and averaged over fragments.
        warmup: training batches over which this weight rises from 0; validation takes the whole of it.
    """

    parts = ("loss", "error", "kl", "psnr")

    def __init__(self, error: str = "mse", reduction: str = "sum", kl_weight: float = 0.1, warmup: int = 0) -> None:
        super().__init__()
        check_error(error, reduction)
        if kl_weight < 0:
            raise ConfigError(f"objective.kl_weight={kl_weight} should not be negative")
        if warmup < 0:
            raise ConfigError(f"objective.warmup={warmup} batches should not be negative")
        self.error, self.reduction, self.kl_weight, self.warmup = error, reduction, kl_weight, warmup

    def check(self, model: FragmentModel) -> None:
        if not isinstance(model, Variational):
            raise ConfigError(
                "objective=vae needs a model that tells means and variances, such as model=vae or model=resnet_vae; "
                f"{type(model).__name__} does not"
            )

    def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
        assert isinstance(model, Variational)
        images = batch.fragments.flatten(0, 1)
        posterior = model.posterior(images)
        decoded = model.decode(posterior.sample(generator)).float()
        error = reconstruction_error(decoded, images, self.error, self.reduction)
        divergence = kl_to_standard_normal(posterior).mean()
        weight = self.kl_weight * (rise(batch.step, self.warmup) if model.training else 1)
        return {
            "loss": error + weight * divergence,
            "error": error.detach(),
            "kl": divergence.detach(),
            "psnr": mean_psnr(decoded, images),
        }


def kl_to_standard_normal(posterior: Posterior) -> Tensor:
    """Kullback-Leibler divergences (...) in nats of distributions (..., D) from the standard normal.

    Kingma and Welling, 2014, appendix B.
    """
    mean, log_variance = posterior.mean, posterior.log_variance
    return (mean.square() + log_variance.expm1() - log_variance).sum(-1) / 2


def rise(step: int, steps: int) -> float:
    """A line from 0 at the first step, which is number 0, to 1 after so many, and on at 1."""
    return min(1.0, step / steps) if steps else 1.0
