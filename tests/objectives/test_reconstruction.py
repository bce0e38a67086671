from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from fragrecon.objectives.reconstruction import (
    BEST_PSNR,
    Reconstruction,
    Reduction,
    latent_variance,
    mean_psnr,
    psnr,
    reconstruction_error,
)
from tests.descent import descend
from tests.objectives.test_objectives import Fixed, autoencoder, batch, losses


def decoded_like(fragments: Tensor) -> Tensor:
    return torch.rand(fragments.shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("error", ["mse", "l1"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reconstruction_is_the_error_of_each_value(error: str, reduction: Reduction) -> None:
    puzzles = batch(puzzles=2, images=2, cells=2, size=2)
    decoded = decoded_like(puzzles.fragments)
    totals = []
    for found, wanted in zip(decoded.flatten(0, 1), puzzles.fragments.flatten(0, 1), strict=True):
        pairs = zip(found.flatten().tolist(), wanted.flatten().tolist(), strict=True)
        totals.append(sum(abs(a - b) if error == "l1" else (a - b) ** 2 for a, b in pairs))
    expected = sum(totals) / len(totals) / (12 if reduction == "mean" else 1)
    found_losses = losses(Reconstruction(error, reduction), Fixed(decoded), puzzles)
    assert found_losses["loss"] == pytest.approx(expected, rel=1e-6)


def test_by_default_it_is_the_mean_squared_error_to_the_last_bit() -> None:
    puzzles = batch()
    decoded = decoded_like(puzzles.fragments)
    loss = Reconstruction()(Fixed(decoded), puzzles, torch.Generator())["loss"]
    assert torch.equal(loss, F.mse_loss(decoded, puzzles.fragments))


def test_reconstruction_of_the_very_fragments_costs_nothing() -> None:
    puzzles = batch()
    assert losses(Reconstruction(), Fixed(puzzles.fragments), puzzles) == {"loss": 0.0, "psnr": BEST_PSNR}
    assert losses(Reconstruction(), Fixed(puzzles.fragments + 0.5), puzzles)["loss"] == pytest.approx(0.25, rel=1e-6)


def test_reconstruction_decodes_what_the_model_encodes() -> None:
    model, puzzles = autoencoder().eval(), batch()
    decoded = model.decode(model.encode(puzzles.fragments))  # type: ignore[operator]
    expected = (decoded - puzzles.fragments).square().mean().item()
    assert losses(Reconstruction(), model, puzzles)["loss"] == pytest.approx(expected, rel=1e-6)


def test_psnr_is_that_of_each_image_and_then_averaged() -> None:
    images = torch.rand(2, 3, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    decoded = (images + 0.3 * torch.linspace(0, 1, 6).view(2, 3, 1, 1, 1) * (decoded_like(images) - 0.5)).clamp(0, 1)
    decoded[0, 0, 0, 0, 0] += 0.01
    ratios = [
        float(peak_signal_noise_ratio(one, other, data_range=1.0))
        for one, other in zip(decoded.clamp(0, 1).flatten(0, 1), images.flatten(0, 1), strict=True)
    ]
    assert max(ratios) - min(ratios) > 10
    assert float(mean_psnr(decoded, images)) == pytest.approx(sum(ratios) / 6, rel=1e-5)


def test_psnr_is_of_what_can_be_shown() -> None:
    images = torch.ones(2, 3, 4, 4)
    images[:, :, 0] = 0
    wild = torch.where(images > 0, images + 3, images - 2)
    assert float(mean_psnr(wild, images)) == BEST_PSNR
    assert float(mean_psnr(1 - images, images)) == 0


def test_psnr_asks_for_no_gradient() -> None:
    decoded = torch.rand(2, 3, 4, 4, requires_grad=True)
    assert not mean_psnr(decoded, torch.zeros(2, 3, 4, 4)).requires_grad


@pytest.mark.parametrize(("error", "expected"), [(1.0, 0.0), (0.01, 20.0), (1e-30, BEST_PSNR), (0.0, BEST_PSNR)])
def test_psnr_in_decibels(error: float, expected: float) -> None:
    for dtype in (torch.float32, torch.float64):
        found = psnr(torch.tensor([error], dtype=dtype))
        assert found.dtype == dtype
        assert float(found) == pytest.approx(expected, abs=1e-5)


def test_a_sum_is_that_of_an_image_whatever_the_batch() -> None:
    images, decoded = torch.zeros(5, 3, 4, 2), torch.full((5, 3, 4, 2), 0.5)
    for lead in ((5,), (1, 5), (5, 1)):
        shape = (*lead, 3, 4, 2)
        total = reconstruction_error(decoded.view(shape), images.view(shape), "mse", "sum")
        assert float(total) == pytest.approx(24 * 0.25)
    assert math.isclose(float(reconstruction_error(decoded[:1], images[:1], "l1", "sum")), 12.0)


# A mix of errors, and what else is charged for ------------------------------------------------------------------------


def test_errors_are_mixed_by_their_weights() -> None:
    puzzles = batch()
    decoded = decoded_like(puzzles.fragments)
    one, other = (losses(Reconstruction(error), Fixed(decoded), puzzles)["loss"] for error in ("mse", "l1"))
    for mse, l1 in ((0.5, 0.5), (0.2, 0.8), (3, 1)):
        found = losses(Reconstruction({"l1": l1, "mse": mse}), Fixed(decoded), puzzles)
        assert found == {"loss": pytest.approx(mse * one + l1 * other, rel=1e-6), "psnr": found["psnr"]}
    total = losses(Reconstruction({"l1": 0.8, "mse": 0.2}, "sum"), Fixed(decoded), puzzles)["loss"]
    assert total == pytest.approx(48 * (0.2 * one + 0.8 * other), rel=1e-6)
    alone = Reconstruction({"mse": 1})(Fixed(decoded), puzzles, torch.Generator())["loss"]
    assert torch.equal(alone, F.mse_loss(decoded, puzzles.fragments))


def test_the_latent_variance_is_the_variance_of_each_latent_over_the_batch() -> None:
    latents = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    variances = [statistics.variance(column) for column in latents.flatten(0, 1).T.tolist()]
    assert float(latent_variance(latents)) == pytest.approx(sum(variances) / 5, rel=1e-5)
    assert float(latent_variance(latents.flatten(0, 1))) == float(latent_variance(latents))
    assert float(latent_variance(latents + 100)) == pytest.approx(float(latent_variance(latents)), rel=1e-3)
    assert float(latent_variance(2 * latents)) == pytest.approx(4 * float(latent_variance(latents)), rel=1e-5)
    assert float(latent_variance(latents[:1, :1])) == 0


def test_a_bottleneck_charges_for_the_variance_of_latents_and_shrinks_it() -> None:
    model, puzzles = autoencoder().eval(), batch()
    objective = Reconstruction(bottleneck=5.0)
    found = losses(objective, model, puzzles)
    assert tuple(found) == objective.parts == ("loss", "error", "bottleneck", "psnr")
    assert found["bottleneck"] == pytest.approx(float(latent_variance(model.encode(puzzles.fragments))), rel=1e-6)
    assert found["error"] == losses(Reconstruction(), model, puzzles)["loss"]
    assert found["loss"] == pytest.approx(found["error"] + 5 * found["bottleneck"], rel=1e-6)
    descend(model.parameters(), lambda: objective(model, puzzles, torch.Generator())["loss"], 20)
    assert losses(objective, model, puzzles)["bottleneck"] < 0.7 * found["bottleneck"]


def test_by_default_nothing_else_is_charged_for_or_told() -> None:
    assert Reconstruction().parts == ("loss", "psnr")
    assert Reconstruction(perceptual=0.0, bottleneck=0.0).parts == ("loss", "psnr")


def test_fragments_are_decoded_to_their_own_size() -> None:
    asked: list[object] = []

    class Sized(Fixed):
        def decode(self, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
            asked.append(size)
            return super().decode(latents, size)

    puzzles = replace(batch(), fragments=torch.rand(2, 6, 3, 5, 9))
    losses(Reconstruction(), Sized(puzzles.fragments), puzzles)
    assert asked == [(5, 9)]
    assert type(asked[0]) is tuple
