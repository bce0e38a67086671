"""The adaptive autoencoder: its interface, any size of image, and a decoder that knows latents and sizes alone."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from fragrecon.errors import ConfigError
from fragrecon.models.base import Decoder, Viewer, count_parameters
from fragrecon.models.cnn_v3 import (
    PRESETS,
    AdaptiveAutoencoder,
    AutoEncoder_CNNV3,
    AutoEncoderCNNV3,
    create_autoencoder,
    visualize_attention,
)
from fragrecon.models.cnn_v3.blocks import BLOCKS, Downsample, Upsample
from tests.descent import descend

SMALL: dict[str, Any] = {"block_config": ["resnet", "se"], "channel_config": [8, 12], "stride_config": [2, 2]}
SIZES = [(201, 201), (152, 1280), (1280, 152), (152, 333), (16, 16), (7, 5)]
strategies = pytest.mark.parametrize("strategy", ["conv", "spatial"])


def network(latents: int = 128, **settings: Any) -> AutoEncoderCNNV3:
    torch.manual_seed(0)
    return AutoEncoderCNNV3(latents, **(SMALL | settings)).eval()


def images(size: tuple[int, int], count: int = 2, channels: int = 1) -> Tensor:
    return torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(1))


def smooth(size: tuple[int, int]) -> Tensor:
    y, x = torch.meshgrid(*(torch.linspace(0, 3, side) for side in size), indexing="ij")
    return ((x.sin() * y.cos() + 1) / 2)[None, None]


def blocky(count: int) -> Tensor:
    return images((6, 5), count).repeat_interleave(4, 2).repeat_interleave(4, 3)


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES, ids=str)
@strategies
def test_images_of_any_size_come_back_in_it(size: tuple[int, int], strategy: str) -> None:
    made, given = network(latent_strategy=strategy, channels=3), images(size, channels=3)
    latents = made.encode(given)
    assert latents.shape == (2, 128)
    decoded = made.decode(latents, size)
    assert decoded.shape == given.shape
    assert 0 <= float(decoded.min()) <= float(decoded.max()) <= 1
    assert torch.equal(made(given), decoded)
    assert torch.equal(made.decode_from_latent(latents, size), decoded)


@torch.no_grad()
@pytest.mark.parametrize(
    "blocks", [[kind, kind] for kind in BLOCKS] + [["resnext", "inception"], ["se", "resnet"]], ids="-".join
)
def test_blocks_mix_freely(blocks: list[str]) -> None:
    made = network(block_config=blocks, use_attention=False)
    assert made(images((30, 41))).shape == (2, 1, 30, 41)


@torch.no_grad()
def test_latents_have_a_shape_of_their_own_and_a_flat_one() -> None:
    conv, spatial = network(), network(latent_strategy="spatial")
    given = images((40, 56))
    assert conv.Embedding(given).shape == (2, 128)
    own = spatial.Embedding(given)
    assert own.shape == (2, 8, 4, 4)
    assert torch.equal(spatial.encode(given), own.flatten(1))
    assert torch.equal(spatial.decode(own, (40, 56)), spatial.decode(own.flatten(1), (40, 56)))


@torch.no_grad()
def test_what_is_decoded_has_the_size_of_input_unless_another_is_asked_for() -> None:
    made = network(input_size=(48, 80))
    latents = made.encode(images((30, 30)))
    assert made.decode(latents).shape[-2:] == (48, 80)
    assert made.decode(latents, (33, 20)).shape[-2:] == (33, 20)


@strategies
def test_nothing_reaches_the_decoder_but_latents_and_size(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = network(latent_strategy=strategy)
    fresh, size = copy.deepcopy(made), (45, 61)
    one, other = images(size), 1 - images(size)
    with torch.no_grad():
        assert torch.equal(fresh.decode(made.encode(one), size), made(one))  # which has never seen an image
        assert not torch.allclose(made(one), made(other))
        latents = made.encode(one)
        monkeypatch.setattr(made, "encode", lambda x: latents)
        assert torch.equal(made(one), made(other))
    one.requires_grad_()
    decoded = fresh.decode(fresh.encode(one).detach(), size)
    (gradient,) = torch.autograd.grad(decoded.sum(), one, allow_unused=True)
    assert gradient is None


@torch.no_grad()
def test_attention_is_a_matrix_over_a_capped_grid_or_none() -> None:
    assert network(use_attention=False).get_attention_matrix(images((32, 32))) is None
    made = network()
    for size, places in (((32, 20), 8 * 5), ((152, 1280), 16 * 16)):
        matrix = made.get_attention_matrix(images(size))
        assert matrix is not None
        assert matrix.shape == (2, places, places)
        torch.testing.assert_close(matrix.sum(-1), torch.ones(2, places))


def test_saliency_is_the_gradient_of_the_error_as_differences_find_it() -> None:
    made, given = network(16, channels=3).double(), images((9, 11), 1, 3).double()
    found = made.get_attention_map(given)
    assert found.shape == (1, 1, 9, 11)
    step, differences = 1e-6, torch.zeros(9, 11)
    with torch.no_grad():
        for place in range(given.numel()):
            ahead, behind = given.clone(), given.clone()
            ahead.view(-1)[place] += step
            behind.view(-1)[place] -= step
            errors = [(made(seen) - seen).square().sum() for seen in (ahead, behind)]
            differences.view(-1)[place % 99] += abs(float(errors[0] - errors[1])) / (2 * step)
    torch.testing.assert_close(found[0, 0].float(), differences / differences.max(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_saliency_works_where_no_gradients_are_kept_and_leaves_those_of_weights(mode: Any) -> None:
    made, given = network(), images((20, 24))
    with mode():
        found = made.get_attention_map(given)
    torch.testing.assert_close(found.amax((1, 2, 3)), torch.ones(2))
    assert found.min() >= 0
    assert all(weight.grad is None for weight in made.parameters())


@strategies
def test_a_config_makes_the_same_network_again(strategy: str) -> None:
    made = network(96, latent_strategy=strategy, input_size=(33, 47), channels=3, DropOut=True)
    config = json.loads(json.dumps(made.get_config()))
    again = AutoEncoderCNNV3(**config).eval()
    again.load_state_dict(made.state_dict())
    given = images((33, 47), channels=3)
    assert torch.equal(again(given), made(given))
    assert again.get_config() == made.get_config()
    assert again.DropOut is True


def test_callers_of_version_1_find_their_names() -> None:
    assert AutoEncoder_CNNV3 is AutoEncoderCNNV3
    made = AutoEncoder_CNNV3(DropOut=0.3, embedding_dim=144, **SMALL)
    assert made.DropOut == 0.3
    assert made.Embedding(images((24, 24))).shape == (2, 144)
    assert made.latent_size == 144


@pytest.mark.parametrize(("preset", "parameters"), [("tiny", 5e5), ("small", 2e6), ("medium", 8e6), ("large", 32e6)])
def test_presets_have_about_as_many_parameters_as_they_say(preset: str, parameters: float) -> None:
    made = create_autoencoder(preset, use_attention=False)
    assert count_parameters(made) == pytest.approx(parameters, rel=0.2)
    assert made.latent_shape == (PRESETS[preset]["latent_size"],)
    spatial = create_autoencoder(preset, latent_strategy="spatial", use_attention=False)
    assert spatial.latent_shape == (PRESETS[preset]["latent_size"] // 16, 4, 4)


@pytest.mark.parametrize(("asked", "depth"), [(128, 8), (1000, 62), (500, 31), (5, 1), (8192, 512)])
def test_spatial_latents_are_as_near_to_those_asked_for_as_can_be(asked: int, depth: int) -> None:
    made = network(asked, latent_strategy="spatial")
    assert made.latent_shape == (depth, 4, 4)
    assert made.latent_size == 16 * depth
    assert AutoEncoderCNNV3(**made.get_config()).latent_shape == (depth, 4, 4)


def test_overrides_go_before_a_preset() -> None:
    made = create_autoencoder("tiny", (30, 40), latent_size=200, channels=3, use_attention=True)
    assert made.encode(images((30, 40), channels=3)).shape == (2, 200)
    assert made.input_size == (30, 40)
    assert made.attention is not None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stride_config": [2]}, "stride_config"),
        ({"block_config": []}, "stride_config"),
        ({"block_config": ["resnet", "resnets"]}, "'resnets' is not known; did you mean 'resnet'"),
        ({"channel_config": [8, 0]}, "channel_config should be at least 1"),
        ({"stride_config": [2, 0]}, "stride_config should be at least 1"),
        ({"latent_size": 0}, "latent_size should be at least 1"),
        ({"latent_strategy": "flat"}, "conv or spatial"),
        ({"input_size": [201]}, "height, width"),
        ({"input_size": 201}, "input_size=201 should be .height, width"),
        ({"block_config": ["se", "inception"], "channel_config": [8, 3]}, "channel_config.*inception.* 3"),
    ],
)
def test_what_makes_no_network_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AutoEncoderCNNV3(**(SMALL | settings))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((torch.rand(2, 64), None), r"latents should be \(B, 128\), not \(2, 64\)"),
        ((torch.rand(2, 256), None), r"latents should be \(B, 128\), not \(2, 256\)"),
        ((torch.rand(128), None), r"latents should be \(B, 128\), not \(128,\)"),
        ((torch.rand(2, 128), (0, 5)), r"size=\(0, 5\) should be \(height, width\)"),
        ((torch.rand(2, 128), 50), r"size=50 should be \(height, width\)"),
    ],
)
def test_what_cannot_be_decoded_is_refused(given: tuple[Tensor, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network().decode(*given)
    spatial = network(latent_strategy="spatial")
    with pytest.raises(ValueError, match=r"\(B, 128\) or \(B, 8, 4, 4\), not \(2, 4, 8, 4\)"):
        spatial.decode(torch.rand(2, 4, 8, 4))


@pytest.mark.parametrize(
    "given",
    [torch.rand(1, 20, 20), torch.rand(2, 3, 20, 20), torch.zeros(2, 1, 20, 20, dtype=torch.uint8)],
    ids=["no batch", "colour", "bytes"],
)
def test_what_are_no_images_is_refused(given: Tensor) -> None:
    for use in (network(), network().encode, network(use_attention=True).get_attention_matrix):
        with pytest.raises(ValueError, match=r"images should be \(B, 1, H, W\) of floats in \[0, 1\], not \("):
            use(given)


@strategies
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@torch.no_grad()
def test_weights_of_another_precision_give_images_of_it(strategy: str, dtype: torch.dtype) -> None:
    made, seen = network(latent_strategy=strategy, use_attention=True), images((40, 24))
    found = made.to(dtype)(seen.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), made.float()(seen), atol=0.05, rtol=0)


def test_an_unknown_preset_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"'smal' is not known.*small"):
        create_autoencoder("smal")


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(12, 24), (13, 22)], ids=str)
def test_stages_begin_as_means_and_as_parabolas_with_these_means(
    stride: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fragrecon.models.cnn_v3.blocks.NOISE", 0.0)
    down, up = Downsample(2, 3, stride), Upsample(3, 2, stride)
    y, x = torch.meshgrid(*(torch.arange(side) + 0.5 for side in size), indexing="ij")
    parabola = (0.3 + 0.2 * x - 0.01 * x**2 + 0.1 * y + 0.02 * y**2).expand(1, 2, -1, -1)
    small = down(parabola)
    assert small.shape[-2:] == tuple(-(-side // stride) for side in size)
    torch.testing.assert_close(small[0, 0, 0, 0], parabola[0, 0, :stride, :stride].mean())
    large = up(small)[..., : size[0], : size[1]]
    inner = (..., slice(stride, size[0] - 2 * stride), slice(stride, size[1] - 2 * stride))
    torch.testing.assert_close(large[0, 0][inner], parabola[0, 0][inner], atol=1e-4, rtol=1e-4)


@torch.no_grad()
@strategies
def test_smooth_images_come_through_before_training(strategy: str) -> None:
    torch.manual_seed(0)
    for size in ((201, 201), (152, 1280)):
        made = create_autoencoder("tiny", size, latent_strategy=strategy).eval()
        error = (made(smooth(size)) - smooth(size)).square().mean()
        assert -10 * torch.log10(error) > 22, size


@pytest.mark.parametrize("blocks", [["resnet", "resnext"], ["se", "inception"]], ids="-".join)
@strategies
def test_it_learns_to_reconstruct(strategy: str, blocks: list[str]) -> None:
    made, given = network(64, latent_strategy=strategy, block_config=blocks).train(), blocky(4)
    losses = descend(made.parameters(), lambda: (made(given) - given).square().mean(), 30, 3e-3)
    assert losses[-1] < 0.7 * losses[0]
    assert all(weight.grad is not None for weight in made.parameters())


def test_what_is_beyond_white_keeps_its_gradient_in_training_alone() -> None:
    made, given = network(), torch.full((1, 1, 16, 16), 1.5, requires_grad=True)
    assert made(given).max() <= 1
    made.train()
    (gradient,) = torch.autograd.grad(made(given).sum(), given)
    assert made(given).max() > 1
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(("size", "panels"), [((40, 40), 4), ((20, 160), 4)])
def test_attention_is_drawn(size: tuple[int, int], panels: int, tmp_path: Path) -> None:
    made, given = network(), images(size)
    figure = visualize_attention(made, given, tmp_path / "attention.png")
    assert len(figure.axes) == panels * len(given)
    with Image.open(tmp_path / "attention.png") as picture:
        assert picture.width > picture.height if size[0] == size[1] else picture.height > 100
    assert len(visualize_attention(made, given, show_heatmap=False).axes) == 6
    assert len(visualize_attention(made, given, show_matrix=False).axes) == 6
    assert len(visualize_attention(network(use_attention=False), given).axes) == 6


def adaptive(**settings: Any) -> AdaptiveAutoencoder:
    torch.manual_seed(0)
    shape = settings.pop("shape", (3, 16, 16))
    return AdaptiveAutoencoder(shape, settings.pop("latent_dim", 48), "tiny", **settings).eval()


@torch.no_grad()
def test_the_model_is_the_network() -> None:
    model, fragments = adaptive(), images((16, 16), 6, 3).view(2, 3, 3, 16, 16)
    assert isinstance(model, Decoder)
    latents = model.encode(fragments)
    assert latents.shape == (2, 3, 48)
    torch.testing.assert_close(latents[1], model.network.encode(fragments[1]))
    decoded = model.decode(latents)
    assert decoded.shape == fragments.shape
    torch.testing.assert_close(decoded[0], model.network.decode(latents[0], (16, 16)))
    assert model.decode(latents, (20, 31)).shape == (2, 3, 3, 20, 31)
    assert model.any_size


def test_the_model_says_how_many_latents_it_has() -> None:
    assert adaptive(latent_dim=50).latent_dim == 50
    assert adaptive(latent_dim=50, latent_strategy="spatial").latent_dim == 48
    own = adaptive(block_config=["inception"], channel_config=[20], stride_config=[4])
    assert own.network.get_config()["channel_config"] == [20]


@torch.no_grad()
def test_the_model_shows_where_it_looks() -> None:
    model, fragments = adaptive(use_attention=True), images((16, 16), 10, 3).unsqueeze(0)
    assert isinstance(model, Viewer)
    views = model.views(fragments)
    assert views["saliency"].shape == (8, 3, 16, 16)
    assert views["attention_matrix"].shape == (1, 1, 4, 4)
    assert all(0 <= float(view.min()) <= float(view.max()) <= 1 for view in views.values())
    assert set(adaptive().views(fragments)) == {"saliency"}
