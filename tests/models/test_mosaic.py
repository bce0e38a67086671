from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fragrecon.errors import ConfigError
from fragrecon.models.base import Shape
from fragrecon.models.mosaic import Mosaic

SHAPE: Shape = (3, 8, 8)


def mosaic(**changes: object) -> Mosaic:
    torch.manual_seed(0)
    settings: dict[str, object] = {"width": 32, "depth": 2, "heads": 4, "window": 4, "latent_dim": 6}
    return Mosaic(SHAPE, (2, 2), **(settings | changes)).eval()  # type: ignore[arg-type]


def fragments(puzzles: int = 3, count: int = 12) -> Tensor:
    return torch.rand(puzzles, count, *SHAPE, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_embeddings_have_length_one_for_any_number_of_fragments() -> None:
    for count in (1, 2, 12, 30):
        embedded = mosaic().encode(fragments(2, count))
        assert embedded.shape == (2, count, 6)
        torch.testing.assert_close(embedded.norm(dim=-1), torch.ones(2, count))


@pytest.mark.parametrize("seams", [True, False])
@torch.inference_mode()
def test_another_order_of_fragments_gives_the_same_embeddings_in_that_order(seams: bool) -> None:
    model, order = mosaic(seams=seams), torch.randperm(12, generator=torch.Generator().manual_seed(2))
    some = fragments()
    torch.testing.assert_close(model.encode(some[:, order]), model.encode(some)[:, order], rtol=1e-4, atol=1e-5)
    features = model.features(some)
    cells = model.cell_logits(features)
    assert cells.shape == (3, 12, 4)
    moved = model.cell_logits(model.features(some[:, order]))
    torch.testing.assert_close(moved, cells[:, order], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_puzzle_is_embedded_alike_in_any_batch() -> None:
    model, some = mosaic(), fragments()
    torch.testing.assert_close(model.encode(some[1:2]), model.encode(some)[1:2], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_fragment_is_seen_in_the_light_of_the_others_only_with_context() -> None:
    some, other = fragments(1), fragments(1)
    other[:, 5:] = fragments(2)[1:, 5:]
    for context, alike in ((True, False), (False, True)):
        one, two = (mosaic(context=context).encode(part)[:, :5] for part in (some, other))
        assert torch.allclose(one, two, atol=1e-5) == alike


@torch.inference_mode()
def test_seams_reach_the_embeddings_through_attention_alone() -> None:
    model, some = mosaic(), fragments()
    before = model.encode(some)
    for parameter in model.seam_bias.parameters():
        parameter.zero_()
    without = model.encode(some)
    assert not torch.allclose(before, without, atol=1e-4)
    model.seams = False
    torch.testing.assert_close(model.encode(some), without, rtol=1e-4, atol=1e-5)


def test_every_parameter_learns() -> None:
    model = mosaic().train()
    features = model.features(fragments())
    loss = model.project(features).square().mul(torch.arange(6.0)).sum() + model.cell_logits(features)[..., 0].sum()
    torch.autograd.backward(loss)
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().any()]
    assert still == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 30}, "cannot be shared equally"),
        ({"window": 9}, "from 2 to the fragment's side, 8"),
        ({"window": 1}, "2 to"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mosaic(**change)
