from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fragrecon.models.energy_transformer import EnergyAttention, EnergyBlock, EnergyNorm, EnergyTransformer, Memories

SHAPE = (3, 8, 12)
DOUBLE = torch.float64


def block(itself: bool, alpha: float = 0.1, seed: int = 0) -> EnergyBlock:
    torch.manual_seed(seed)
    made = EnergyBlock(10, EnergyAttention(10, 3, 4, None, itself), Memories(10, 17), 5, alpha).to(DOUBLE)
    for name, parameter in made.named_parameters():
        if name != "norm.gamma":
            parameter.data.normal_(0, 0.5)
    made.norm.gamma.data.fill_(1.3)
    return made


def tokens(images: int = 2, count: int = 7) -> Tensor:
    return torch.randn(images, count, 10, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)


def slow_energy(made: EnergyBlock, g: Tensor, itself: bool) -> float:
    """Of the tokens (n, D) of one image: the paper's sums, term by term."""
    attention, n = made.attention, len(g)
    queries = attention.queries.view(attention.heads, -1, g.shape[1])
    keys = attention.keys.view(attention.heads, -1, g.shape[1])
    beta, total = 1 / math.sqrt(queries.shape[1]), 0.0
    for head in range(attention.heads):
        for asking in range(n):
            terms = [
                beta * float((queries[head] @ g[asking]) @ (keys[head] @ g[asked]))
                for asked in range(n)
                if itself or asked != asking
            ]
            total -= math.log(sum(math.exp(term) for term in terms)) / beta
    for token in g:
        for memory in made.memories.memories:
            total -= max(0.0, float(token @ memory)) ** 2 / 2
    return total


@pytest.mark.parametrize("itself", [False, True])
def test_the_energy_is_the_papers_sum(itself: bool) -> None:
    made, x = block(itself), tokens()
    g = made.norm(x)
    expected = [slow_energy(made, image, itself) for image in g]
    torch.testing.assert_close(made.energy(x), torch.tensor(expected, dtype=DOUBLE))


@pytest.mark.parametrize("itself", [False, True])
def test_closed_gradients_are_those_of_the_energy(itself: bool) -> None:
    made, g = block(itself), tokens().requires_grad_()
    for part in (made.attention, made.memories):
        (expected,) = torch.autograd.grad(part.energy(g).sum(), g)
        torch.testing.assert_close(part.gradient(g), expected)


def test_the_norm_is_the_gradient_of_its_lagrangian() -> None:
    norm, x = EnergyNorm(10).to(DOUBLE), tokens().requires_grad_()
    norm.gamma.data.fill_(0.7)
    norm.delta.data.normal_()
    (expected,) = torch.autograd.grad(norm.lagrangian(x).sum(), x)
    torch.testing.assert_close(norm(x), expected)
    plain = torch.nn.functional.layer_norm(x, (10,))
    torch.testing.assert_close(norm(x), 0.7 * plain + norm.delta)


@pytest.mark.parametrize("itself", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_energy_falls_at_every_small_step(itself: bool, seed: int) -> None:
    made, x = block(itself, alpha=1e-3, seed=seed), tokens()
    for _ in range(20):
        below = made.step(x)
        assert torch.all(made.energy(below) < made.energy(x))
        x = below


def test_a_block_takes_its_steps_with_the_same_weights() -> None:
    made, x = block(False), tokens()
    expected = x
    for _ in range(5):
        g = made.norm(expected)
        expected = expected - 0.1 * (made.attention.gradient(g) + made.memories.gradient(g))
    torch.testing.assert_close(made(x), expected)


def model(**settings: Any) -> EnergyTransformer:
    torch.manual_seed(0)
    small = {"latent_dim": 16, "heads": 2, "head_width": 8, "steps": 3, "alpha": 0.5}
    made = EnergyTransformer(SHAPE, **{**small, **settings})
    for parameter in made.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return made.eval()


def test_patches_without_positions_are_a_set() -> None:
    made = model()
    made.positions.data.zero_()
    images = torch.rand(2, *SHAPE)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = made.patches.join(made.patches.cut(images)[:, order])
    none = torch.zeros(2, 6, dtype=torch.bool)
    torch.testing.assert_close(made.predict(shuffled, none), made.predict(images, none)[:, order])
    torch.testing.assert_close(made.embed(shuffled), made.embed(images))


def test_it_has_the_seeds_form() -> None:
    made = EnergyTransformer((3, 32, 32))
    assert made.patches.count == 64
    attention, memories = 2 * 12 * 64 * 256, 1024 * 256
    around = (48 * 256 + 256) + (256 * 48 + 48) + 2 * 256  # patches in, pixels out, the last norm
    learned = 256 + 256 + 65 * 256 + 1 + 256  # mask, image, positions, the energy's norm
    assert sum(p.numel() for p in made.parameters()) == attention + memories + around + learned
    (first,) = made.blocks
    assert isinstance(first, EnergyBlock)
    assert first.attention.beta == 0.125
    assert made.encode(torch.rand(2, 1, 3, 32, 32)).shape == (2, 1, 256)
