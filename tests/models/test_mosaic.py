from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from fragrecon.data.adjacency import meeting_sides, neighbours
from fragrecon.data.puzzles import cut
from fragrecon.data.readers.synthetic import Synthetic
from fragrecon.models.base import Shape
from fragrecon.models.mosaic import Edges, Fit, Mosaic, Turns
from fragrecon.seams import FEATURES, SIDES, best_partners, seam_features, swapped, synchronised
from tests.descent import descend
from tests.test_seams import OPPOSITE, permuted, places_after, turned, turns

SHAPE: Shape = (3, 8, 8)
RIGHT, BELOW, LEFT, ABOVE = range(4)
EVERY_KNOWLEDGE = [(True, True), (True, False), (False, True), (False, False)]
knowing = pytest.mark.parametrize(("seams", "edges"), EVERY_KNOWLEDGE)
turning = pytest.mark.parametrize("rotations", [False, True])


def mosaic(shape: Shape = SHAPE, **changes: object) -> Mosaic:
    torch.manual_seed(0)
    settings: dict[str, object] = {"width": 32, "depth": 2, "heads": 4, "window": 4, "latent_dim": 6}
    return Mosaic(shape, (2, 2), **(settings | changes)).eval()  # type: ignore[arg-type]


def fragments(puzzles: int = 3, count: int = 12, shape: Shape = SHAPE) -> Tensor:
    return torch.rand(puzzles, count, *shape, generator=torch.Generator().manual_seed(1))


def known_of(model: Mosaic, some: Tensor) -> Tensor:
    """Tables of ways of all seams, as `Mosaic` gives them to `Fit`."""
    assert model.edges is not None
    return torch.cat([seam_features(some, model.rotations), model.edges(some * 4 - 2, model.rotations)], 1)


def fit_of(model: Mosaic) -> Fit:
    assert model.fit is not None
    return model.fit


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
@pytest.mark.parametrize(("shape", "rotations"), [((3, 6, 9), False), (SHAPE, True)])
@torch.inference_mode()
def test_a_solution_has_a_logit_for_every_cell_and_every_neighbour(
    seams: bool, edges: bool, shape: Shape, rotations: bool
) -> None:
    model = mosaic(shape, seams=seams, edges=edges, rotations=rotations)
    for count in (1, 2, 7):
        some = fragments(2, count, shape)
        solution = model.solve(some)
        assert torch.equal(solution.embeddings, model.encode(some))
        assert solution.cells.shape == (2, count, 4)
        assert solution.sides.shape == (2, count, 4, (4 if rotations else 1) * count + 1)
        parts = [solution.embeddings, solution.cells, solution.sides]
        if rotations:
            assert solution.rotations is not None
            assert solution.rotations.shape == (2, count, 4)
            assert torch.isfinite(solution.rotations).all()
            parts.append(solution.rotations)
        else:
            assert solution.rotations is None
        assert {part.dtype for part in parts} == {torch.float32}
        # Nothing abuts itself; everything else might.
        for fragment in range(count):
            own = solution.sides[:, fragment]
            itself = torch.tensor([b % count == fragment for b in range(own.shape[-1] - 1)] + [False])
            assert (own[..., itself] == -torch.inf).all()
            assert torch.isfinite(own[..., ~itself]).all()


def reordered(order: Tensor, rotations: bool) -> Tensor:
    """The columns of `Solution.sides` after fragments were put in another order; that there is none stays the last."""
    ways = 4 if rotations else 1
    return torch.cat([*(order + way * len(order) for way in range(ways)), torch.tensor([ways * len(order)])])


@turning
@knowing
@torch.inference_mode()
def test_another_order_of_fragments_gives_the_same_solution_in_that_order(
    seams: bool, edges: bool, rotations: bool
) -> None:
    model, order = (
        mosaic(seams=seams, edges=edges, rotations=rotations),
        torch.randperm(12, generator=torch.Generator().manual_seed(2)),
    )
    some = fragments()
    before, after = model.solve(some), model.solve(some[:, order])
    torch.testing.assert_close(after.embeddings, before.embeddings[:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.cells, before.cells[:, order], rtol=1e-4, atol=1e-5)
    ends = reordered(order, rotations)
    torch.testing.assert_close(after.sides, before.sides[:, order][..., ends], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(after.sides, before.sides[:, order], atol=1e-2)
    assert not torch.allclose(after.sides, before.sides[..., ends], atol=1e-2)
    if rotations:
        assert before.rotations is not None
        assert after.rotations is not None
        torch.testing.assert_close(after.rotations, before.rotations[:, order], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(after.rotations, before.rotations, atol=1e-2)


@knowing
@torch.inference_mode()
def test_that_one_is_right_of_another_is_that_the_other_is_left_of_it(seams: bool, edges: bool) -> None:
    sides = mosaic(seams=seams, edges=edges).solve(fragments()).sides[..., :-1].movedim(2, 0)
    torch.testing.assert_close(sides[RIGHT], sides[LEFT].mT, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sides[BELOW], sides[ABOVE].mT, rtol=1e-4, atol=1e-4)
    for one, other in ((RIGHT, LEFT), (BELOW, ABOVE), (RIGHT, BELOW), (LEFT, BELOW)):
        assert not torch.allclose(sides[one], sides[other], atol=1e-2)


@knowing
@torch.inference_mode()
def test_two_sides_that_meet_share_a_logit_in_all_sixteen_ways(seams: bool, edges: bool) -> None:
    sides = mosaic(seams=seams, edges=edges, rotations=True).solve(fragments(2, 5)).sides
    ways = {(s, t): sides[:, :, s, 5 * t : 5 * t + 5] for s in range(4) for t in range(4)}
    for (s, t), one in ways.items():
        torch.testing.assert_close(one, ways[t, s].mT, rtol=1e-4, atol=1e-4)
        assert all(way == (s, t) or not torch.allclose(one, other, atol=1e-2) for way, other in ways.items())


@torch.inference_mode()
def test_whether_there_is_none_is_told_for_each_side_apart() -> None:
    none = mosaic().solve(fragments()).sides[..., -1]
    assert none.std(1).min() > 1e-3
    assert none.std(2).min() > 1e-3


@turning
@torch.inference_mode()
def test_sides_add_what_seams_tell_to_how_ends_match(rotations: bool) -> None:
    """Weights set by hand: a score of one feature of the pixels, one of a group of edges, and no ends."""
    model, some = mosaic(rotations=rotations), fragments()
    fit = fit_of(model)
    for layer in (model.neighbours, fit.mix, fit.sides):
        for parameter in layer.parameters():
            parameter.zero_()
    fit.mix.weight[0, 1] = -2.0  # continued differences
    fit.mix.weight[1, FEATURES + 2] = -3.0  # a group of the edges
    fit.sides.weight[0] = torch.tensor([1.5, 0.0, 0.0, 0.5])
    fit.sides.bias[0] = 0.25
    known = known_of(model, some)
    one, other = -2 * known[:, 1], -3 * known[:, FEATURES + 2]
    one, other = (score - score.mean((1, 2, 3), keepdim=True) for score in (one, other))
    expected = 1.5 * one + 0.5 * best_partners(other, 12) + 0.25
    sides = model.solve(some).sides[..., :-1]
    for side in range(4):
        found = sides[:, :, side]
        ways = expected[:, 0, 12 * side : 12 * side + 12] if rotations else expected[:, side]
        apart = ~torch.eye(12, dtype=torch.bool).repeat(1, 4 if rotations else 1).expand_as(found)
        torch.testing.assert_close(found[apart], ways[apart], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_sides_of_ends_that_match_are_their_scalar_product() -> None:
    """Every end is its bias, 32 times the same number: two for each side, of which one meets the other's other."""
    one, other = [1.0, 2.0, 3.0, 5.0], [7.0, 11.0, 13.0, 17.0]
    for rotations in (False, True):
        model = mosaic(seams=False, edges=False, rotations=rotations)
        model.neighbours.weight.zero_()
        model.neighbours.bias.copy_(torch.tensor([*one, *other]).repeat_interleave(32))
        sides = model.solve(fragments(1, 3)).sides[0, 0]
        for s in range(4):
            for t in range(4) if rotations else [(s + 2) % 4]:
                found = sides[s, 3 * t + 1 if rotations else 1].item()
                assert found == pytest.approx((one[s] * other[t] + one[t] * other[s]) * 32 / 128**0.5, rel=1e-5)


@turning
@torch.inference_mode()
def test_a_puzzle_is_solved_alike_in_any_batch(rotations: bool) -> None:
    model, some = mosaic(rotations=rotations), fragments()
    alone, whole = model.solve(some[1:2]), model.solve(some)
    for name, found in vars(alone).items():
        if name != "rotations" or rotations:
            torch.testing.assert_close(found, getattr(whole, name)[1:2], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_fragment_is_seen_in_the_light_of_the_others_only_with_context() -> None:
    some, other = fragments(1), fragments(1)
    other[:, 5:] = fragments(2)[1:, 5:]
    for context, alike in ((True, False), (False, True)):
        one, two = (mosaic(context=context).solve(part) for part in (some, other))
        assert torch.allclose(one.embeddings[:, :5], two.embeddings[:, :5], atol=1e-5) == alike
        assert torch.allclose(one.cells[:, :5], two.cells[:, :5], atol=1e-5) == alike


@turning
@torch.inference_mode()
def test_seams_and_edges_reach_the_embeddings_through_attention_alone(rotations: bool) -> None:
    model, some = mosaic(rotations=rotations), fragments()
    for name, parameter in model.named_parameters():
        if "told" in name:
            parameter.zero_()  # nothing is learned from rotations, which follow from seams as well
    plain = mosaic(seams=False, edges=False, rotations=rotations)
    left_out = plain.load_state_dict(model.state_dict(), strict=False)
    assert left_out.missing_keys == []
    assert {name.split(".")[0] for name in left_out.unexpected_keys} == {"edges", "fit"}
    before, without = model.solve(some), plain.solve(some)
    assert not torch.allclose(before.embeddings, without.embeddings, atol=1e-4)
    for parameter in fit_of(model).layers.parameters():
        parameter.zero_()
    after = model.solve(some)
    torch.testing.assert_close(after.embeddings, without.embeddings, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.cells, without.cells, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(after.sides, without.sides, atol=1e-2)
    for parameter in fit_of(model).sides.parameters():
        parameter.zero_()
    torch.testing.assert_close(model.solve(some).sides, without.sides, rtol=1e-4, atol=1e-5)


@turning
@torch.inference_mode()
def test_each_block_and_head_has_a_bias_of_its_own(rotations: bool) -> None:
    model, some = mosaic(rotations=rotations), fragments()
    last, before = fit_of(model).layers[-1], model.encode(some)
    assert isinstance(last, torch.nn.Linear)
    assert len(last.weight) == model.depth * model.heads
    for number in range(model.depth * model.heads):
        kept = last.weight[number].clone()
        last.weight[number] = 5.0
        assert not torch.allclose(model.encode(some), before, atol=1e-5), number
        last.weight[number] = kept


@turning
@knowing
def test_every_parameter_learns(seams: bool, edges: bool, rotations: bool) -> None:
    model = mosaic(seams=seams, edges=edges, rotations=rotations).train()
    solution = model.solve(fragments())
    none = 48 if rotations else 12
    random = torch.Generator().manual_seed(4)
    target = torch.randint(none + 1, (3, 12, 4), generator=random).unsqueeze(-1)
    itself = (target < none) & (target % 12 == torch.arange(12).view(1, 12, 1, 1))
    picked = solution.sides.log_softmax(-1).gather(-1, torch.where(itself, none, target))
    loss = solution.embeddings.square().mul(torch.arange(6.0)).sum() + solution.cells[..., 0].sum() - picked.sum()
    if solution.rotations is not None:
        loss = loss + solution.rotations[..., 1].sum()
    torch.autograd.backward(loss)
    still = {name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-4}
    assert still == set()
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

    losses = descend(model.parameters(), loss, 90, 3e-3)
    assert losses[0] > 1.5
    assert losses[-1] < 0.1
    assert torch.equal(model.eval().solve(tiles.unsqueeze(0)).sides.argmax(-1)[0], target)


# Fit -----------------------------------------------------------------------------------------------------------------


@turning
@torch.inference_mode()
def test_scores_have_no_mean_and_do_not_depend_on_a_constant(rotations: bool) -> None:
    model, some = mosaic(rotations=rotations), fragments()
    fit, known = fit_of(model), known_of(model, some)
    tables = fit(known, 12)
    assert tables.shape == (3, 2 * Fit.SCORES, *known.shape[2:])
    torch.testing.assert_close(tables[:, : Fit.SCORES].mean((2, 3, 4)), torch.zeros(3, Fit.SCORES), rtol=0, atol=1e-5)
    torch.testing.assert_close(tables[:, Fit.SCORES :], best_partners(tables[:, : Fit.SCORES], 12))
    torch.testing.assert_close(fit(known + 3, 12), tables, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tables, swapped(tables), rtol=1e-4, atol=1e-3)


@torch.inference_mode()
def test_rotating_fragments_permutes_the_scores_of_seams() -> None:
    model, some, quarters = mosaic(rotations=True), fragments(), turns(3, 12)
    fit, places = fit_of(model), places_after(quarters)
    before, after = (fit(known_of(model, own), 12) for own in (some, turned(some, quarters)))
    torch.testing.assert_close(permuted(after[:, :, 0], places), before[:, :, 0], rtol=1e-4, atol=1e-3)
    assert not torch.allclose(after, before, atol=0.1)
    one, other = (fit.side_logits(tables) for tables in (before, after))
    torch.testing.assert_close(permuted(other, places), one, rtol=1e-4, atol=1e-3)


@turning
@torch.inference_mode()
def test_biases_are_those_of_a_slow_loop(rotations: bool) -> None:
    model, some = mosaic(rotations=rotations), fragments(2, 4)
    fit = fit_of(model)
    tables = fit(known_of(model, some), 4)
    found = fit.biases(tables, 4)
    assert found.shape == (2, model.depth * model.heads, 4, 4)
    first, last = fit.layers[0], fit.layers[-1]
    assert isinstance(first, torch.nn.Linear)
    assert isinstance(last, torch.nn.Linear)
    for puzzle in range(2):
        for i in range(4):
            for j in range(4):
                told = [
                    tables[puzzle, score, 0, 4 * s + i, 4 * t + j] if rotations else tables[puzzle, score, s, i, j]
                    for score in range(2 * Fit.SCORES)
                    for s in range(4)
                    for t in (range(4) if rotations else [(s + 2) % 4])
                ]
                hidden = torch.nn.functional.gelu(first.weight @ torch.stack(told) + first.bias)
                expected = last.weight @ hidden
                torch.testing.assert_close(found[puzzle, :, i, j], expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_rotating_fragments_permutes_the_sides_that_seams_predict() -> None:
    model, some, quarters = mosaic(rotations=True, context=False), fragments(2, 6), turns(2, 6)
    for layer in (model.neighbours, model.none):
        layer.weight.zero_()
        layer.bias.zero_()
    before, after = (model.solve(own).sides for own in (some, turned(some, quarters)))
    places = places_after(quarters)
    for puzzle in range(2):
        for fragment in range(6):
            for side in range(4):
                now = int(places[puzzle, 6 * side + fragment]) // 6
                found = after[puzzle, fragment, now, places[puzzle]]
                torch.testing.assert_close(found, before[puzzle, fragment, side, :-1], rtol=1e-4, atol=1e-3)


@torch.inference_mode()
def test_a_single_rotated_fragment_changes_what_is_known_of_its_own_sides_only() -> None:
    model, some = mosaic(rotations=True), fragments(1, 5)
    quarters = torch.tensor([[0, 0, 3, 0, 0]])
    before, after = (known_of(model, own)[0, :, 0].view(-1, 4, 5, 4, 5) for own in (some, turned(some, quarters)))
    still = torch.tensor([0, 1, 3, 4])
    torch.testing.assert_close(after[:, :, still][..., still], before[:, :, still][..., still], rtol=1e-4, atol=1e-3)
    assert not torch.allclose(after[:, :, 2], before[:, :, 2], atol=0.1)
    solution = model.solve(turned(some, quarters))
    assert solution.rotations is not None
    shapes = [solution.embeddings.shape, solution.cells.shape, solution.rotations.shape, solution.sides.shape]
    assert shapes == [(1, 5, 6), (1, 5, 4), (1, 5, 4), (1, 5, 4, 21)]
    assert all(torch.isfinite(part).all() for part in (solution.embeddings, solution.cells, solution.rotations))
    assert (solution.sides == -torch.inf).sum() == 5 * 16
    assert not solution.sides.isnan().any()


# Pairs ---------------------------------------------------------------------------------------------------------------


@turning
@torch.inference_mode()
def test_pairs_are_scored_by_cosines_and_by_the_chance_to_abut(rotations: bool) -> None:
    model, some = mosaic(rotations=rotations), fragments(2, 7)
    scores, solution = model.pair_scores(some), model.solve(some)
    chance = solution.sides.double().exp()
    chance = chance / chance.sum(-1, keepdim=True)
    for puzzle in range(2):
        for i in range(7):
            for j in range(7):
                one, other = (solution.embeddings[puzzle, k].double().tolist() for k in (i, j))
                cosine = math.fsum(a * b for a, b in zip(one, other, strict=True))
                assert scores.same[puzzle, i, j].item() == pytest.approx(math.exp((cosine - 1) / 0.1), rel=1e-3)
                both = [chance[puzzle, a, :, b:-1:7].sum().item() for a, b in ((i, j), (j, i))]
                assert scores.adjacent[puzzle, i, j].item() == pytest.approx(sum(both) / 2, rel=1e-4, abs=1e-7)
    assert scores.adjacent.diagonal(dim1=1, dim2=2).abs().max() == 0
    torch.testing.assert_close(scores.same, scores.same.mT)
    assert torch.equal(scores.adjacent, scores.adjacent.mT)


@turning
@pytest.mark.parametrize("count", [2, 3, 12, 40])
@torch.inference_mode()
def test_the_chance_to_abut_is_at_most_one(count: int, rotations: bool) -> None:
    """Also where a model sees its only candidate at all four sides."""
    model = mosaic(rotations=rotations)
    model.none.bias.fill_(-20.0)
    adjacent = model.pair_scores(fragments(3, count)).adjacent
    assert adjacent.min() >= 0
    assert adjacent.max() <= 1 + 1e-6


# Edges ---------------------------------------------------------------------------------------------------------------


def slow_features(edges: Edges, some: Tensor) -> dict[str, list[Tensor]]:
    """What `Edges` predicts along each side of each fragment (F, C, h, w), as (length, groups, size)."""
    predicted: dict[str, list[Tensor]] = {side: [] for side in SIDES}
    for fragment in some:
        for side, quarter in (("above", 0), ("right", 1), ("below", 2), ("left", 3)):
            pixels = torch.rot90(fragment, quarter, (1, 2))  # the seam is the first row of pixels
            channels, rows, length = pixels.shape[0], min(8, *fragment.shape[1:]), pixels.shape[2]
            places = []
            for x in range(length):
                near = [min(max(x + step, 0), length - 1) for step in (-3, -2, -1, 0, 1, 2, 3)]
                read = [[pixels[c, row, at] for at in near] for c in range(channels) for row in range(rows)]
                places.append(edges.layers(torch.stack([value for line in read for value in line])))
            predicted[side].append(torch.stack(places).view(length, Edges.GROUPS, edges.size))
    return predicted


def slow_distance(one: Tensor, other: Tensor) -> Tensor:
    """The distance (groups,) of two sides, whose clockwise orders are opposite along a seam."""
    difference = (one - other.flip(0)).double()
    return torch.log(difference.square().mean((0, 2)) + 1e-3)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 5, 9), (2, 7, 3)])
@torch.inference_mode()
def test_edges_are_those_of_a_slow_loop(shape: Shape) -> None:
    edges, some = edges_of(shape, hidden=8, size=3), fragments(2, 4, shape) * 4 - 2
    found = edges(some, rotations=False)
    assert found.shape == (2, Edges.GROUPS, 4, 4, 4)
    for puzzle in range(2):
        predicted = slow_features(edges, some[puzzle])
        for number, side in enumerate(SIDES):
            for i in range(4):
                for j in range(4):
                    expected = slow_distance(predicted[side][i], predicted[OPPOSITE[side]][j])
                    told = found[puzzle, :, number, i, j].double()
                    torch.testing.assert_close(told, expected, rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_edges_of_any_two_sides_are_those_of_a_slow_loop() -> None:
    edges, some = edges_of((2, 6, 6), hidden=8, size=3), fragments(1, 3, (2, 6, 6)) * 4 - 2
    (found,), predicted = edges(some, rotations=True), slow_features(edges, some[0])
    assert found.shape == (Edges.GROUPS, 1, 12, 12)
    for s, side in enumerate(SIDES):
        for t, other in enumerate(SIDES):
            for i in range(3):
                for j in range(3):
                    expected = slow_distance(predicted[side][i], predicted[other][j])
                    told = found[:, 0, 3 * s + i, 3 * t + j].double()
                    torch.testing.assert_close(told, expected, rtol=1e-3, atol=1e-3)


@turning
@torch.inference_mode()
def test_edges_of_flat_or_single_fragments_are_finite(rotations: bool) -> None:
    assert torch.isfinite(edges_of()(fragments(2, 1), rotations)).all()
    flat = edges_of()(torch.zeros(1, 4, *SHAPE), rotations)
    torch.testing.assert_close(flat, torch.full_like(flat, math.log(1e-3)), rtol=0, atol=1e-2)


@turning
@torch.inference_mode()
def test_edges_stay_exact_in_half_precision(rotations: bool) -> None:
    """What is nearly alike would vanish among squares of eight bits."""
    edges, some = edges_of(), fragments(1, 6)
    with torch.autocast("cpu", torch.bfloat16):
        half = edges(some, rotations)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, edges(some, rotations), rtol=0, atol=0.15)
    with torch.autocast("cpu", torch.bfloat16):
        solution = mosaic(rotations=rotations).solve(some)
    parts = [part for part in vars(solution).values() if part is not None]
    assert len(parts) == 3 + rotations
    assert {part.dtype for part in parts} == {torch.float32}
    torch.testing.assert_close(solution.embeddings.norm(dim=-1), torch.ones(1, 6))


# Turns ---------------------------------------------------------------------------------------------------------------

QUARTERS = torch.tensor([[1, 3, 0, 2, 2, 1, 0, 0]])
"""Rotations of the fragments of two images of four fragments each."""


def known_ties() -> Tensor:
    """Ties of two images whose true seams are certain."""
    sources, cells = torch.arange(8).unsqueeze(0) // 4, torch.arange(8).unsqueeze(0) % 4
    met = meeting_sides(neighbours(sources, cells, (2, 2), 2), QUARTERS)[0].T.flatten()  # (4 sides * 8 fragments,)
    certain = torch.full((1, 1, 32, 32), -40.0)
    certain[0, 0, torch.arange(32)[met < 32], met[met < 32]] = 40.0
    fit = Fit(2, 16, 1)
    fit.side_logits = lambda _: certain  # type: ignore[assignment, method-assign]
    return fit.ties(torch.zeros(1, 4, 1, 32, 32), 8)


def test_ties_are_the_relative_rotations_of_fragments_that_touch() -> None:
    ties = known_ties()
    assert ties.shape == (1, 4, 8, 8)
    for i in range(8):
        for j in range(8):
            touch = i // 4 == j // 4 and (i % 4) ^ (j % 4) in (1, 2)
            more = int((QUARTERS[0, i] - QUARTERS[0, j]) % 4)
            assert ties[0, more, i, j] >= (1 if touch else 0)
            assert ties[0, :, i, j].sum() - ties[0, more, i, j] < 0.3


def test_rotations_between_all_fragments_of_an_image_follow_from_those_of_fragments_that_touch() -> None:
    """Three images of four by four fragments; one tie in ten is wrong and half as sure, and joins any two."""
    random = torch.Generator().manual_seed(0)
    quarters = torch.randint(4, (48,), generator=random)
    between = (quarters.view(-1, 1) - quarters) % 4
    ties = torch.zeros(1, 4, 48, 48)
    for i in range(48):
        for j in [i + 1] * (i % 4 < 3) + [i + 4] * (i % 16 < 12):
            a, b, r, sure = i, j, int(between[i, j]), 1.0
            if torch.rand((), generator=random) < 0.1:
                a, b, r = (int(torch.randint(most, (), generator=random)) for most in (48, 48, 4))
                sure = 0.5
            ties[0, r, a, b] = ties[0, -r % 4, b, a] = sure
    found = synchronised(ties)[0]
    image = torch.arange(48) // 16
    same = image.view(-1, 1) == image
    assert (found > 0).sum(0).max() == 1
    assert (found.argmax(0) == between)[same].double().mean() > 0.95
    assert found.sum(0)[same].mean() > 0.5
    assert found.sum(0)[~same].mean() < 0.1
    torch.testing.assert_close(found[0].diagonal(), torch.ones(48))
    torch.testing.assert_close(found, found[[0, 3, 2, 1]].mT)


def test_fragments_that_touch_none_are_related_to_themselves_alone() -> None:
    torch.testing.assert_close(synchronised(torch.zeros(1, 4, 3, 3))[0, 0], torch.eye(3))
    torch.testing.assert_close(synchronised(torch.ones(1, 4, 3, 3))[0, 0], torch.eye(3))  # any rotation is as likely


@torch.inference_mode()
def test_one_fragment_whose_rotation_is_known_tells_those_of_its_image_alone() -> None:
    turns = Turns(4)
    turns.own, turns.shared = torch.nn.Identity(), torch.nn.Identity()  # type: ignore[assignment]
    hidden = torch.zeros(1, 8, 4)
    hidden[0, 0, 1] = 3.0
    found = turns(hidden, synchronised(known_ties())).softmax(-1)[0]
    assert torch.equal(found[:4].argmax(-1), QUARTERS[0, :4])
    assert found[:4].max(-1).values.min() > 0.5
    torch.testing.assert_close(found[4:], torch.full((4, 4), 0.25), rtol=0, atol=0.02)


@torch.inference_mode()
def test_turns_are_those_of_a_slow_loop() -> None:
    turns, random = Turns(6), torch.Generator().manual_seed(0)
    hidden, relative = torch.randn(2, 5, 6, generator=random), torch.rand(2, 4, 5, 5, generator=random)
    shared, logits = turns.shared(hidden), turns.own(hidden).clone()
    for b, i, quarter in itertools.product(range(2), range(5), range(4)):
        for more, j in itertools.product(range(4), range(5)):
            logits[b, i, quarter] += relative[b, more, i, j] * shared[b, j, (quarter - more) % 4]
    torch.testing.assert_close(turns(hidden, relative), logits)


@pytest.mark.parametrize("seed", range(4))
def test_a_new_model_finds_neighbours_by_their_seams_whatever_its_seed(seed: int) -> None:
    (images, *_) = (block.images for block in Synthetic((64, 64), 3, test_images=6).blocks("test"))
    fragments = cut(torch.from_numpy(images).float() / 255, (16, 16)).flatten(0, 1).unsqueeze(0)
    torch.manual_seed(seed)
    model = Mosaic((3, 16, 16), (4, 4), width=32, depth=1, heads=2).eval()
    sources, cells = torch.arange(96).unsqueeze(0) // 16, torch.arange(96).unsqueeze(0) % 16
    beside = neighbours(sources, cells, (4, 4), 6)
    with torch.inference_mode():
        found = model.solve(fragments).sides[..., :-1].argmax(-1)
    assert (found == beside)[beside < 96].float().mean() > 0.3  # 1 in 95 by chance
