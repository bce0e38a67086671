from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.models.base import FragmentModel, PairLogits
from fragrecon.models.siamese import Siamese
from fragrecon.objectives.pairs import Pairs, pair_loss
from tests.descent import descend
from tests.objectives.test_objectives import GRID, batch


class Judged(FragmentModel):
    """A model with judgements of its own."""

    def __init__(self, same: Tensor, adjacent: Tensor) -> None:
        super().__init__((3, 4, 4), 1)
        self.logits = PairLogits(same, adjacent)

    def pair_logits(self, fragments: Tensor) -> PairLogits:
        return self.logits


def logits(puzzles: int = 2, count: int = 6, seed: int = 0) -> Tensor:
    return 3 * torch.randn(puzzles, count, count, generator=torch.Generator().manual_seed(seed))


def slow(found: Tensor, target: list[list[list[bool]]]) -> float:
    """Binary cross-entropy by its formula, pair by pair."""
    terms = []
    for puzzle, wanted in zip(found.double().tolist(), target, strict=True):
        for i, row in enumerate(puzzle):
            for j, value in enumerate(row):
                if i != j:
                    chance = 1 / (1 + math.exp(-value))
                    terms.append(-math.log(chance if wanted[i][j] else 1 - chance))
    return math.fsum(terms) / len(terms)


def truth(of: FragmentBatch, grid: tuple[int, int]) -> tuple[list[list[list[bool]]], list[list[list[bool]]]]:
    """Whether two fragments are of one image, and whether they abut, told in words."""
    same, adjacent = [], []
    for sources, cells in zip(of.source_ids.tolist(), of.positions.tolist(), strict=True):
        places = [(source, *divmod(cell, grid[1])) for source, cell in zip(sources, cells, strict=True)]
        same.append([[one[0] == other[0] for other in places] for one in places])
        adjacent.append(
            [
                [one[0] == other[0] and sorted(abs(a - b) for a, b in zip(one[1:], other[1:], strict=True)) == [0, 1]
                 for other in places]
                for one in places
            ]
        )  # fmt: skip
    return same, adjacent


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(2, 6), st.integers(0, 10**6))
def test_the_loss_of_pairs_is_that_of_a_slow_loop(puzzles: int, count: int, seed: int) -> None:
    target = torch.rand(puzzles, count, count, generator=torch.Generator().manual_seed(seed)) < 0.3
    found = pair_loss(logits(puzzles, count, seed), target)
    assert found.shape == ()
    expected = slow(logits(puzzles, count, seed), target.tolist())
    assert found.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_certainty_costs_nothing_error_its_logit_and_no_knowledge_a_bit() -> None:
    target = logits() > 0
    signs = torch.where(target, 1.0, -1.0)
    assert pair_loss(50 * signs, target).item() == pytest.approx(0, abs=1e-6)
    assert pair_loss(-50 * signs, target).item() == pytest.approx(50, rel=1e-6)
    assert pair_loss(torch.zeros(2, 6, 6), target).item() == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize(("images", "grid"), [(3, (1, 2)), (2, (2, 2)), (2, (2, 3)), (1, (3, 2)), (6, (1, 1))])
def test_the_objective_is_the_weighted_sum_of_slow_losses(images: int, grid: tuple[int, int]) -> None:
    puzzles = batch(images=images, cells=grid[0] * grid[1])
    count = puzzles.source_ids.shape[1]
    same, adjacent = logits(2, count, 1), logits(2, count, 2)
    found = Pairs(grid, same=0.5, adjacent=3.0)(Judged(same, adjacent), puzzles, torch.Generator())
    together, touching = truth(puzzles, grid)
    assert tuple(found) == Pairs.parts
    assert found["same"].item() == pytest.approx(slow(same, together), rel=1e-5)
    assert found["adjacent"].item() == pytest.approx(slow(adjacent, touching), rel=1e-5)
    assert found["loss"].item() == pytest.approx(0.5 * found["same"].item() + 3 * found["adjacent"].item(), rel=1e-6)


def test_a_perfect_judge_costs_nothing_and_the_grid_decides_what_abuts() -> None:
    puzzles = batch(images=2, cells=6)
    same, adjacent = (200 * torch.tensor(told).float() - 100 for told in truth(puzzles, (2, 3)))
    model = Judged(same, adjacent)
    found = Pairs((2, 3))(model, puzzles, torch.Generator())
    assert found["loss"].item() == pytest.approx(0, abs=1e-6)
    turned = Pairs((3, 2))(model, puzzles, torch.Generator())
    assert turned["same"].item() == pytest.approx(0, abs=1e-6)
    # Each pair of cells that abuts in one grid only is an error of its logit, in both images.
    one, other = ({(i, j) for i in range(6) for j in range(6) if beside(i, j, width)} for width in (3, 2))
    assert turned["adjacent"].item() == pytest.approx(100 * 2 * len(one ^ other) / (12 * 11), rel=1e-5)


def beside(i: int, j: int, width: int) -> bool:
    return abs(i // width - j // width) + abs(i % width - j % width) == 1


def test_a_siamese_learns_the_pairs_of_a_puzzle_by_heart() -> None:
    torch.manual_seed(0)
    model, puzzles = Siamese((3, 4, 4), 16, channels=[8, 8, 8], hidden=16, dropout=0.0), batch()
    losses = descend(model.parameters(), lambda: Pairs(GRID)(model, puzzles, torch.Generator())["loss"], 150)
    assert losses[0] > 1
    assert losses[-1] < 0.05
