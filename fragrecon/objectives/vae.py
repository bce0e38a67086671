"""The evidence lower bound of a variational autoencoder, with a weight on its divergence."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import NonNegativeInt
from torch import Tensor

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel, Posterior, Variational
from fragrecon.objectives.base import Losses, Objective, Weight
from fragrecon.objectives.reconstruction import Network, ReconstructionLoss, Reduction, decoded_like, mean_psnr


class VAE(Objective):
    """Reconstruction from one sample of each fragment's posterior, and its divergence from the standard normal.

    Kingma and Welling, 2014, eq. 10, with a weight on the divergence as in Higgins et al., 2017. With ``error=mse`` and
    ``reduction=sum`` this is the bound, up to constants, for pixels of variance ``kl_weight / 2``. ``psnr`` is that of
    the decoded samples; the mean, which is the embedding, gives a better one.

    Args:
        error: ``mse``, ``l1`` or weights of both; see `fragrecon.objectives.reconstruction.ReconstructionLoss`.
        reduction: ``sum`` over the values of an image, or ``mean`` over all.
        kl_weight: weight of the divergence in nats, summed over dimensions and averaged over fragments.
        warmup: number of training batches over which this weight increases from 0; validation uses the full weight.
        perceptual: weight of the perceptual distance.
        perceptual_network: network that computes it.
        bottleneck: weight of the variance of the posterior means.

    Raises:
        ConfigError: the error is unknown, or the perceptual network is not available.
    """

    def __init__(
        self,
        error: str | Mapping[str, float] = "mse",
        reduction: Reduction = "sum",
        kl_weight: Weight = 0.1,
        warmup: NonNegativeInt = 0,
        perceptual: Weight = 0.0,
        perceptual_network: Network = "features",
        bottleneck: Weight = 0.0,
    ) -> None:
        super().__init__()
        self.cost = ReconstructionLoss(error, reduction, perceptual, perceptual_network, bottleneck)
        self.kl_weight, self.warmup = kl_weight, warmup
        self.parts = ("loss", *self.cost.parts, "kl", "psnr")

    def check(self, model: FragmentModel) -> None:
        """Check that a model is variational."""
        if not isinstance(model, Variational):
            raise ConfigError(
                "objective=vae needs a model that predicts means and variances, such as model=vae or model=resnet_vae; "
                f"{type(model).__name__} does not"
            )

    def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
        """Compute the losses of a batch; see `Objective`."""
        assert isinstance(model, Variational)
        images = batch.fragments.flatten(0, 1)
        posterior = model.posterior(images)
        decoded = decoded_like(model, posterior.sample(generator), images)
        cost, parts = self.cost(decoded, images, posterior.mean)
        divergence = kl_to_standard_normal(posterior).mean()
        weight = self.kl_weight * (linear_warmup(batch.step, self.warmup) if model.training else 1)
        return {
            "loss": cost + weight * divergence,
            **parts,
            "kl": divergence.detach(),
            "psnr": mean_psnr(decoded, images),
        }


def kl_to_standard_normal(posterior: Posterior) -> Tensor:
    """Kullback-Leibler divergence of normal distributions from the standard normal.

    Source: Kingma and Welling, 2014, appendix B.

    Args:
        posterior: distributions with means and log-variances (..., D).

    Returns:
        Divergences (...) in nats.

    Example:
        >>> kl_to_standard_normal(Posterior(torch.tensor([[0.0, 0], [2, 0]]), torch.zeros(2, 2)))
        tensor([0., 2.])
    """
    mean, log_variance = posterior.mean, posterior.log_variance
    return (mean.square() + log_variance.expm1() - log_variance).sum(-1) / 2


def linear_warmup(step: int, steps: int) -> float:
    """Factor that increases linearly from 0 to 1, and then stays 1.

    Args:
        step: index of the step, from 0.
        steps: number of steps of the increase.

    Returns:
        The factor.

    Example:
        >>> [linear_warmup(step, 4) for step in (0, 1, 4, 9)], linear_warmup(0, 0)
        ([0.0, 0.25, 1.0, 1.0], 1.0)
    """
    return min(1.0, step / steps) if steps else 1.0
