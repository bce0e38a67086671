"""Networks that are wrapped as models."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fragrecon.config.build import build
from fragrecon.config.schema import class_name, model_name
from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel
from fragrecon.models.encoder import Encoder, output_size
from fragrecon.models.timm import TimmEncoder
from fragrecon.run import compose
from fragrecon.runs.modules import build_on_meta

SHAPE = (3, 16, 16)


class Pooled(nn.Module):
    """Convolution, norm and mean, as a network of the user."""

    def __init__(self, fragment_shape: tuple[int, int, int] = SHAPE, width: int = 5) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(fragment_shape[0], width, 3), nn.BatchNorm2d(width)

    def forward(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.norm(self.conv(images)).mean((2, 3))
        return pooled


def test_the_output_of_the_network_is_the_embedding() -> None:
    network = Pooled()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    model = Encoder(SHAPE, network).eval()
    assert model.latent_dim == 5
    assert network.norm.num_batches_tracked == 0
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())
    fragments = torch.rand(2, 4, *SHAPE)
    expected = torch.stack([network(puzzle) for puzzle in fragments])
    torch.testing.assert_close(model.encode(fragments), expected)


def test_a_linear_layer_gives_the_dimensions_that_are_asked_for() -> None:
    model = Encoder(SHAPE, nn.Flatten(), latent_dim=7)
    fragments = torch.rand(4, *SHAPE)
    assert model.latent_dim == 7
    assert isinstance(model.head, nn.Linear)
    torch.testing.assert_close(
        model.embed(fragments), fragments.flatten(1) @ model.head.weight.T + model.head.bias, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_probed_in_eval_mode_and_left_as_it_was(training: bool) -> None:
    network = Pooled().train(training)
    assert output_size(network, SHAPE) == 5
    assert network.training == training


@pytest.mark.parametrize("network", [nn.Conv2d(3, 4, 3), nn.Linear(5, 2), nn.Flatten(0), nn.Conv2d(1, 4, 3)])
def test_a_network_of_another_shape_is_refused(network: nn.Module) -> None:
    with pytest.raises(ConfigError, match=r"^model\.network: "):
        Encoder(SHAPE, network)


def test_the_network_of_a_config_is_built_from_its_node_also_without_weights() -> None:
    line = ["model=encoder", f"model.network._target_={__name__}.Pooled", "+model.network.width=6", "data.channels=1"]
    config = compose(line)
    assert (model_name(config.model), class_name(config)) == ("encoder", "Pooled")
    model, _ = build_on_meta(config, (4, 4))
    assert model.latent_dim == 6
    assert {weight.device.type for weight in model.parameters()} == {"meta"}
    facts = {"fragment_shape": (1, 16, 16), "grid": (4, 4), "num_classes": 3}
    assert build(config.model, "model", FragmentModel, **facts).network.conv.in_channels == 1


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_timm_that_is_not_installed_says_how_it_is() -> None:
    with pytest.raises(ConfigError, match=r'pip install "fragrecon\[timm\]"'):
        TimmEncoder(SHAPE, "resnet18")


def test_timm_that_cannot_be_imported_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is if torchvision is of another build than torch."""
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigError, match="torchvision::nms"):
        TimmEncoder(SHAPE, "resnet18")


def test_a_network_of_timm_is_an_encoder() -> None:
    timm = pytest.importorskip("timm", reason="the extra timm is not installed")
    model = TimmEncoder((1, 32, 32), "resnet10t", latent_dim=None).eval()
    assert model.latent_dim == timm.create_model("resnet10t", num_classes=0).num_features
    assert model.embed(torch.rand(2, 1, 32, 32)).shape == (2, model.latent_dim)
    with pytest.raises(ConfigError, match=r"model\.name='resnet10' .*resnet10t"):
        TimmEncoder(SHAPE, "resnet10")
