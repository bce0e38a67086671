from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.models.base import FragmentModel, Posterior
from fragrecon.objectives.reconstruction import Reduction
from fragrecon.objectives.vae import VAE, kl_to_standard_normal
from tests.objectives.test_objectives import batch, losses, vae


class Told(FragmentModel):
    """A variational model with a posterior that is given; decodes to the first latents."""

    def __init__(self, posterior: Posterior) -> None:
        super().__init__((3, 4, 4), posterior.mean.shape[-1])
        self.told, self.decoded = posterior, torch.empty(0)

    def embed(self, fragments: Tensor) -> Tensor:
        return self.told.mean

    def posterior(self, fragments: Tensor) -> Posterior:
        assert fragments.shape == (12, 3, 4, 4)
        return self.told

    def decode(self, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        self.decoded = latents
        return latents[:, :48].reshape(-1, 3, 4, 4)


def told(latents: int = 50, spread: float = 0.1) -> Told:
    random = torch.Generator().manual_seed(2)
    mean = torch.rand(12, latents, generator=random)
    return Told(Posterior(mean, 2 * math.log(spread) + torch.rand(12, latents, generator=random)))


def at(step: int) -> FragmentBatch:
    return replace(batch(), step=step)


def test_the_divergence_is_that_of_two_normals() -> None:
    random = torch.Generator().manual_seed(0)
    mean, deviation = torch.randn(2, 5, 7, generator=random), 3 * torch.rand(2, 5, 7, generator=random) + 0.01
    found = kl_to_standard_normal(Posterior(mean, deviation.square().log()))
    expected = kl_divergence(Normal(mean, deviation), Normal(torch.zeros(()), torch.ones(()))).sum(-1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_divergence_is_none_of_the_standard_normal_and_positive_of_others() -> None:
    assert float(kl_to_standard_normal(Posterior(torch.zeros(3), torch.zeros(3)))) == 0
    near = Posterior(torch.zeros(3), torch.full((3,), 1e-3))
    assert float(kl_to_standard_normal(near)) == pytest.approx(3 * 1e-6 / 4, rel=1e-2)
    wide = kl_to_standard_normal(Posterior(torch.zeros(2, 1), torch.tensor([[80.0], [-80.0]])))
    assert torch.isfinite(wide).all()
    assert wide.min() > 39


@pytest.mark.parametrize(("error", "reduction"), [("mse", "sum"), ("l1", "sum"), ("mse", "mean")])
def test_the_loss_is_the_error_of_a_sample_and_the_weighted_divergence(error: str, reduction: Reduction) -> None:
    model, puzzles = told().eval(), batch()
    found = losses(VAE(error, reduction, kl_weight=0.3), model, puzzles, seed=7)
    sample = model.told.sample(torch.Generator().manual_seed(7))
    assert torch.equal(model.decoded, sample)
    difference = sample[:, :48] - puzzles.fragments.reshape(12, 48)
    each = difference.abs() if error == "l1" else difference.square()
    expected = float((each.sum(1) if reduction == "sum" else each.mean(1)).mean())
    kl = float(kl_to_standard_normal(model.told).mean())
    assert found["error"] == pytest.approx(expected, rel=1e-5)
    assert found["kl"] == pytest.approx(kl, rel=1e-6)
    assert found["loss"] == pytest.approx(expected + 0.3 * kl, rel=1e-5)
    clamped = (sample[:, :48].clamp(0, 1) - puzzles.fragments.reshape(12, 48)).square().mean(1)
    assert found["psnr"] == pytest.approx(float((-10 * clamped.log10()).mean()), rel=1e-5)


def test_a_batch_is_sampled_anew_with_another_generator() -> None:
    model, puzzles, objective = vae().eval(), batch(), VAE()
    first, again, other = (losses(objective, model, puzzles, seed) for seed in (1, 1, 2))
    assert first == again
    assert first["error"] != other["error"]
    assert first["kl"] == other["kl"]


def test_the_weight_increases_in_training_and_is_whole_in_validation() -> None:
    model, objective = vae(), VAE(kl_weight=2.0, warmup=10)
    for training, step, share in (
        (True, 0, 0.0),
        (True, 3, 0.3),
        (True, 10, 1.0),
        (True, 999, 1.0),
        (False, 0, 1.0),
        (False, 3, 1.0),
    ):
        found = losses(objective, model.train(training), at(step))
        assert found["loss"] - found["error"] == pytest.approx(2 * share * found["kl"], rel=1e-3, abs=1e-5)


def test_a_bottleneck_charges_for_the_variance_of_means() -> None:
    model, puzzles = told().eval(), batch()
    objective = VAE(bottleneck=2.0, error={"mse": 0.5, "l1": 0.5})
    found = losses(objective, model, puzzles, seed=7)
    assert tuple(found) == objective.parts == ("loss", "error", "bottleneck", "kl", "psnr")
    assert found["bottleneck"] == pytest.approx(float(model.told.mean.var(0).mean()), rel=1e-5)
    one, other = (losses(VAE(error), model, puzzles, seed=7)["error"] for error in ("mse", "l1"))
    assert found["error"] == pytest.approx((one + other) / 2, rel=1e-6)
    assert found["loss"] == pytest.approx(found["error"] + 2 * found["bottleneck"] + 0.1 * found["kl"], rel=1e-6)
