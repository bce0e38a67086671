"""What all models have in common, and the layers of the plain ones."""

from __future__ import annotations

import importlib.util
import itertools
import math
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from fragrecon.config.build import build
from fragrecon.errors import ConfigError
from fragrecon.models import factories
from fragrecon.models.autoencoder import Autoencoder
from fragrecon.models.base import (
    Classifier,
    Decoder,
    FragmentModel,
    Inpainter,
    PairPredictor,
    PairScorer,
    Shape,
    Solver,
    Unmixer,
    Variational,
    count_parameters,
)
from fragrecon.models.conv import ConvAutoencoder
from fragrecon.models.linear import LinearAutoencoder
from fragrecon.models.pca import PCAAutoencoder
from fragrecon.models.supervised import SupervisedClassifier
from fragrecon.run import CONF
from tests.descent import descend

COLOUR: Shape = (3, 16, 16)
TIMM = importlib.util.find_spec("timm") is not None
NODES = {path.stem: yaml.safe_load(path.read_text())["model"] for path in sorted((CONF / "model").glob("*.yaml"))}
NODES = {name: node for name, node in NODES.items() if TIMM or name != "timm"}
SMALL: dict[str, dict[str, Any]] = {
    **{name: {"channel_config": [8, 12]} for name in NODES if name.startswith("cnn_v3")},
    "encoder": {"network": {"_target_": "torch.nn.Flatten"}},
    "timm": {"name": "resnet10t"},
    "energy_transformer": {"heads": 2, "head_width": 8, "steps": 3, "alpha": 0.5},
    "mae": {"depth": 1, "decoder_width": 6, "decoder_depth": 1},
    "mosaic": {"width": 16, "depth": 1, "heads": 2},
    "mosaic_small": {"width": 16, "depth": 1, "heads": 2},
    "resnet_ae": {"width": 4},
    "resnet_vae": {"width": 4},
}
"""Settings with which a model is quick."""


def made(name: str, shape: Shape = COLOUR, latent_dim: int = 12, **settings: Any) -> Any:
    torch.manual_seed(0)
    node = NODES[name] | SMALL.get(name, {}) | {"latent_dim": latent_dim} | settings
    return build(node, "model", FragmentModel, fragment_shape=shape, grid=(2, 4), num_classes=7)


AUTOENCODERS = [name for name in NODES if isinstance(made(name), Decoder) and not made(name).any_size]
ONE_BY_ONE = [name for name in NODES if type(made(name)).encode is FragmentModel.encode]
every_autoencoder = pytest.mark.parametrize("name", AUTOENCODERS)
every_model = pytest.mark.parametrize("name", NODES)


def fragments(puzzles: int = 3, count: int = 8, shape: Shape = COLOUR) -> Tensor:
    return torch.rand(puzzles, count, *shape, generator=torch.Generator().manual_seed(1))


def trained(model: FragmentModel) -> FragmentModel:
    """The model in eval mode with running means of its own, as training leaves them."""
    with torch.no_grad():
        model.train().encode(fragments(shape=model.fragment_shape))
    return model.eval()


# Layers ---------------------------------------------------------------------------------------------------------------


def described(module: nn.Module) -> list[tuple[Any, ...]]:
    """What decides a network's function, layer by layer."""
    found: list[tuple[Any, ...]] = []
    for layer in (part for part in module.modules() if not list(part.children())):
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            kind = "conv" if isinstance(layer, nn.Conv2d) else "transposed"
            sizes = [tuple(size) for size in (layer.kernel_size, layer.stride, layer.padding)]
            assert all(size == (size[0], size[0]) for size in sizes)
            found.append(
                (kind, layer.in_channels, layer.out_channels, *(size[0] for size in sizes), layer.bias is not None)
            )
        elif isinstance(layer, nn.Linear):
            found.append(("linear", layer.in_features, layer.out_features, layer.bias is not None))
        elif isinstance(layer, nn.BatchNorm2d):
            found.append(("norm", layer.num_features))
        elif isinstance(layer, nn.Dropout):
            found.append(("dropout", layer.p))
        else:
            found.append((type(layer).__name__,))
    return found


def block(inputs: int, outputs: int, stride: int) -> list[tuple[Any, ...]]:
    return [("conv", inputs, outputs, 3, stride, 1, False), ("norm", outputs), ("ReLU",)]


def perceptron(widths: list[int], dropout: float) -> list[tuple[Any, ...]]:
    layers: list[tuple[Any, ...]] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [("ReLU",), ("dropout", dropout)] if layers else []
        layers.append(("linear", inputs, outputs, True))
    return layers


@pytest.mark.parametrize(("channels", "parameters"), [([32, 64], 372_704), ([64], 1_094_720), ([32, 64, 128], 631_008)])
def test_conv_has_as_many_parameters_as_the_study_says(channels: list[int], parameters: int) -> None:
    model = ConvAutoencoder(COLOUR, 128, channels)
    assert count_parameters(model) == parameters
    assert sum(math.prod(p.shape) for p in model.parameters()) == parameters


def test_conv_halves_with_two_convolutions_a_stage_and_mirrors_them() -> None:
    model = ConvAutoencoder(COLOUR)
    assert described(model.encoder) == [
        *block(3, 32, 2),
        *block(32, 32, 1),
        *block(32, 64, 2),
        *block(64, 64, 1),
        ("Flatten",),
    ]
    assert described(model.to_latent) == [("linear", 1024, 128, True)]
    assert described(model.from_latent) == [("linear", 128, 1024, True)]
    assert described(model.decoder) == [
        ("Unflatten",),
        ("transposed", 64, 32, 4, 2, 1, False),
        ("norm", 32),
        ("ReLU",),
        *block(32, 32, 1),
        ("transposed", 32, 3, 4, 2, 1, False),
        ("Sigmoid",),
    ]


def test_the_other_models_of_the_study_have_linear_layers() -> None:
    linear, supervised, pca = LinearAutoencoder(COLOUR), SupervisedClassifier(COLOUR, 37), PCAAutoencoder(COLOUR, 20)
    assert described(linear.encoder) == perceptron([768, 512, 256, 128], 0.1)
    assert described(linear.decoder) == [*perceptron([128, 256, 512, 768], 0.1), ("Sigmoid",)]
    assert described(supervised.encoder) == perceptron([768, 512, 256, 128], 0.2)
    assert described(supervised.head) == [("ReLU",), ("dropout", 0.2), ("linear", 128, 37, True)]
    assert described(pca.encoder) == [("linear", 768, 20, True)]
    assert described(pca.decoder) == [("linear", 20, 768, True), ("Sigmoid",)]


def test_pca_is_initialised_uniformly_within_the_bound_of_xavier() -> None:
    torch.manual_seed(0)
    linear = [layer for layer in PCAAutoencoder(COLOUR, 128).modules() if isinstance(layer, nn.Linear)]
    assert len(linear) == 2
    for layer in linear:
        bound = math.sqrt(6 / (768 + 128))  # Glorot and Bengio, 2010, eq. 16
        assert 0.999 * bound < layer.weight.abs().max().item() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
        assert layer.weight.mean().item() == pytest.approx(0, abs=bound / 100)
        assert not layer.bias.any()


def test_pca_embeds_by_an_affine_map() -> None:
    model = PCAAutoencoder(COLOUR, 5).eval()
    a, b = fragments(2, 4)
    zero = torch.zeros_like(a)
    torch.testing.assert_close(model.embed(a) + model.embed(b), model.embed(a + b) + model.embed(zero))


# Embedding ------------------------------------------------------------------------------------------------------------


@every_model
def test_encode_is_deterministic_in_eval_mode_and_draws_nothing(name: str) -> None:
    model = trained(made(name))
    before, weights = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    first, second = model.encode(fragments()), model.encode(fragments())
    assert first.shape == (3, 8, 12)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", [name for name in NODES if "dropout" in NODES[name]])
def test_dropout_is_at_work_in_training(name: str) -> None:
    model = made(name).train()
    assert not torch.equal(model.encode(fragments()), model.encode(fragments()))


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_an_embedding_does_not_depend_on_the_puzzle_of_its_fragment(name: str) -> None:
    model, batch = trained(made(name)), fragments()
    embeddings = model.encode(batch)
    torch.testing.assert_close(embeddings.flatten(0, 1), model.embed(batch.flatten(0, 1)))
    torch.testing.assert_close(model.encode(batch[1:2, 5:6])[0, 0], embeddings[1, 5], rtol=1e-5, atol=1e-6)
    other = batch.clone()
    other[1, :5] = other[1, 6:] = 0
    torch.testing.assert_close(model.encode(other)[1, 5], embeddings[1, 5], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(model.encode(other)[1, 0], embeddings[1, 0], atol=1e-3)


@every_model
def test_embeddings_move_with_their_fragments(name: str) -> None:
    model, batch = trained(made(name)), fragments()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(model.encode(batch[:, order]), model.encode(batch)[:, order], rtol=1e-5, atol=1e-6)


def test_a_model_must_say_how_it_embeds() -> None:
    with pytest.raises(NotImplementedError):
        FragmentModel(COLOUR, 3).encode(fragments())


# Further abilities ----------------------------------------------------------------------------------------------------


@every_autoencoder
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (3, 16, 32)])
def test_decode_makes_fragments_in_the_range_of_pixels(name: str, shape: Shape) -> None:
    model = made(name, shape, 6).eval()
    latents = model.encode(fragments(2, 4, shape))
    for wild in (latents, 1e4 * torch.randn(2, 4, 6)):
        decoded = model.decode(wild)
        assert decoded.shape == (2, 4, *shape)
        assert decoded.min() >= 0
        assert decoded.max() <= 1
    assert decoded.min() < 0.1 < 0.9 < decoded.max()  # latents that large reach both ends


@every_autoencoder
def test_decode_takes_latents_of_any_leading_shape(name: str) -> None:
    model = made(name, COLOUR, 6).eval()
    for lead in ((), (4,), (2, 3, 4)):
        latents = torch.randn(*lead, 6, generator=torch.Generator().manual_seed(0))
        decoded = model.decode(latents)
        assert decoded.shape == (*lead, *COLOUR)
        alone = model.decode(latents.reshape(-1, 6)[-1:])[0]
        torch.testing.assert_close(decoded.reshape(-1, *COLOUR)[-1], alone, rtol=1e-5, atol=1e-6)


@every_autoencoder
def test_decode_makes_no_size_but_its_own(name: str) -> None:
    model, latents = made(name, (3, 8, 16), 6).eval(), torch.zeros(2, 6)
    assert torch.equal(model.decode(latents, size=(8, 16)), model.decode(latents))
    with pytest.raises(ValueError, match=r"\(8, 16\) only, not \(16, 8\)"):
        model.decode(latents, size=(16, 8))


@every_autoencoder
def test_an_autoencoder_learns_to_reconstruct(name: str) -> None:
    model, batch = made(name, (3, 8, 8), 32).train(), fragments(1, 4, (3, 8, 8))
    steps = 150 if name == "pca" else 70
    losses = descend(
        model.parameters(), lambda: (model.decode(model.encode(batch)) - batch).square().mean(), steps, 3e-3
    )
    assert losses[-1] < losses[0] / 4


@pytest.mark.parametrize("classes", [1, 2, 1000])
def test_classify_gives_a_logit_a_class(classes: int) -> None:
    model = SupervisedClassifier(COLOUR, classes, 12).eval()
    assert model.classify(model.encode(fragments())).shape == (3, 8, classes)


@every_model
def test_only_what_a_model_can_do_is_asked_of_it(name: str) -> None:
    model = made(name)
    assert isinstance(model, Autoencoder) == (name in ("conv", "resnet_ae", "resnet_vae", "vae"))
    assert isinstance(model, Decoder) == (name in AUTOENCODERS or name.startswith("cnn_v3")) == hasattr(model, "decode")
    assert isinstance(model, Classifier) == (name == "supervised")
    assert isinstance(model, Variational) == (name in ("resnet_vae", "vae"))
    assert isinstance(model, PairPredictor) == (name == "siamese")
    assert isinstance(model, PairScorer) == (name in ("siamese", "mosaic", "mosaic_small"))
    assert isinstance(model, Solver) == (name in ("mosaic", "mosaic_small"))
    assert isinstance(model, Inpainter) == (name in ("mae", "energy_transformer"))
    assert isinstance(model, Unmixer) == (name == "mae")


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in NODES if isinstance(made(name), Inpainter)])
def test_masked_patches_are_not_seen_and_images_of_a_batch_do_not_touch(name: str) -> None:
    model = made(name).eval()
    for parameter in model.parameters():
        parameter += 0.2 * torch.randn_like(parameter)
    images, mask = fragments(1, 4)[0], torch.stack([torch.randperm(16) < 10 for _ in range(4)])
    changed = torch.where(mask.unsqueeze(-1), torch.rand(4, 16, 48), model.patches.cut(images))
    other = model.patches.join(changed)
    predicted = model.predict(images, mask)
    assert torch.equal(predicted, model.predict(other, mask))
    assert not torch.allclose(model.predict(images, ~mask), model.predict(other, ~mask))
    alone = torch.cat([model.predict(image[None], row[None]) for image, row in zip(images, mask, strict=True)])
    torch.testing.assert_close(predicted, alone, rtol=1e-4, atol=1e-5)


# Settings -------------------------------------------------------------------------------------------------------------


@every_model
def test_numbers_out_of_range_are_refused(name: str) -> None:
    for key, value in NODES[name].items():
        wrong: list[Any] = [-1, 1] if key == "dropout" else [-1, 0]
        if isinstance(value, list):
            wrong = [[], *([*value[1:], number] for number in wrong)]
            wrong = wrong[1:] if key == "hidden" else wrong
        elif isinstance(value, bool) or not isinstance(value, int | float):
            continue
        for setting in wrong:
            with pytest.raises(ConfigError, match=rf"^model\.{key}\b"):
                made(name, **({"latent_dim": 12} | {key: setting}))


@pytest.mark.parametrize(
    ("name", "shape", "settings", "words"),
    [
        ("conv", (3, 16, 16), {"encoder_channels": [8] * 5}, r"5 stages.*16x16.*at most 4"),
        ("vae", (3, 12, 16), {"encoder_channels": [8] * 3}, r"3 stages.*12x16.*at most 2"),
        ("simclr", (3, 16, 6), {"encoder_channels": [8] * 2}, r"2 stages.*16x6.*at most 1"),
        ("conv", (3, 7, 8), {"encoder_channels": [8]}, r"1 stages.*7x8.*at most 0"),
        ("resnet_ae", (3, 12, 16), {}, r"3 times.* 12x16 pixels.*a multiple of 8"),
        ("resnet_vae", (3, 28, 28), {}, r"3 times.* 28x28 pixels.*a multiple of 8"),
        ("siamese", (3, 3, 16), {}, "3x16 pixels"),
        ("siamese", COLOUR, {"channels": [4, 4]}, r"model\.channels=\[4, 4\]"),
        ("mae", COLOUR, {"heads": 5}, r"model\.heads=5 .* 12"),
        ("mae", COLOUR, {"decoder_heads": 4}, r"model\.decoder_heads=4 .* 6"),
        ("mae", (3, 8, 12), {"patch": 3}, r"model\.patch=3 .* 8x12"),
        ("energy_transformer", (3, 8, 12), {"patch": 5}, r"model\.patch=5 .* 8x12 pixels.* 1, 2, 4$"),
        ("energy_transformer", COLOUR, {"beta": 0.0}, r"model\.beta=0"),
        (
            "cnn_v3_tiny",
            COLOUR,
            {"block_config": ["resnet", "resnets"]},
            r"model\.block_config\[1\]='resnets' .* 'resnet'",
        ),
        ("cnn_v3_tiny", COLOUR, {"preset": "smal"}, r"model\.preset='smal' .* 'small'"),
        ("mosaic", COLOUR, {"width": 15}, r"model\.heads=2 .*model\.width=15"),
        ("mosaic", (3, 8, 16), {"window": 9}, r"model\.window=9 .* 8$"),
        ("mosaic", COLOUR, {"window": 1}, r"model\.window=1"),
        ("mosaic", (3, 8, 16), {"rotations": True}, r"model\.rotations=true .* 8x16"),
        ("conv", COLOUR, {"depth": 3}, r"model\.depth is not known"),
    ],
)
def test_settings_that_do_not_fit_are_refused(name: str, shape: Shape, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        made(name, shape, **settings)


@pytest.mark.parametrize(("size", "most"), [((16, 16), 4), ((12, 16), 2), ((16, 6), 1)])
def test_as_many_stages_as_fit_are_taken(size: tuple[int, int], most: int) -> None:
    model = ConvAutoencoder((3, *size), 8, [8] * most).eval()
    assert model.decode(model.encode(fragments(1, 1, (3, *size)))).shape == (1, 1, 3, *size)


@pytest.mark.parametrize("classes", [-1, 0, 1001])
def test_a_number_of_classes_that_cannot_be_is_refused(classes: int) -> None:
    with pytest.raises(ConfigError, match=rf"{classes} classes"):
        SupervisedClassifier(COLOUR, classes)


FACTORIES = {
    "conv": factories.create_conv_autoencoder,
    "linear": factories.create_linear_autoencoder,
    "pca": factories.create_pca_autoencoder,
    "supervised": factories.create_supervised_classifier,
}


@pytest.mark.parametrize("name", FACTORIES)
def test_a_factory_makes_the_model_of_the_configuration(name: str) -> None:
    of_one: dict[str, dict[str, Any]] = {"conv": {"encoder_channels": [8, 16, 32]}, "supervised": {"num_classes": 7}}
    settings = of_one.get(name, {})
    sizes = {"latent_dim": 24, "input_channels": 1, "input_size": 8}
    torch.manual_seed(0)
    factory: Any = FACTORIES[name]
    one, other = factory(**sizes, **settings), made(name, (1, 8, 8), 24, **settings)
    assert str(one) == str(other)  # layers and their settings, dropout among them
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())
    default = factory()
    assert (default.fragment_shape, default.latent_dim) == ((3, 16, 16), 128)
