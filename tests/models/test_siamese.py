from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fragrecon.models.base import Shape, count_parameters
from fragrecon.models.siamese import Siamese

SHAPE: Shape = (3, 8, 8)


def siamese(shape: Shape = SHAPE, **changes: object) -> Siamese:
    torch.manual_seed(0)
    settings: dict[str, object] = {"latent_dim": 10, "channels": [4, 6, 8], "hidden": 7}
    model = Siamese(shape, **(settings | changes))  # type: ignore[arg-type]
    with torch.no_grad():  # running means of its own, as training leaves them
        model.train().encode(fragments(shape=shape))
    return model.eval()


def fragments(puzzles: int = 3, count: int = 6, shape: Shape = SHAPE) -> Tensor:
    return torch.rand(puzzles, count, *shape, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_logits_are_those_of_a_layer_that_reads_product_first_and_second_one_behind_the_other() -> None:
    model, some = siamese(), fragments()
    whole = nn.Linear(30, 7)
    whole.weight.copy_(torch.cat([model.product.weight, model.first.weight, model.second.weight], 1))
    whole.bias.copy_(model.product.bias)
    embedded, logits = model.encode(some), model.pair_logits(some)
    assert logits.same.shape == logits.adjacent.shape == (3, 6, 6)
    last: Any = model.head
    for puzzle in range(3):
        for i in range(6):
            for j in range(6):
                one, other = embedded[puzzle, i], embedded[puzzle, j]
                expected = last(whole(torch.cat([one * other, one, other])))
                found = torch.stack([logits.same[puzzle, i, j], logits.adjacent[puzzle, i, j]])
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(logits.same, logits.same.mT, atol=1e-4), "the order of a pair should count"
    assert not torch.allclose(logits.same, logits.adjacent, atol=1e-2)


@torch.inference_mode()
def test_scores_are_probabilities_alike_in_both_orders() -> None:
    model, some = siamese(), fragments()
    logits, scores = model.pair_logits(some), model.pair_scores(some)
    for name in ("same", "adjacent"):
        found, given = getattr(scores, name), getattr(logits, name).double()
        for puzzle in range(3):
            for i in range(6):
                for j in range(6):
                    both = [1 / (1 + (-given[puzzle, a, b]).exp().item()) for a, b in ((i, j), (j, i))]
                    assert found[puzzle, i, j].item() == pytest.approx(sum(both) / 2, rel=1e-5)
        assert torch.equal(found, found.mT)
        assert 0 < found.min() < found.max() < 1


@torch.inference_mode()
def test_embeddings_alone_are_dropped_out() -> None:
    last = siamese(dropout=0.25).encoder[-1]
    assert isinstance(last, nn.Dropout)
    assert last.p == 0.25
    model, some = siamese(dropout=0.0).train(), fragments()
    assert torch.equal(model.pair_logits(some).same, model.pair_logits(some).same)


def test_the_encoder_convolves_three_times_and_halves_twice() -> None:
    parts = [(type(part).__name__, getattr(part, "out_channels", None)) for part in siamese().encoder.modules()]
    kinds = [part for part in parts if part[0] != "Sequential"]
    block = [("BatchNorm2d", None), ("ReLU", None)]
    assert kinds == [
        ("Conv2d", 4),
        *block,
        ("Conv2d", 6),
        *block,
        ("MaxPool2d", None),
        ("Conv2d", 8),
        *block,
        ("MaxPool2d", None),
        ("Flatten", None),
        ("Linear", None),
        ("ReLU", None),
        ("Dropout", None),
    ]


def test_parameters_of_the_recipe_are_counted_by_hand() -> None:
    convolutions = 9 * (3 * 32 + 32 * 64 + 64 * 128) + 2 * (32 + 64 + 128)
    embedding = 128 * 4 * 4 * 256 + 256
    pairs = 3 * 256 * 128 + 128 + 128 * 2 + 2
    assert count_parameters(Siamese((3, 16, 16))) == convolutions + embedding + pairs


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 9), (3, 16, 8)])
def test_fragments_of_any_shape_from_four_pixels_on_are_taken(shape: Shape) -> None:
    model = siamese(shape)
    assert model.pair_logits(fragments(2, 3, shape)).same.shape == (2, 3, 3)


def test_every_parameter_learns() -> None:
    model = siamese().train()
    logits = model.pair_logits(fragments())
    torch.autograd.backward((logits.same * torch.arange(6.0)).square().mean() + logits.adjacent.square().mean())
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().any()]
    assert still == []


def test_half_precision_gives_logits_of_single_precision() -> None:
    model = siamese()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        logits = model.pair_logits(fragments())
    assert logits.same.dtype == logits.adjacent.dtype == torch.float32
