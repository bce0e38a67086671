from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fragrecon.config.build import build
from fragrecon.models import factories
from fragrecon.models.base import FragmentModel
from fragrecon.run import compose

FACTORIES: dict[str, Callable[..., FragmentModel]] = {
    "conv": factories.create_conv_autoencoder,
    "linear": factories.create_linear_autoencoder,
    "pca": factories.create_pca_autoencoder,
    "supervised": factories.create_supervised_classifier,
}


def configured(name: str, *overrides: str, shape: tuple[int, int, int] = (3, 16, 16)) -> FragmentModel:
    node = compose([f"model={name}", *overrides]).model
    model = build(node, "model", fragment_shape=shape, grid=(4, 4), num_classes=1000)
    assert isinstance(model, FragmentModel)
    return model


def assert_alike(one: FragmentModel, other: FragmentModel) -> None:
    assert str(one) == str(other)  # layers and their settings, dropout among them
    shapes = [{key: value.shape for key, value in model.state_dict().items()} for model in (one, other)]
    assert shapes[0] == shapes[1]
    assert (one.fragment_shape, one.latent_dim) == (other.fragment_shape, other.latent_dim)


@pytest.mark.parametrize("name", FACTORIES)
def test_a_plain_call_makes_the_model_of_the_configuration(name: str) -> None:
    assert_alike(FACTORIES[name](), configured(name))


@pytest.mark.parametrize("name", FACTORIES)
def test_arguments_reach_the_model(name: str) -> None:
    assert_alike(
        FACTORIES[name](latent_dim=24, input_channels=1, input_size=8),
        configured(name, "model.latent_dim=24", shape=(1, 8, 8)),
    )


@pytest.mark.parametrize(
    ("name", "arguments", "override"),
    [
        ("conv", {"encoder_channels": [8, 16, 32]}, "model.encoder_channels=[8,16,32]"),
        ("supervised", {"num_classes": 5}, "+model.num_classes=5"),
    ],
)
def test_arguments_of_one_model_reach_it(name: str, arguments: dict[str, Any], override: str) -> None:
    assert_alike(FACTORIES[name](**arguments), configured(name, override))


@pytest.mark.parametrize("name", FACTORIES)
def test_the_same_seed_starts_with_the_same_weights(name: str) -> None:
    torch.manual_seed(3)
    one = FACTORIES[name]().state_dict()
    torch.manual_seed(3)
    other = configured(name).state_dict()
    assert all(torch.equal(value, other[key]) for key, value in one.items())
