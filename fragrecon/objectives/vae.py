"""The evidence lower bound of a variational autoencoder, with a weight on its divergence."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel, Posterior, Variational
from fragrecon.objectives.base import Losses, Objective
from fragrecon.objectives.reconstruction import Costs, decoded_like, mean_psnr


class VAE(Objective):
    """Reconstruction from one sample of each fragment's posterior, and its divergence from the standard normal.

    Kingma and Welling, 2014, eq. 10, with the divergence weighted as by Higgins et al., 2017. With ``error=mse`` and
    ``reduction=sum`` that is the bound, up to constants, of pixels with a variance of ``kl_weight / 2``. ``psnr``
    is that of the samples; the embedding, which is the mean, reconstructs better.

    Args:
        error: of `fragrecon.objectives.reconstruction.Costs`, as are ``perceptual``, ``perceptual_network`` and
            ``bottleneck``, which charges for the means.
        reduction: ``sum`` over the values of an image, or ``mean``.
        kl_weight: of the divergence in nats, summed over latents and averaged over fragments.
        warmup: training batches over which this weight rises from 0; validation takes the whole of it.
    """

    def __init__(
        self,
        error: str | Mapping[str, float] = "mse",
        reduction: str = "sum",
        kl_weight: float = 0.1,
        warmup: int = 0,
        perceptual: float = 0.0,
        perceptual_network: str = "features",
        bottleneck: float = 0.0,
    ) -> None:
        super().__init__()
        self.costs = Costs(error, reduction, perceptual, perceptual_network, bottleneck)
        if kl_weight < 0:
            raise ConfigError(f"objective.kl_weight={kl_weight} should not be negative")
        if warmup < 0:
            raise ConfigError(f"objective.warmup={warmup} batches should not be negative")
        self.kl_weight, self.warmup = kl_weight, warmup
        self.parts = ("loss", *self.costs.parts, "kl", "psnr")

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
        made = decoded_like(model, posterior.sample(generator), images)
        cost, parts = self.costs(made, images, posterior.mean)
        divergence = kl_to_standard_normal(posterior).mean()
        weight = self.kl_weight * (rise(batch.step, self.warmup) if model.training else 1)
        return {
            "loss": cost + weight * divergence,
            **parts,
            "kl": divergence.detach(),
            "psnr": mean_psnr(made, images),
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
