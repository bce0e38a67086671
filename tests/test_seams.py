from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fragrecon.data.puzzles import cut
from fragrecon.seams import (
    FEATURES,
    SIDES,
    best_partners,
    for_all_ways,
    log_mean_squared,
    seam_features,
    strips,
    swapped,
)

OPPOSITE = {"right": "left", "below": "above", "left": "right", "above": "below"}
TO_THE_RIGHT = {"right": 0, "below": 1, "left": 2, "above": 3}
"""Counterclockwise quarter turns of a fragment after which the side is on the right."""
TO_THE_LEFT = {"right": 2, "below": 3, "left": 0, "above": 1}
AFTER_A_TURN = {"right": "above", "above": "left", "left": "below", "below": "right"}
"""Where a side of a fragment is after one counterclockwise quarter turn."""


def fragments(puzzles: int = 2, count: int = 5, shape: tuple[int, int, int] = (3, 4, 6)) -> Tensor:
    return torch.rand(puzzles, count, *shape, generator=torch.Generator().manual_seed(0))


def turns(puzzles: int = 2, count: int = 5) -> Tensor:
    """Quarter turns, all of 0..3 among any four fragments in a row."""
    return torch.arange(puzzles * count).view(puzzles, count) * 7 % 4


def turned(some: Tensor, quarters: Tensor) -> Tensor:
    """Each fragment (B, F, C, h, h) rotated counterclockwise by its number of quarter turns."""
    rows = [
        [torch.rot90(one, q, (1, 2)) for one, q in zip(puzzle, number, strict=True)]
        for puzzle, number in zip(some, quarters.tolist(), strict=True)
    ]
    return torch.stack([torch.stack(row) for row in rows])


def places_after(quarters: Tensor) -> Tensor:
    """The row (B, 4 F) of a table of ways at which each side of each fragment is after it was rotated."""
    puzzles, count = quarters.shape
    places = torch.zeros(puzzles, 4 * count, dtype=torch.long)
    for puzzle in range(puzzles):
        for number, side in enumerate(SIDES):
            for fragment in range(count):
                now = side
                for _ in range(int(quarters[puzzle, fragment])):
                    now = AFTER_A_TURN[now]
                places[puzzle, number * count + fragment] = SIDES.index(now) * count + fragment
    return places


def permuted(table: Tensor, places: Tensor) -> Tensor:
    """The rows and columns of tables (B, K, R, R) that are at these places (B, R)."""
    return torch.stack([own[:, place][..., place] for own, place in zip(table, places, strict=True)])


def test_sides_are_clockwise_and_a_turn_moves_each_to_the_one_before() -> None:
    assert [SIDES[(number + 2) % 4] for number in range(4)] == [OPPOSITE[side] for side in SIDES]
    assert [SIDES[number - 1] for number in range(4)] == [AFTER_A_TURN[side] for side in SIDES]


# Strips ---------------------------------------------------------------------------------------------------------------


def slow_strip(fragment: Tensor, side: str, depth: int) -> list[list[list[float]]]:
    """Along the seam, clockwise, colour, and from the seam inwards, of one fragment (C, h, w)."""
    channels, height, width = fragment.shape
    places: dict[str, Callable[[int, int], tuple[int, int]]] = {
        "right": lambda along, inwards: (along, width - 1 - inwards),
        "below": lambda along, inwards: (height - 1 - inwards, width - 1 - along),
        "left": lambda along, inwards: (height - 1 - along, inwards),
        "above": lambda along, inwards: (inwards, along),
    }
    place, length = places[side], height if side in ("right", "left") else width
    return [
        [[fragment[c][place(along, inwards)].item() for inwards in range(depth)] for c in range(channels)]
        for along in range(length)
    ]


@pytest.mark.parametrize(("shape", "depth"), [((3, 4, 6), 1), ((3, 4, 6), 3), ((1, 5, 3), 3), ((2, 2, 2), 2)])
def test_strips_are_those_of_a_slow_loop(shape: tuple[int, int, int], depth: int) -> None:
    some = fragments(shape=shape)
    found = strips(some, depth)
    lengths = [shape[1], shape[2], shape[1], shape[2]]
    assert [strip.shape for strip in found] == [(2, 5, length, shape[0], depth) for length in lengths]
    for puzzle in range(2):
        for place in range(5):
            for side, strip in zip(SIDES, found, strict=True):
                assert strip[puzzle, place].tolist() == slow_strip(some[puzzle, place], side, depth), side


def test_strips_are_the_right_columns_of_rotated_fragments() -> None:
    some = fragments(shape=(3, 5, 5))
    for side, strip in zip(SIDES, strips(some, 3), strict=True):
        pixels = torch.rot90(some, TO_THE_RIGHT[side], (-2, -1))
        for inwards in range(3):
            assert torch.equal(strip[..., inwards], pixels[..., -1 - inwards].mT), side


def test_strips_of_a_rotated_fragment_are_those_of_other_sides() -> None:
    some = fragments(shape=(3, 4, 4))
    before = dict(zip(SIDES, strips(some, 2), strict=True))
    after = dict(zip(SIDES, strips(torch.rot90(some, 1, (-2, -1)), 2), strict=True))
    for side in SIDES:
        assert torch.equal(after[AFTER_A_TURN[side]], before[side])


def test_strips_of_all_the_depth_hold_all_pixels_and_leave_the_fragments() -> None:
    some = fragments(shape=(3, 4, 4))
    before = some.clone()
    for strip in strips(some, 4):
        assert torch.equal(strip.flatten(2).sort(-1).values, some.flatten(2).sort(-1).values)
    assert torch.equal(some, before)


def test_strips_of_fragments_that_abut_meet_where_they_did() -> None:
    """Cut an image in two: the first rows of both strips are pixels that touched, in opposite order."""
    image = torch.rand(3, 6, 10, generator=torch.Generator().manual_seed(2))
    left, right = (strips(part.expand(1, 1, 3, 6, 5), 2) for part in (image[:, :, :5], image[:, :, 5:]))
    assert torch.equal(left[0][0, 0, ..., 0], image[:, :, 4].T)
    assert torch.equal(right[2][0, 0, ..., 0].flip(0), image[:, :, 5].T)
    upper, lower = (strips(part.expand(1, 1, 3, 3, 10), 2) for part in (image[:, :3], image[:, 3:]))
    assert torch.equal(upper[1][0, 0, ..., 1].flip(0), image[:, 1].T)
    assert torch.equal(lower[3][0, 0, ..., 1], image[:, 4].T)


# Ways in which sides meet ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rotations", [False, True])
def test_all_ways_are_those_of_a_slow_loop(rotations: bool) -> None:
    random = torch.Generator().manual_seed(3)
    sides, others = (list(torch.randn(4, 2, 3, 5, generator=random)) for _ in range(2))
    table = for_all_ways(lambda one, other: one @ other.mT, sides, others, rotations)
    assert table.shape == ((2, 1, 12, 12) if rotations else (2, 4, 3, 3))
    back = swapped(table)
    for puzzle in range(2):
        for a in range(3):
            for b in range(3):
                for s in range(4):
                    for t in range(4) if rotations else [(s + 2) % 4]:
                        expected = math.fsum((sides[s][puzzle, a] * others[t][puzzle, b]).tolist())
                        here = (0, s * 3 + a, t * 3 + b) if rotations else (s, a, b)
                        there = (0, t * 3 + b, s * 3 + a) if rotations else (t, b, a)
                        assert table[puzzle][here].item() == pytest.approx(expected, abs=1e-5)
                        assert back[puzzle][there] == table[puzzle][here]


@pytest.mark.parametrize("apart", [0.0, 0.01, 0.1])
def test_mean_squares_of_small_and_no_differences_stay_exact(apart: float) -> None:
    """Also under autocast, where products of eight bits would lose them."""
    one = torch.rand(2, 4, 50, generator=torch.Generator().manual_seed(4))
    other = one + apart
    with torch.autocast("cpu", torch.bfloat16):
        found = log_mean_squared(one, other, 1e-4)
    assert found.dtype == torch.float32
    for puzzle in range(2):
        for i in range(4):
            for j in range(4):
                squares = (one[puzzle, i].double() - other[puzzle, j].double()).square()
                expected = math.log(math.fsum(squares.tolist()) / 50 + 1e-4)
                assert found[puzzle, i, j].item() == pytest.approx(expected, abs=0.01)


# Seam features --------------------------------------------------------------------------------------------------------


def slow(first: Tensor, second: Tensor, side: str, other: str) -> tuple[float, float]:
    """Both features of two fragments (C, h, w), of which a side of the first meets a side of the second.

    The fragments are rotated so that the second is to the right of the first.
    """
    first, second = (
        torch.rot90(first, TO_THE_RIGHT[side], (1, 2)).double(),
        torch.rot90(second, TO_THE_LEFT[other], (1, 2)).double(),
    )
    touching, onwards, backwards = [], [], []
    for c in range(first.shape[0]):
        for y in range(first.shape[1]):
            inner, near, far, beyond = [*first[c, y, -2:].tolist(), *second[c, y, :2].tolist()]
            touching.append((near - far) ** 2)
            onwards.append((2 * near - inner - far) ** 2)
            backwards.append((2 * far - beyond - near) ** 2)
    logs = [math.log(math.fsum(found) / len(found) + 255**-2) for found in (touching, onwards, backwards)]
    return logs[0], (logs[1] + logs[2]) / 2


@pytest.mark.parametrize("shape", [(3, 4, 6), (1, 5, 3), (3, 2, 2)])
def test_features_are_those_of_a_slow_loop(shape: tuple[int, int, int]) -> None:
    some = fragments(shape=shape)
    found = seam_features(some)
    assert found.shape == (2, FEATURES, 4, 5, 5)
    for puzzle in range(2):
        for i in range(5):
            for j in range(5):
                for number, side in enumerate(SIDES):
                    expected = slow(some[puzzle, i], some[puzzle, j], side, OPPOSITE[side])
                    assert found[puzzle, :, number, i, j].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-2)


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 5, 5), (3, 2, 2)])
def test_features_of_any_two_sides_are_those_of_a_slow_loop(shape: tuple[int, int, int]) -> None:
    some = fragments(count=3, shape=shape)
    found = seam_features(some, rotations=True)
    assert found.shape == (2, FEATURES, 1, 12, 12)
    for puzzle in range(2):
        for i in range(3):
            for j in range(3):
                for s, side in enumerate(SIDES):
                    for t, other in enumerate(SIDES):
                        expected = slow(some[puzzle, i], some[puzzle, j], side, other)
                        tables = found[puzzle, :, 0, s * 3 + i, t * 3 + j].tolist()
                        assert tables == pytest.approx(expected, rel=1e-4, abs=1e-2), (side, other)


def test_upright_fragments_meet_in_four_of_the_sixteen_ways() -> None:
    some = fragments(shape=(3, 4, 4))
    every = seam_features(some, rotations=True).view(2, FEATURES, 4, 5, 4, 5)
    four = torch.stack([every[:, :, side, :, (side + 2) % 4] for side in range(4)], 2)
    torch.testing.assert_close(four, seam_features(some))


def test_rotating_fragments_permutes_the_features() -> None:
    some, quarters = fragments(shape=(3, 4, 4)), turns()
    before = seam_features(some, rotations=True)[:, :, 0]
    after = seam_features(turned(some, quarters), rotations=True)[:, :, 0]
    torch.testing.assert_close(permuted(after, places_after(quarters)), before, rtol=1e-4, atol=1e-3)
    assert not torch.allclose(after, before, atol=0.1)


@pytest.mark.parametrize("rotations", [False, True])
def test_the_two_orders_of_a_pair_tell_the_same_seam(rotations: bool) -> None:
    features = seam_features(fragments(shape=(3, 4, 4)), rotations)
    torch.testing.assert_close(features, swapped(features), rtol=1e-4, atol=1e-3)


def test_fragments_of_a_ramp_abut_where_they_did() -> None:
    height, width = torch.arange(12.0).view(-1, 1), torch.arange(12.0).view(1, -1)
    image = ((3 * height + width) / 48).expand(1, 3, 12, 12)
    tiles, quarters = cut(image, (4, 4)), turns(1, 9)
    continued = seam_features(tiles)[0, 1]
    found = seam_features(turned(tiles, quarters), rotations=True)[0, 1, 0]
    (places,) = places_after(quarters).view(1, 4, 9)
    exact = pytest.approx(-2 * math.log(255), abs=1e-2)
    for place in range(9):
        row, column = divmod(place, 3)
        for inside, step, side in ((column < 2, 1, 0), (row < 2, 3, 1)):
            if inside:
                other = place + step
                assert continued[side, place, other].item() == exact
                assert continued[side + 2, other, place].item() == exact
                assert found[places[side, place], places[side + 2, other]].item() == exact
                assert found[places[side + 2, other], places[side, place]].item() == exact
    assert continued[:, 0, 8].min() > math.log(0.01)


@pytest.mark.parametrize("rotations", [False, True])
def test_features_follow_the_order_of_fragments_and_not_the_batch(rotations: bool) -> None:
    some, order = fragments(shape=(3, 4, 4)), torch.tensor([3, 1, 4, 0, 2])
    features = seam_features(some, rotations)
    rows = torch.cat([order + 5 * side for side in range(4)]) if rotations else order
    torch.testing.assert_close(seam_features(some[:, order], rotations), features[..., rows, :][..., rows])
    torch.testing.assert_close(seam_features(some[1:], rotations), features[1:])


@pytest.mark.parametrize("rotations", [False, True])
def test_flat_fragments_have_finite_features(rotations: bool) -> None:
    assert torch.isfinite(seam_features(torch.zeros(1, 4, 3, 4, 4), rotations)).all()


# Best partners --------------------------------------------------------------------------------------------------------


def log_sum_exp(values: list[float]) -> float:
    most = max(values)
    return most + math.log(math.fsum(math.exp(value - most) for value in values))


@pytest.mark.parametrize(("ways", "count"), [(4, 2), (4, 3), (4, 6), (1, 2), (1, 5)])
def test_best_partners_are_those_of_a_slow_loop(ways: int, count: int) -> None:
    rows = count if ways == 4 else 4 * count
    scores = 5 * torch.randn(2, 3, ways, rows, rows, generator=torch.Generator().manual_seed(5))
    found = best_partners(scores, count)
    assert found.shape == scores.shape
    for table, expected in zip(found.flatten(0, 2).tolist(), scores.double().flatten(0, 2).tolist(), strict=True):
        for i in range(rows):
            for j in range(rows):
                if i % count == j % count:
                    assert table[i][j] == 0
                    continue
                first = expected[i][j] - log_sum_exp([expected[i][k] for k in range(rows) if k % count != i % count])
                second = expected[i][j] - log_sum_exp([expected[k][j] for k in range(rows) if k % count != j % count])
                assert table[i][j] == pytest.approx((first + second) / 2, abs=1e-4)


@pytest.mark.parametrize("ways", [1, 4])
def test_a_single_fragment_has_no_partners_and_finite_gradients(ways: int) -> None:
    rows = 1 if ways == 4 else 4
    scores = torch.randn(2, 3, ways, rows, rows, generator=torch.Generator().manual_seed(6)).requires_grad_()
    found = best_partners(scores, 1)
    assert found.abs().max() == 0
    torch.autograd.backward(found.sum())
    assert scores.grad is not None
    assert scores.grad.abs().max() == 0
