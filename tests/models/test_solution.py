from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from fragrecon.data.adjacency import meeting_sides, neighbours
from fragrecon.data.puzzles import draw_orders
from fragrecon.models.base import Solution
from fragrecon.seams import SIDES
from tests.test_seams import OPPOSITE

GRID = (2, 3)
COUNT = 12


def truth(puzzles: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Of puzzles of two images: the `neighbours` of upright fragments, and random rotations."""
    random = np.random.default_rng(seed)
    orders = torch.from_numpy(draw_orders(puzzles, COUNT, random))
    beside = neighbours(orders // 6, orders % 6, GRID, 2)
    return beside, torch.from_numpy(random.integers(0, 4, (puzzles, COUNT)))


def given_sides(quarters: int) -> list[int]:
    """Which side of a rotated fragment, as it is given, is at each side once its rotation is undone; by its marks."""
    marks = np.full((3, 3), -1)
    marks[1, 2], marks[2, 1], marks[1, 0], marks[0, 1] = range(4)  # right, below, left, above
    marks = np.rot90(marks, -quarters)
    return [int(marks[place]) for place in ((1, 2), (2, 1), (1, 0), (0, 1))]


def solution(rotations: Tensor, seed: int = 0) -> Solution:
    """Random logits for rotated fragments, whose rotations are predicted right; nothing meets itself."""
    random = torch.Generator().manual_seed(seed)
    puzzles, count = rotations.shape
    sides = torch.randn(puzzles, count, 4, 4 * count + 1, generator=random)
    for fragment, side in itertools.product(range(count), range(4)):
        sides[:, fragment, :, side * count + fragment] = -torch.inf
    turns = torch.rand(puzzles, count, 4, generator=random) + 2 * torch.nn.functional.one_hot(rotations, 4)
    embeddings = torch.randn(puzzles, count, 5, generator=random)
    return Solution(embeddings, torch.randn(puzzles, count, 6, generator=random), sides, turns)


def test_upright_logits_are_those_of_a_slow_loop() -> None:
    _, rotations = truth()
    made = solution(rotations)
    found = made.upright()
    assert found.rotations is None
    assert torch.equal(found.embeddings, made.embeddings)
    assert torch.equal(found.cells, made.cells)
    assert found.sides.shape == (3, COUNT, 4, COUNT + 1)
    for puzzle in range(3):
        given = [given_sides(int(quarters)) for quarters in rotations[puzzle]]
        for a, side in itertools.product(range(COUNT), range(4)):
            row = made.sides[puzzle, a, given[a][side]]
            opposite = SIDES.index(OPPOSITE[SIDES[side]])
            expected = [row[given[b][opposite] * COUNT + b].item() for b in range(COUNT)]
            assert found.sides[puzzle, a, side].tolist() == [*expected, row[-1].item()]


def test_upright_logits_of_known_puzzles_name_the_true_neighbours() -> None:
    beside, rotations = truth()
    made = solution(rotations)
    made.sides.scatter_(3, meeting_sides(beside, rotations).unsqueeze(-1), 20.0)
    assert torch.equal(made.sides.argmax(-1), meeting_sides(beside, rotations))
    assert torch.equal(made.upright().sides.argmax(-1), beside)
    # With another rotation of one fragment, its own sides and those of its neighbours name others.
    assert made.rotations is not None
    made.rotations[0, 5] = made.rotations[0, 5].roll(1)
    wrong = (made.upright().sides.argmax(-1) != beside).any(-1)
    assert wrong[0, 5]
    assert set(wrong[0].nonzero().flatten().tolist()) <= {5, *beside[0, 5].tolist()}
    assert not wrong[1:].any()


def test_fragments_that_are_not_rotated_keep_the_logits_of_opposite_sides() -> None:
    made = solution(torch.zeros(2, 4, dtype=torch.long))
    ways = made.sides[..., :-1].reshape(2, 4, 4, 4, 4)
    for side, found in enumerate(made.upright().sides.unbind(2)):
        assert torch.equal(found, torch.cat([ways[:, :, side, (side + 2) % 4], made.sides[:, :, side, -1:]], -1))


def test_a_solution_of_upright_fragments_is_upright() -> None:
    made = solution(torch.zeros(2, 4, dtype=torch.long))
    plain = Solution(made.embeddings, made.cells, made.sides[..., :5])
    assert plain.upright() is plain
    assert torch.equal(plain.quarter_turns(), torch.zeros(2, 4, dtype=torch.long))
    assert made.upright().upright().sides.shape == (2, 4, 4, 5)


@pytest.mark.parametrize("seed", range(3))
def test_predicted_quarter_turns_are_the_likeliest(seed: int) -> None:
    _, rotations = truth(seed=seed)
    assert torch.equal(solution(rotations, seed).quarter_turns(), rotations)
