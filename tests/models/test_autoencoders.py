from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fragrecon.models.autoencoder import VariationalAutoencoder
from fragrecon.models.base import Posterior, Shape, count_parameters
from fragrecon.models.blocks import Residual
from fragrecon.models.conv import ConvAutoencoder, ConvVAE
from fragrecon.models.resnet import ResNetAutoencoder, ResNetVAE

SHAPE: Shape = (3, 16, 8)
every_variational = pytest.mark.parametrize("name", ["vae", "resnet_vae"])


def variational(name: str) -> VariationalAutoencoder:
    torch.manual_seed(0)
    return ResNetVAE(SHAPE, 6, width=4) if name == "resnet_vae" else ConvVAE(SHAPE, 6, [4, 6])


def images(count: int = 10, shape: Shape = SHAPE) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


# The plain one --------------------------------------------------------------------------------------------------------


def test_conv_draws_its_initial_weights_layer_by_layer_from_the_pixels_and_back() -> None:
    torch.manual_seed(5)
    model = ConvAutoencoder((3, 16, 16), 128, [32, 64])
    torch.manual_seed(5)
    drawn = {
        "encoder.0.0.0": nn.Conv2d(3, 32, 3, bias=False),
        "encoder.0.1.0": nn.Conv2d(32, 32, 3, bias=False),
        "encoder.1.0.0": nn.Conv2d(32, 64, 3, bias=False),
        "encoder.1.1.0": nn.Conv2d(64, 64, 3, bias=False),
        "to_latent": nn.Linear(1024, 128),
        "from_latent": nn.Linear(128, 1024),
        "decoder.1.0": nn.ConvTranspose2d(64, 32, 4, bias=False),
        "decoder.1.3.0": nn.Conv2d(32, 32, 3, bias=False),
        "decoder.2": nn.ConvTranspose2d(32, 3, 4, bias=False),
    }
    named = {f"{layer}.{key}": value for layer, module in drawn.items() for key, value in module.state_dict().items()}
    norms = {key for key, part in model.named_modules() if isinstance(part, nn.BatchNorm2d)}
    state = {key: value for key, value in model.state_dict().items() if key.rpartition(".")[0] not in norms}
    assert list(state) == list(named)
    for key, value in state.items():
        assert torch.equal(value, named[key]), key


# Variational ones -----------------------------------------------------------------------------------------------------


@every_variational
@pytest.mark.parametrize("training", [True, False])
def test_the_embedding_is_the_mean_of_the_posterior(name: str, training: bool) -> None:
    model = variational(name).train(training)
    posterior = model.posterior(images())
    assert posterior.mean.shape == posterior.log_variance.shape == (10, 6)
    before = torch.get_rng_state()
    assert torch.equal(model.embed(images()), posterior.mean)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.allclose(posterior.log_variance, posterior.mean, atol=1e-2)


@every_variational
def test_variances_are_of_each_fragment_and_have_weights_of_their_own(name: str) -> None:
    model = variational(name).eval()
    before = model.posterior(images())
    assert before.log_variance.std(0).min() > 0
    with torch.no_grad():
        model.to_log_variance.bias.add_(1)
    after = model.posterior(images())
    torch.testing.assert_close(after.log_variance, before.log_variance + 1)
    assert torch.equal(after.mean, before.mean)


@every_variational
def test_variances_are_computed_in_single_precision(name: str) -> None:
    model = variational(name).eval()
    with torch.autocast("cpu", torch.bfloat16):
        posterior = model.posterior(images())
    assert posterior.mean.dtype == posterior.log_variance.dtype == torch.float32


@pytest.mark.parametrize(
    ("plain", "made", "size"), [(ConvAutoencoder, ConvVAE, (8, 4)), (ResNetAutoencoder, ResNetVAE, 4)]
)
def test_a_variational_one_has_one_more_layer_and_otherwise_the_same_initial_weights(
    plain: type, made: type, size: Any
) -> None:
    torch.manual_seed(2)
    first = plain((3, 16, 16), 5, size)
    torch.manual_seed(2)
    second = made((3, 16, 16), 5, size)
    extra = count_parameters(second) - count_parameters(first)
    assert extra == (math.prod(second.features) + 1) * 5
    state = second.state_dict()
    assert set(state) - set(first.state_dict()) == {"to_log_variance.weight", "to_log_variance.bias"}
    assert all(torch.equal(value, state[key]) for key, value in first.state_dict().items())


def test_samples_have_the_mean_and_variance_of_the_posterior() -> None:
    mean, deviation = torch.tensor([0.0, 3.0, -1.0]), torch.tensor([1.0, 0.1, 2.0])
    posterior = Posterior(mean.expand(200_000, 3), deviation.square().log().expand(200_000, 3))
    drawn = posterior.sample(torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(drawn.std(0), deviation, atol=0, rtol=0.01)
    rest = torch.corrcoef(drawn.T) - torch.eye(3)
    assert rest.abs().max() < 0.01
    assert abs(float((drawn[1:, 0] * drawn[:-1, 0]).mean())) < 0.01  # from one fragment to the next


def test_samples_follow_the_mean_and_the_deviation_by_gradient() -> None:
    mean = torch.zeros(4, 3, requires_grad=True)
    log_variance = torch.full((4, 3), 2 * math.log(0.5), requires_grad=True)
    drawn = Posterior(mean, log_variance).sample(torch.Generator().manual_seed(0))
    drawn.sum().backward()  # type: ignore[no-untyped-call]
    assert mean.grad is not None
    assert log_variance.grad is not None
    torch.testing.assert_close(mean.grad, torch.ones(4, 3))
    torch.testing.assert_close(log_variance.grad, drawn.detach() / 2)  # d(exp(v / 2) e) / dv = exp(v / 2) e / 2


def test_samples_come_from_the_generator() -> None:
    posterior = Posterior(torch.zeros(2, 3), torch.zeros(2, 3))
    before = torch.get_rng_state()
    first, again, other = (posterior.sample(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


# Residual networks ----------------------------------------------------------------------------------------------------


def test_the_encoder_is_resnet_18() -> None:
    model = ResNetAutoencoder((3, 32, 32), 64)
    # 11,173,962 are those of the network on CIFAR-10 (github.com/kuangliu/pytorch-cifar), with a layer for 10 classes.
    assert count_parameters(model.encoder) == 11_173_962 - (512 + 1) * 10
    assert count_parameters(ResNetAutoencoder((3, 32, 32))) == 17_471_235
    assert model.features == (512, 4, 4)
    kernels = [part.kernel_size for part in model.encoder.modules() if isinstance(part, nn.Conv2d)]
    assert (kernels.count((3, 3)), kernels.count((1, 1))) == (17, 3)


def test_the_decoder_mirrors_the_encoder() -> None:
    model = ResNetAutoencoder((3, 16, 16), 5, width=4)
    down = [block for block in model.encoder if isinstance(block, Residual)]  # type: ignore[attr-defined]
    up = [block for block in model.decoder if isinstance(block, Residual)]  # type: ignore[attr-defined]
    hidden, widths = images(2, (4, 16, 16)), []
    for block in down:
        hidden = block(hidden)
        widths.append(tuple(hidden.shape[1:]))
    assert widths == [(4, 16, 16)] * 2 + [(8, 8, 8)] * 2 + [(16, 4, 4)] * 2 + [(32, 2, 2)] * 2
    back = []
    for block in up:
        hidden = block(hidden)
        back.append(tuple(hidden.shape[1:]))
    assert back == [(16, 4, 4)] * 2 + [(8, 8, 8)] * 2 + [(4, 16, 16)] * 4


def norm(hidden: Tensor, of: nn.Module) -> Tensor:
    """Batch normalisation in eval mode, written out."""
    assert isinstance(of, nn.BatchNorm2d)
    assert of.running_mean is not None
    assert of.running_var is not None
    mean, variance, weight, bias = (
        value.view(-1, 1, 1) for value in (of.running_mean, of.running_var, of.weight, of.bias)
    )
    return (hidden - mean) / (variance + of.eps).sqrt() * weight + bias


@pytest.mark.parametrize(
    ("inputs", "outputs", "down", "up"), [(3, 3, 1, 1), (3, 5, 1, 1), (3, 5, 2, 1), (5, 3, 1, 2), (3, 3, 2, 1)]
)
def test_a_residual_block_adds_two_convolutions_to_what_it_reads(inputs: int, outputs: int, down: int, up: int) -> None:
    torch.manual_seed(0)
    block, hidden = Residual(inputs, outputs, down, up), torch.randn(4, inputs, 8, 6)
    for _ in range(3):
        block.train()(hidden)  # so that running means are not those of the start
    convolutions = [part for part in block.modules() if isinstance(part, nn.Conv2d)]
    norms = [part for part in block.modules() if isinstance(part, nn.BatchNorm2d)]
    grown = F.interpolate(hidden, scale_factor=up)
    expected = norm(F.conv2d(grown, convolutions[0].weight, stride=down, padding=1), norms[0])
    expected = norm(F.conv2d(expected.clamp(min=0), convolutions[1].weight, padding=1), norms[1])
    kept = grown
    if (inputs, 1, 1) != (outputs, down, up):
        kept = norm(F.conv2d(grown, convolutions[2].weight, stride=down), norms[2])
    torch.testing.assert_close(block.eval()(hidden), (expected + kept).clamp(min=0))
    assert len(convolutions) == len(norms) == (2 if kept is grown else 3)
