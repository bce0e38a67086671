from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fragrecon.models.base import Shape
from fragrecon.models.mosaic import Edges, Mosaic
from fragrecon.seams import SIDES, seam_features
from tests.descent import descend

SHAPE: Shape = (3, 8, 8)
RIGHT, LEFT, BELOW, ABOVE = range(4)
EVERY_KNOWLEDGE = [(True, True), (True, False), (False, True), (False, False)]
knowing = pytest.mark.parametrize(("seams", "edges"), EVERY_KNOWLEDGE)


def mosaic(shape: Shape = SHAPE, **changes: object) -> Mosaic:
    torch.manual_seed(0)
    settings: dict[str, object] = {"width": 32, "depth": 2, "heads": 4, "window": 4, "latent_dim": 6}
    return Mosaic(shape, (2, 2), **(settings | changes)).eval()  # type: ignore[arg-type]


def fragments(puzzles: int = 3, count: int = 12, shape: Shape = SHAPE) -> Tensor:
    return torch.rand(puzzles, count, *shape, generator=torch.Generator().manual_seed(1))


def edges_of(shape: Shape = SHAPE, **sizes: int) -> Edges:
    torch.manual_seed(3)
    return Edges(shape[0], min(shape[1:]), **sizes).eval()


@torch.inference_mode()
def test_embeddings_have_length_one_for_any_number_of_fragments() -> None:
    for count in (1, 2, 12, 30):
        embedded = mosaic().encode(fragments(2, count))
        assert embedded.shape == (2, count, 6)
        torch.testing.assert_close(embedded.norm(dim=-1), torch.ones(2, count))


@knowing
@torch.inference_mode()
def test_a_solution_has_a_logit_for_every_cell_and_every_neighbour(seams: bool, edges: bool) -> None:
    model = mosaic((3, 6, 9), seams=seams, edges=edges)
    for count in (1, 2, 7):
        some = fragments(2, count, (3, 6, 9))
        solution = model.solve(some)
        assert torch.equal(solution.embeddings, model.encode(some))
        assert solution.cells.shape == (2, count, 4)
        assert solution.sides.shape == (2, count, 4, count + 1)
        assert {part.dtype for part in vars(solution).values()} == {torch.float32}
        # Nothing abuts itself; everything else might.
        itself = torch.eye(count, count + 1, dtype=torch.bool).unsqueeze(1).expand_as(solution.sides)
        assert torch.equal(solution.sides == -torch.inf, itself)
        assert torch.isfinite(solution.sides[~itself]).all()


@knowing
@torch.inference_mode()
def test_another_order_of_fragments_gives_the_same_solution_in_that_order(seams: bool, edges: bool) -> None:
    model, order = mosaic(seams=seams, edges=edges), torch.randperm(12, generator=torch.Generator().manual_seed(2))
    some = fragments()
    before, after = model.solve(some), model.solve(some[:, order])
    torch.testing.assert_close(after.embeddings, before.embeddings[:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.cells, before.cells[:, order], rtol=1e-4, atol=1e-5)
    ends = torch.cat([order, torch.tensor([12])])  # that there is none stays the last
    torch.testing.assert_close(after.sides, before.sides[:, order][..., ends], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(after.sides, before.sides[:, order], atol=1e-2)
    assert not torch.allclose(after.sides, before.sides[..., ends], atol=1e-2)


@knowing
@torch.inference_mode()
def test_that_one_is_right_of_another_is_that_the_other_is_left_of_it(seams: bool, edges: bool) -> None:
    sides = mosaic(seams=seams, edges=edges).solve(fragments()).sides[..., :-1].movedim(2, 0)
    assert torch.equal(sides[RIGHT], sides[LEFT].mT)
    assert torch.equal(sides[BELOW], sides[ABOVE].mT)
    for one, other in ((RIGHT, LEFT), (BELOW, ABOVE), (RIGHT, BELOW), (LEFT, BELOW)):
        assert not torch.allclose(sides[one], sides[other], atol=1e-2)


@torch.inference_mode()
def test_whether_there_is_none_is_told_for_each_side_apart() -> None:
    none = mosaic().solve(fragments()).sides[..., -1]
    assert none.std(1).min() > 1e-3
    assert none.std(2).min() > 1e-3


@torch.inference_mode()
def test_sides_add_what_seams_tell_to_how_ends_match() -> None:
    """Weights set by hand: on one feature of the seams, one of the edges, and no ends."""
    model, some = mosaic(), fragments()
    assert model.seam_sides is not None
    assert model.edges is not None
    model.neighbours.weight.zero_()
    model.neighbours.bias.zero_()
    model.seam_sides.weight.zero_()
    model.seam_sides.weight[0, 0] = -2.0  # right, from touching differences to the right
    model.seam_sides.weight[1, 8 + 2 * Edges.GROUPS + 1] = -3.0  # below, from a group of the lower edges
    seams, predicted = seam_features(some), model.edges(some * 4 - 2)
    sides = model.solve(some).sides
    apart = ~torch.eye(12, dtype=torch.bool).expand(3, 12, 12)
    for side, expected in ((RIGHT, -2 * seams[..., RIGHT]), (BELOW, -3 * predicted[..., 2 * Edges.GROUPS + 1])):
        torch.testing.assert_close(sides[:, :, side, :-1][apart], expected[apart], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_sides_of_ends_that_match_are_their_scalar_product() -> None:
    """Every end is its bias: right (1, ..), left (2, ..), below (3, ..), above (5, ..), of 32 numbers."""
    model = mosaic(seams=False, edges=False)
    model.neighbours.weight.zero_()
    model.neighbours.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 5.0]).repeat_interleave(32))
    sides = model.solve(fragments(1, 3)).sides[0, 0, :, 1]
    assert sides.tolist() == pytest.approx([2 * 32**0.5] * 2 + [15 * 32**0.5] * 2, rel=1e-5)


@torch.inference_mode()
def test_a_puzzle_is_solved_alike_in_any_batch() -> None:
    model, some = mosaic(), fragments()
    alone, whole = model.solve(some[1:2]), model.solve(some)
    for name, found in vars(alone).items():
        torch.testing.assert_close(found, getattr(whole, name)[1:2], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_fragment_is_seen_in_the_light_of_the_others_only_with_context() -> None:
    some, other = fragments(1), fragments(1)
    other[:, 5:] = fragments(2)[1:, 5:]
    for context, alike in ((True, False), (False, True)):
        one, two = (mosaic(context=context).solve(part) for part in (some, other))
        assert torch.allclose(one.embeddings[:, :5], two.embeddings[:, :5], atol=1e-5) == alike
        assert torch.allclose(one.cells[:, :5], two.cells[:, :5], atol=1e-5) == alike


@torch.inference_mode()
def test_seams_and_edges_reach_the_embeddings_through_attention_alone() -> None:
    model, some = mosaic(), fragments()
    plain = mosaic(seams=False, edges=False)
    left_out = plain.load_state_dict(model.state_dict(), strict=False)
    assert left_out.missing_keys == []
    assert {name.split(".")[0] for name in left_out.unexpected_keys} == {"edges", "seam_bias", "seam_sides"}
    assert model.seam_bias is not None
    assert model.seam_sides is not None
    before, without = model.solve(some), plain.solve(some)
    assert not torch.allclose(before.embeddings, without.embeddings, atol=1e-4)
    for parameter in model.seam_bias.parameters():
        parameter.zero_()
    after = model.solve(some)
    torch.testing.assert_close(after.embeddings, without.embeddings, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.cells, without.cells, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(after.sides, without.sides, atol=1e-2)
    model.seam_sides.weight.zero_()
    torch.testing.assert_close(model.solve(some).sides, without.sides, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_each_block_and_head_has_a_bias_of_its_own() -> None:
    model, some = mosaic(), fragments()
    assert model.seam_bias is not None
    last, before = model.seam_bias[-1], model.encode(some)
    assert isinstance(last, torch.nn.Linear)
    for number in range(model.depth * model.heads):
        kept = last.weight[number].clone()
        last.weight[number] = 5.0
        assert not torch.allclose(model.encode(some), before, atol=1e-5), number
        last.weight[number] = kept


@pytest.mark.parametrize(("seams", "edges"), EVERY_KNOWLEDGE)
def test_every_parameter_learns(seams: bool, edges: bool) -> None:
    model = mosaic(seams=seams, edges=edges).train()
    solution = model.solve(fragments())
    sides = solution.sides.log_softmax(-1)
    target = torch.randint(13, (3, 12, 4), generator=torch.Generator().manual_seed(4)).unsqueeze(-1)
    picked = sides.gather(-1, torch.where(target == torch.arange(12).view(1, 12, 1, 1), 12, target))
    loss = solution.embeddings.square().mul(torch.arange(6.0)).sum() + solution.cells[..., 0].sum() - picked.sum()
    torch.autograd.backward(loss)
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().any()]
    assert still == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_sides_can_be_learned_from_what_edges_tell_alone() -> None:
    """A ramp that runs through two images of 2 x 2 cells: only how edges go on tells which abut."""
    height, width = torch.arange(16.0).view(-1, 1), torch.arange(16.0).view(1, -1)
    images = torch.stack([(height + 2 * width) / 45, ((15 - height) + 2 * (15 - width)) / 45 * 0.5])
    tiles = images.unfold(1, 8, 8).unfold(2, 8, 8).reshape(8, 1, 8, 8).expand(8, 3, 8, 8)
    target = torch.full((8, 4), 8)
    for image in (0, 4):
        target[image, RIGHT], target[image + 1, LEFT] = image + 1, image
        target[image + 2, RIGHT], target[image + 3, LEFT] = image + 3, image + 2
        target[image, BELOW], target[image + 2, ABOVE] = image + 2, image
        target[image + 1, BELOW], target[image + 3, ABOVE] = image + 3, image + 1
    model = mosaic(seams=False, context=False).train()

    def loss() -> Tensor:
        sides = model.solve(tiles.unsqueeze(0)).sides
        return torch.nn.functional.cross_entropy(sides.flatten(0, 2), target.flatten())

    losses = descend(model.parameters(), loss, 60, 3e-3)
    assert losses[0] > 1.5
    assert losses[-1] < 0.1
    assert torch.equal(model.eval().solve(tiles.unsqueeze(0)).sides.argmax(-1)[0], target)


# Pairs ---------------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_pairs_are_scored_by_cosines_and_by_the_chance_to_abut() -> None:
    model, some = mosaic(), fragments(2, 7)
    scores, solution = model.pair_scores(some), model.solve(some)
    chance = solution.sides.double().exp()
    chance = chance / chance.sum(-1, keepdim=True)
    for puzzle in range(2):
        for i in range(7):
            for j in range(7):
                one, other = (solution.embeddings[puzzle, k].double().tolist() for k in (i, j))
                cosine = math.fsum(a * b for a, b in zip(one, other, strict=True))
                assert scores.same[puzzle, i, j].item() == pytest.approx(math.exp((cosine - 1) / 0.1), rel=1e-3)
                both = [chance[puzzle, i, :, j].sum().item(), chance[puzzle, j, :, i].sum().item()]
                assert scores.adjacent[puzzle, i, j].item() == pytest.approx(sum(both) / 2, rel=1e-4, abs=1e-7)
    assert scores.adjacent.diagonal(dim1=1, dim2=2).abs().max() == 0
    torch.testing.assert_close(scores.same, scores.same.mT)
    assert torch.equal(scores.adjacent, scores.adjacent.mT)


@pytest.mark.parametrize("count", [2, 3, 12, 40])
@torch.inference_mode()
def test_the_chance_to_abut_is_at_most_one(count: int) -> None:
    """Also where a model sees its only candidate at all four sides."""
    model = mosaic()
    model.none.bias.fill_(-20.0)
    adjacent = model.pair_scores(fragments(3, count)).adjacent
    assert adjacent.min() >= 0
    assert adjacent.max() <= 1 + 1e-6


# Edges ---------------------------------------------------------------------------------------------------------------


def slow_edges(edges: Edges, some: Tensor) -> Tensor:
    """What `Edges` tells of one puzzle (F, C, h, w), side by side, pixel by pixel."""
    count, channels = some.shape[:2]
    predicted: dict[str, list[Tensor]] = {side: [] for side in SIDES}
    for fragment in some:
        turned = {  # so that the seam is the first row of pixels, and what lies along it runs as before
            "above": fragment,
            "below": fragment.flip(1),
            "left": fragment.transpose(1, 2),
            "right": fragment.flip(2).transpose(1, 2),
        }
        for side, pixels in turned.items():
            rows, length = min(6, *fragment.shape[1:]), pixels.shape[2]
            places = []
            for x in range(length):
                near = [min(max(x + step, 0), length - 1) for step in (-2, -1, 0, 1, 2)]
                read = [[pixels[c, row, at] for at in near] for c in range(channels) for row in range(rows)]
                places.append(edges.layers(torch.stack([value for line in read for value in line])))
            predicted[side].append(torch.stack(places).view(length, Edges.GROUPS, edges.size))
    opposite = {"right": "left", "left": "right", "below": "above", "above": "below"}
    logs = torch.zeros(count, count, len(SIDES), Edges.GROUPS, dtype=torch.float64)
    for i in range(count):
        for j in range(count):
            for number, side in enumerate(SIDES):
                difference = (predicted[side][i] - predicted[opposite[side]][j]).double()
                logs[i, j, number] = torch.log(difference.square().mean((0, 2)) + 1e-3)
    return (logs - logs.mean((0, 1), keepdim=True)).flatten(2)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 5, 9), (2, 7, 3)])
@torch.inference_mode()
def test_edges_are_those_of_a_slow_loop(shape: Shape) -> None:
    edges, some = edges_of(shape, hidden=8, size=3), fragments(2, 4, shape) * 4 - 2
    found = edges(some)
    assert found.shape == (2, 4, 4, Edges.FEATURES)
    assert Edges.FEATURES == 16
    for puzzle, expected in zip(found, some, strict=True):
        torch.testing.assert_close(puzzle.double(), slow_edges(edges, expected), rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_edges_of_flat_or_single_fragments_are_finite() -> None:
    for some in (torch.zeros(1, 4, *SHAPE), fragments(2, 1)):
        torch.testing.assert_close(edges_of()(some), torch.zeros(*some.shape[:2], some.shape[1], 16), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_edges_stay_exact_in_half_precision() -> None:
    """What is nearly alike would vanish among squares of eight bits."""
    edges, some = edges_of(), fragments(1, 6)
    with torch.autocast("cpu", torch.bfloat16):
        half = edges(some)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, edges(some), rtol=0, atol=0.15)
    with torch.autocast("cpu", torch.bfloat16):
        solution = mosaic().solve(some)
    assert {part.dtype for part in vars(solution).values()} == {torch.float32}
    torch.testing.assert_close(solution.embeddings.norm(dim=-1), torch.ones(1, 6))
