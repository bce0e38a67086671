from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fragrecon.errors import ConfigError
from fragrecon.models.autoencoder import Autoencoder
from fragrecon.models.base import (
    Classifier,
    Decoder,
    FragmentModel,
    PairPredictor,
    PairScorer,
    Shape,
    Solver,
    Variational,
    count_parameters,
)
from fragrecon.models.cnn_v3 import AdaptiveAutoencoder
from fragrecon.models.conv import ConvAutoencoder
from fragrecon.models.energy_transformer import EnergyTransformer
from fragrecon.models.linear import LinearAutoencoder
from fragrecon.models.mae import MaskedAutoencoder
from fragrecon.models.pca import PCAAutoencoder
from fragrecon.models.resnet_ae import ResNetAutoencoder
from fragrecon.models.resnet_vae import ResNetVAE
from fragrecon.models.siamese import Siamese
from fragrecon.models.simclr import SimCLR
from fragrecon.models.supervised import SupervisedClassifier
from fragrecon.models.vae import ConvVAE

COLOUR: Shape = (3, 16, 16)
AUTOENCODERS: dict[str, Callable[[Shape, int], Autoencoder | LinearAutoencoder]] = {
    "conv": ConvAutoencoder,
    "linear": LinearAutoencoder,
    "pca": PCAAutoencoder,
    "resnet_ae": lambda shape, latent_dim: ResNetAutoencoder(shape, latent_dim, width=4),
    "resnet_vae": lambda shape, latent_dim: ResNetVAE(shape, latent_dim, width=4),
    "vae": ConvVAE,
}
MODELS: dict[str, Callable[[Shape, int], FragmentModel]] = {
    **AUTOENCODERS,
    "cnn_v3": lambda shape, latent_dim: AdaptiveAutoencoder(shape, latent_dim, "tiny", channel_config=[8, 12]),
    "energy_transformer": lambda shape, latent_dim: EnergyTransformer(
        shape, latent_dim, heads=2, head_width=8, steps=3, alpha=0.5
    ),
    "mae": lambda shape, latent_dim: MaskedAutoencoder(shape, latent_dim, depth=1, decoder_width=6, decoder_depth=1),
    "siamese": Siamese,
    "simclr": SimCLR,
    "supervised": lambda shape, latent_dim: SupervisedClassifier(shape, 7, latent_dim),
}
every_autoencoder = pytest.mark.parametrize("name", AUTOENCODERS)
every_model = pytest.mark.parametrize("name", MODELS)


def made(name: str, shape: Shape = COLOUR, latent_dim: int = 12) -> FragmentModel:
    torch.manual_seed(0)
    return MODELS[name](shape, latent_dim)


def fragments(puzzles: int = 3, count: int = 8, shape: Shape = COLOUR) -> Tensor:
    return torch.rand(puzzles, count, *shape, generator=torch.Generator().manual_seed(1))


def trained(model: FragmentModel) -> FragmentModel:
    """The model in eval mode with running means of its own, as training leaves them."""
    with torch.no_grad():
        model.train().encode(fragments(shape=model.fragment_shape))
    return model.eval()


def layers(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if not isinstance(part, nn.Sequential) and not list(part.children())]


def described(module: nn.Module) -> list[tuple[Any, ...]]:
    """What decides a network's function, layer by layer."""
    found: list[tuple[Any, ...]] = []
    for layer in layers(module):
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            kind = "conv" if isinstance(layer, nn.Conv2d) else "transposed"
            sizes = (layer.kernel_size, layer.stride, layer.padding)
            assert all(side == (size[0], size[0]) for size in sizes for side in [tuple(size)])
            sides = (layer.kernel_size[0], layer.stride[0], int(layer.padding[0]))
            found.append((kind, layer.in_channels, layer.out_channels, *sides, layer.bias is not None))
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


@pytest.mark.parametrize(("channels", "parameters"), [([32, 64], 372_704), ([64], 1_094_720), ([32, 64, 128], 631_008)])
def test_conv_has_as_many_parameters_as_the_study_says(channels: list[int], parameters: int) -> None:
    model = ConvAutoencoder(COLOUR, 128, channels)
    assert count_parameters(model) == parameters
    assert sum(math.prod(p.shape) for p in model.parameters()) == parameters


def test_conv_halves_with_two_convolutions_a_stage_and_mirrors_them() -> None:
    model = ConvAutoencoder(COLOUR, 128, [32, 64])
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


def test_linear_narrows_to_the_latents_and_widens_again() -> None:
    model = LinearAutoencoder(COLOUR)
    half = [("ReLU",), ("dropout", 0.1)]
    assert described(model.encoder) == [
        ("linear", 768, 512, True),
        *half,
        ("linear", 512, 256, True),
        *half,
        ("linear", 256, 128, True),
    ]
    assert described(model.decoder) == [
        ("linear", 128, 256, True),
        *half,
        ("linear", 256, 512, True),
        *half,
        ("linear", 512, 768, True),
        ("Sigmoid",),
    ]


def test_supervised_embeds_by_its_last_hidden_layer() -> None:
    model = SupervisedClassifier(COLOUR, 37)
    half = [("ReLU",), ("dropout", 0.2)]
    assert described(model.encoder) == [
        ("linear", 768, 512, True),
        *half,
        ("linear", 512, 256, True),
        *half,
        ("linear", 256, 128, True),
    ]
    assert described(model.head) == [*half, ("linear", 128, 37, True)]


def test_pca_is_one_linear_layer_each_way() -> None:
    model = PCAAutoencoder(COLOUR, 20)
    assert described(model.encoder) == [("linear", 768, 20, True)]
    assert described(model.decoder) == [("linear", 20, 768, True), ("Sigmoid",)]


def test_pca_starts_uniform_within_the_bound_of_xavier() -> None:
    torch.manual_seed(0)
    model = PCAAutoencoder(COLOUR, 128)
    linear = [layer for layer in layers(model) if isinstance(layer, nn.Linear)]
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


@every_model
def test_encode_gives_an_embedding_a_fragment(name: str) -> None:
    model = made(name).eval()
    embeddings = model.encode(fragments())
    assert embeddings.shape == (3, 8, 12)
    torch.testing.assert_close(embeddings.flatten(0, 1), model.embed(fragments().flatten(0, 1)))


@every_model
def test_encode_is_deterministic_in_eval_mode_and_draws_nothing(name: str) -> None:
    model = trained(made(name))
    before, weights = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    first, second = model.encode(fragments()), model.encode(fragments())
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["linear", "siamese", "supervised"])
def test_dropout_is_at_work_in_training(name: str) -> None:
    model = made(name).train()
    assert not torch.equal(model.encode(fragments()), model.encode(fragments()))


@every_model
def test_an_embedding_does_not_depend_on_the_puzzle_of_its_fragment(name: str) -> None:
    model, batch = trained(made(name)), fragments()
    embeddings = model.encode(batch)
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


@every_autoencoder
@pytest.mark.parametrize("size", [(8, 8), (16, 16), (32, 32), (16, 32)])
@pytest.mark.parametrize("channels", [1, 3])
def test_decode_makes_fragments_in_the_range_of_pixels(name: str, size: tuple[int, int], channels: int) -> None:
    shape = (channels, *size)
    model = AUTOENCODERS[name](shape, 6).eval()
    latents = model.encode(fragments(2, 4, shape))
    assert latents.shape == (2, 4, 6)
    for wild in (latents, 1e4 * torch.randn(2, 4, 6)):
        decoded = model.decode(wild)
        assert decoded.shape == (2, 4, *shape)
        assert decoded.min() >= 0
        assert decoded.max() <= 1
    assert decoded.min() < 0.1 < 0.9 < decoded.max()  # latents that large reach both ends


@every_autoencoder
@pytest.mark.parametrize("lead", [(), (4,), (2, 3), (2, 3, 4)])
def test_decode_takes_latents_of_any_leading_shape(name: str, lead: tuple[int, ...]) -> None:
    model = AUTOENCODERS[name](COLOUR, 6).eval()
    latents = torch.randn(*lead, 6, generator=torch.Generator().manual_seed(0))
    decoded = model.decode(latents)
    assert decoded.shape == (*lead, *COLOUR)
    alone = model.decode(latents.reshape(-1, 6)[-1:])[0]
    torch.testing.assert_close(decoded.reshape(-1, *COLOUR)[-1], alone, rtol=1e-5, atol=1e-6)


@every_autoencoder
def test_decode_makes_no_size_but_its_own(name: str) -> None:
    model, latents = AUTOENCODERS[name]((3, 8, 16), 6).eval(), torch.zeros(2, 6)
    assert torch.equal(model.decode(latents, size=(8, 16)), model.decode(latents))
    with pytest.raises(ValueError, match=r"\(8, 16\) only, not \(16, 8\)"):
        model.decode(latents, size=(16, 8))


@every_autoencoder
def test_an_autoencoder_learns_to_reconstruct(name: str) -> None:
    torch.manual_seed(0)
    model, batch = AUTOENCODERS[name]((3, 8, 8), 32).train(), fragments(1, 4, (3, 8, 8))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(150):
        loss = (model.decode(model.encode(batch)) - batch).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert losses[-1] < losses[0] / 4


@pytest.mark.parametrize("classes", [1, 2, 1000])
def test_classify_gives_a_logit_a_class(classes: int) -> None:
    model = SupervisedClassifier(COLOUR, classes, 12).eval()
    assert model.classify(model.encode(fragments())).shape == (3, 8, classes)


@every_model
def test_only_what_a_model_can_do_is_asked_of_it(name: str) -> None:
    model = made(name)
    assert isinstance(model, Classifier) == (name == "supervised")
    assert isinstance(model, Decoder) == (name in {*AUTOENCODERS, "cnn_v3"})
    assert isinstance(model, Variational) == (name in ("resnet_vae", "vae"))
    assert isinstance(model, PairPredictor) == isinstance(model, PairScorer) == (name == "siamese")
    assert not isinstance(model, Solver)


@pytest.mark.parametrize(
    ("size", "channels", "most"),
    [((16, 16), [8] * 5, 4), ((8, 8), [8] * 4, 3), ((12, 16), [8] * 3, 2), ((16, 6), [8] * 2, 1), ((7, 8), [8], 0)],
)
def test_more_layers_than_fit_are_refused_with_the_number_that_does(
    size: tuple[int, int], channels: list[int], most: int
) -> None:
    match = rf"encoder_channels.*{len(channels)} layers.*{size[0]}x{size[1]}.*at most {most} channels"
    with pytest.raises(ConfigError, match=match):
        ConvAutoencoder((3, *size), 8, channels)
    if most:
        model = ConvAutoencoder((3, *size), 8, channels[:most]).eval()
        assert model.decode(model.encode(fragments(1, 1, (3, *size)))).shape == (1, 1, 3, *size)


@pytest.mark.parametrize("channels", [[], [0], [8, -1]])
def test_channels_that_cannot_be_are_refused(channels: list[int]) -> None:
    with pytest.raises(ConfigError, match="encoder_channels"):
        ConvAutoencoder(COLOUR, 8, channels)


@every_model
@pytest.mark.parametrize("latent_dim", [-1, 0])
def test_latents_without_a_dimension_are_refused(name: str, latent_dim: int) -> None:
    with pytest.raises(ConfigError, match=rf"latent_dim={latent_dim}\b"):
        made(name, latent_dim=latent_dim)


@pytest.mark.parametrize("classes", [-1, 0, 1001])
def test_a_number_of_classes_that_cannot_be_is_refused(classes: int) -> None:
    with pytest.raises(ConfigError, match=rf"{classes} classes.*1 to 1000"):
        SupervisedClassifier(COLOUR, classes)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 1.5])
def test_dropout_that_is_no_probability_is_refused(dropout: float) -> None:
    for make in (
        lambda: LinearAutoencoder(COLOUR, dropout=dropout),
        lambda: SupervisedClassifier(COLOUR, 2, dropout=dropout),
    ):
        with pytest.raises(ConfigError, match=r"model\.dropout"):
            make()


def test_hidden_layers_without_width_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.hidden"):
        LinearAutoencoder(COLOUR, hidden=[64, 0])


def test_a_model_says_how_it_embeds() -> None:
    with pytest.raises(NotImplementedError):
        FragmentModel(COLOUR, 3).encode(fragments())
