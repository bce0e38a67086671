"""Residual blocks: silent at first, of the same shape, and attention by an oracle place by place."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fragrecon.models.cnn_v3.blocks import BLOCKS, Fork, Gate, SelfAttention


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("channels", [6, 16])
def test_a_block_is_the_identity_before_training_and_learns(kind: str, channels: int) -> None:
    block, hidden = BLOCKS[kind](channels), noise(2, channels, 5, 9)
    assert torch.equal(block(hidden), hidden)
    optimizer = torch.optim.SGD(block.parameters(), 0.1)
    for _ in range(2):  # behind the silent layer, gradients begin with the second step
        optimizer.zero_grad()
        torch.autograd.backward(functional.mse_loss(block(hidden), hidden.sin()))
        optimizer.step()
    assert not torch.allclose(block(hidden), hidden)
    unmoved = [name for name, weight in block.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not unmoved


def test_kinds_of_blocks_differ_in_weights() -> None:
    counts = {kind: sum(weight.numel() for weight in make(32).parameters()) for kind, make in BLOCKS.items()}
    assert counts["resnext"] == 2 * 32 * 32 + 9 * 32 * 32 // 8 + 3 * 2 * 32
    assert counts["resnet"] == 2 * 9 * 32 * 32 + 2 * 2 * 32
    assert counts["se"] == counts["resnet"] + (32 * 4 + 4) + (4 * 32 + 32)
    assert len(set(counts.values())) == 4


def test_a_gate_scales_whole_channels_by_their_means() -> None:
    gate, hidden = Gate(16), noise(3, 16, 4, 6)
    scales = gate(hidden) / hidden
    assert torch.allclose(scales, scales[..., :1, :1].expand_as(scales), atol=1e-5)
    assert 0 < float(scales.detach().min()) <= float(scales.detach().max()) < 1
    moved = torch.roll(hidden, (1, 2), (2, 3))
    torch.testing.assert_close(gate(moved), torch.roll(gate(hidden), (1, 2), (2, 3)))


def test_the_ways_of_a_fork_see_windows_of_1_3_5_and_3() -> None:
    fork, hidden = Fork(8, [2, 2, 2, 2]), noise(1, 8, 11, 11).requires_grad_()
    joined = fork(hidden)
    assert joined.shape == (1, 8, 11, 11)
    for way, side in enumerate((1, 3, 5)):
        (gradient,) = torch.autograd.grad(joined[0, 2 * way, 5, 5], hidden, retain_graph=True)
        reached = gradient[0].abs().sum(0).nonzero()
        assert (reached.amax(0) - reached.amin(0) + 1).tolist() == [side, side], way


def attended(attention: SelfAttention, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (N, N) averaged over heads, and what is mixed (C, N), one place after the other."""
    places = attention.norm(hidden)[0].flatten(1)
    channels, count = places.shape
    projected = attention.projected.weight[:, :, 0, 0] @ places + attention.projected.bias[:, None]  # type: ignore[index]
    width = channels // attention.heads
    weights, mixed = torch.zeros(count, count), torch.zeros(channels, count)
    for head in range(attention.heads):
        rows = slice(head * width, (head + 1) * width)
        queries, keys, values = (projected[part * channels : (part + 1) * channels][rows] for part in range(3))
        for place in range(count):
            scores = torch.stack([queries[:, place] @ keys[:, other] for other in range(count)]) / math.sqrt(width)
            share = scores.softmax(0)
            weights[place] += share / attention.heads
            mixed[rows, place] = values @ share
    return weights, mixed


@torch.no_grad()
def test_attention_is_that_of_each_place_to_each() -> None:
    attention, hidden = SelfAttention(8, heads=2), noise(1, 8, 3, 5)
    nn.init.eye_(attention.out.weight.flatten(1))
    weights, mixed = attended(attention, hidden)
    torch.testing.assert_close(attention.matrix(hidden)[0], weights)
    torch.testing.assert_close(attention(hidden), hidden + mixed.view(1, 8, 3, 5), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_attention_is_silent_at_first_and_over_a_capped_grid() -> None:
    attention, hidden = SelfAttention(8, most=4), noise(2, 8, 3, 50)
    assert torch.equal(attention(hidden), hidden)
    matrix = attention.matrix(hidden)
    assert matrix.shape == (2, 12, 12)
    torch.testing.assert_close(matrix.sum(-1), torch.ones(2, 12))
    nn.init.eye_(attention.out.weight.flatten(1))
    assert attention(hidden).shape == hidden.shape
