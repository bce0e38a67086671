from __future__ import annotations

import math
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fragrecon.errors import ConfigError
from fragrecon.objectives.base import Objective
from fragrecon.objectives.perceptual import Perceptual, distance
from fragrecon.objectives.reconstruction import Reconstruction
from fragrecon.objectives.vae import VAE
from tests import layouts
from tests.descent import descend
from tests.objectives.test_objectives import autoencoder, batch, losses, vae


@pytest.fixture(scope="module")
def perceptual() -> Perceptual:
    return Perceptual("features")


def pictures(count: int = 4, channels: int = 3, side: int = 32) -> Tensor:
    return torch.from_numpy(layouts.block(count, (channels, side, side), 2, seed=0).images) / 255


def test_the_distance_is_that_of_directions_place_by_place() -> None:
    random = torch.Generator().manual_seed(0)
    one, other = (torch.randn(2, 3, 2, 4, generator=random) for _ in range(2))
    total = 0.0
    for image in range(2):
        for row in range(2):
            for column in range(4):
                a, b = one[image, :, row, column].tolist(), other[image, :, row, column].tolist()
                total += sum((x / math.hypot(*a) - y / math.hypot(*b)) ** 2 for x, y in zip(a, b, strict=True))
    assert float(distance(one, other)) == pytest.approx(total / 16, rel=1e-5)
    assert float(distance(one, 7 * one)) == pytest.approx(0, abs=1e-10)
    assert float(distance(one, -one)) == pytest.approx(4, rel=1e-6)
    assert float(distance(one, torch.zeros_like(one))) == pytest.approx(1, rel=1e-6)


def test_it_is_the_mean_over_the_stages_of_a_network(perceptual: Perceptual) -> None:
    images = pictures(2, side=64)
    seen = zip(*(perceptual.network.stages(each) for each in (images.flip(0), images)), strict=True)
    distances = [float(distance(*stage)) for stage in seen]
    assert len(distances) == 5
    assert float(perceptual(images.flip(0), images)) == pytest.approx(sum(distances) / 5, rel=1e-6)


def test_the_same_images_are_at_no_distance_and_worse_ones_further_away(perceptual: Perceptual) -> None:
    images = pictures()
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    assert float(perceptual(images, images)) == 0
    found = [float(perceptual((images + strength * noise).clamp(0, 1), images)) for strength in (0.02, 0.1, 0.5)]
    assert 0.005 < found[0] < found[1] < found[2] < 2


def test_of_images_as_far_in_pixels_a_blurred_one_is_further_than_a_brighter_one(perceptual: Perceptual) -> None:
    """What a mean squared error does not tell."""
    images = pictures(8, side=64)
    smooth = F.avg_pool2d(F.pad(images, (3, 3, 3, 3), mode="replicate"), 7, stride=1)
    offset = float((smooth - images).square().mean().sqrt())
    brighter = images + offset
    assert float((brighter - images).square().mean()) == pytest.approx(offset**2, rel=1e-4)
    assert float(perceptual(smooth, images)) > 2 * float(perceptual(brighter, images))


def test_grey_images_count_as_images_without_colour(perceptual: Perceptual) -> None:
    grey = pictures(channels=1)
    other = (grey * 0.5).flip(3)
    expected = perceptual(*(each.repeat(1, 3, 1, 1) for each in (other, grey)))
    assert float(perceptual(other, grey)) == pytest.approx(float(expected), rel=1e-6) != 0


def test_images_become_like_others_by_its_gradient(perceptual: Perceptual) -> None:
    images = pictures(2)
    made = torch.full_like(images, 0.5, requires_grad=True)
    found = descend([made], lambda: perceptual(made, images), 12, 0.05)
    assert found[-1] < 0.7 * found[0]
    assert not [value for value in perceptual.network.parameters() if value.grad is not None]


def test_what_validation_has_moved_can_still_serve_training() -> None:
    mover = Perceptual("features")
    elsewhere = torch.empty(1, 3, 64, 64, device="meta")
    with torch.inference_mode():
        mover(elsewhere, elsewhere)
    weights = list(mover.network.parameters())
    assert {weight.device.type for weight in weights} == {"meta"}
    assert not [weight for weight in weights if weight.is_inference()]


# In objectives --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", [Reconstruction(perceptual=0.3), VAE(perceptual=0.3)], ids=["plain", "vae"])
def test_the_network_is_no_part_of_the_objective(objective: Objective) -> None:
    assert not list(objective.parameters())
    assert not objective.state_dict()
    model = (vae() if isinstance(objective, VAE) else autoencoder()).eval()
    objective.train()
    found = [losses(objective, model, batch(), seed) for seed in (1, 1)]
    assert found[0]["perceptual"] == found[1]["perceptual"] > 0.01
    without = type(objective)()
    again = losses(without, model, batch(), seed=1)
    assert found[0]["loss"] == pytest.approx(again["loss"] + 0.3 * found[0]["perceptual"], rel=1e-5)
    assert "perceptual" not in again


def test_a_network_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ConfigError, match=r"fragrecon\[features\]"):
        Reconstruction(perceptual=1.0)
    Reconstruction(perceptual=0.0)
