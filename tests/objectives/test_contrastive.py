from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.models.base import FragmentModel, Solution
from fragrecon.models.factories import create_linear_autoencoder
from fragrecon.models.mosaic import Mosaic
from fragrecon.objectives.contrastive import Contrastive, supervised_contrastive
from tests.descent import descend
from tests.objectives.test_objectives import GRID, batch


def embeddings(puzzles: int = 2, count: int = 6, dim: int = 5) -> Tensor:
    return F.normalize(torch.randn(puzzles, count, dim, generator=torch.Generator().manual_seed(0)), dim=-1)


def slow(embedded: Tensor, sources: Tensor, temperature: float) -> float:
    total, fragments = 0.0, 0
    for puzzle, own in zip(embedded.double().tolist(), sources.tolist(), strict=True):
        for i, anchor in enumerate(puzzle):
            alike = {j: sum(a * b for a, b in zip(anchor, other, strict=True)) / temperature
                     for j, other in enumerate(puzzle) if j != i}  # fmt: skip
            everything = math.log(math.fsum(math.exp(value) for value in alike.values()))
            same = [value for j, value in alike.items() if own[j] == own[i]]
            total += sum(everything - value for value in same) / max(1, len(same))
            fragments += 1
    return total / fragments


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize(
    "sources", [[[0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1]], [[0, 0, 0, 0, 0, 1], [2, 1, 1, 1, 2, 0]]]
)
def test_the_contrast_is_that_of_a_slow_loop(sources: list[list[int]], temperature: float) -> None:
    found = supervised_contrastive(embeddings(), torch.tensor(sources), temperature).item()
    assert found == pytest.approx(slow(embeddings(), torch.tensor(sources), temperature), rel=1e-5)


def test_perfect_groups_leave_only_the_choice_within_them() -> None:
    sources = torch.tensor([[0, 0, 0, 1, 1, 1]])
    perfect = F.one_hot(sources).float()
    assert supervised_contrastive(perfect, sources, 0.01).item() == pytest.approx(math.log(2), rel=1e-5)
    assert supervised_contrastive(torch.ones(1, 6, 1), sources, 0.01).item() == pytest.approx(math.log(5), rel=1e-5)


def test_order_and_names_of_images_do_not_matter() -> None:
    sources, order = torch.tensor([[0, 0, 1, 1, 2, 2]] * 2), torch.tensor([4, 2, 0, 5, 1, 3])
    loss = supervised_contrastive(embeddings(), sources, 0.2)
    torch.testing.assert_close(supervised_contrastive(embeddings()[:, order], sources[:, order], 0.2), loss)
    torch.testing.assert_close(supervised_contrastive(embeddings(), (sources + 1) % 3, 0.2), loss)


class Solved(FragmentModel):
    """A model with a solution of its own."""

    def __init__(self, solution: Solution) -> None:
        super().__init__((3, 4, 4), 1)
        self.solution, self.grid = solution, (2, 2)

    def solve(self, fragments: Tensor) -> Solution:
        return self.solution


def two_by_two() -> FragmentBatch:
    """Two puzzles of two images of 2 x 2 cells, in an order that is told by hand: A0 is the first cell of image A."""
    order = [["B3", "A0", "A2", "B1", "B0", "A3", "B2", "A1"], ["A1", "A0", "B0", "B1", "A3", "B2", "B3", "A2"]]
    sources = torch.tensor([["AB".index(name[0]) for name in puzzle] for puzzle in order])
    positions = torch.tensor([[int(name[1]) for name in puzzle] for puzzle in order])
    nothing = torch.zeros(2, 8)
    return FragmentBatch(torch.zeros(2, 8, 3, 4, 4), sources, positions, nothing, torch.zeros(2, 2))


# What abuts right, left, below and above each of the above; 8 where nothing does.
ABUTTING = [
    [[8, 6, 8, 3], [7, 8, 2, 8], [5, 8, 8, 1], [8, 4, 0, 8], [3, 8, 6, 8], [8, 2, 8, 7], [0, 8, 8, 4], [8, 1, 5, 8]],
    [[8, 1, 4, 8], [0, 8, 7, 8], [3, 8, 5, 8], [8, 2, 6, 8], [8, 7, 8, 0], [6, 8, 8, 2], [8, 5, 8, 3], [4, 8, 8, 1]],
]


def solution(puzzles: int = 2, count: int = 8, cells: int = 4) -> Solution:
    random = torch.Generator().manual_seed(7)
    sides = 2 * torch.randn(puzzles, count, 4, count + 1, generator=random)
    itself = torch.eye(count, count + 1, dtype=torch.bool).unsqueeze(1)
    cell = 2 * torch.randn(puzzles, count, cells, generator=random)
    return Solution(embeddings(puzzles, count), cell, sides.masked_fill(itself, -torch.inf))


def surprise(logits: list[float], target: int) -> float:
    return math.log(math.fsum(math.exp(value) for value in logits)) - logits[target]


def first_greatest(logits: list[float]) -> int:
    return max(range(len(logits)), key=logits.__getitem__)


def test_cells_and_sides_are_those_of_a_slow_loop() -> None:
    puzzles, made = two_by_two(), solution()
    rows: dict[str, list[tuple[list[float], int]]] = {"cells": [], "sides": []}
    for puzzle in range(2):
        for fragment in range(8):
            cell = int(puzzles.positions[puzzle, fragment])
            rows["cells"].append((made.cells[puzzle, fragment].double().tolist(), cell))
            for side in range(4):
                logits = made.sides[puzzle, fragment, side].double().tolist()
                rows["sides"].append((logits, ABUTTING[puzzle][fragment][side]))
    objective = Contrastive((2, 2), temperature=0.3, cells=0.5, sides=0.25)
    found = objective(Solved(made), puzzles, torch.Generator())
    for name, accuracy in (("cells", "cell_accuracy"), ("sides", "side_accuracy")):
        expected = math.fsum(surprise(*row) for row in rows[name]) / len(rows[name])
        assert found[name].item() == pytest.approx(expected, rel=1e-5)
        right = sum(first_greatest(logits) == target for logits, target in rows[name])
        assert 0 < right < len(rows[name])
        assert found[accuracy].item() == pytest.approx(right / len(rows[name]))
    contrast = slow(made.embeddings, puzzles.source_ids, 0.3)
    assert found["contrast"].item() == pytest.approx(contrast, rel=1e-5)
    whole = found["contrast"].item() + 0.5 * found["cells"].item() + 0.25 * found["sides"].item()
    assert found["loss"].item() == pytest.approx(whole, rel=1e-6)
    assert tuple(found) == Contrastive.parts


def sure(strength: float) -> Solution:
    """Every cell and every neighbour told, as loudly as is said."""
    puzzles = two_by_two()
    sides = strength * F.one_hot(torch.tensor(ABUTTING), 9).float()
    cells = strength * F.one_hot(puzzles.positions, 4).float()
    return Solution(F.one_hot(puzzles.source_ids, 2).float(), cells, sides)


def test_a_perfect_solution_costs_what_is_left_of_the_choice_and_chance_its_logarithm() -> None:
    objective = Contrastive((2, 2), temperature=0.01)
    perfect = objective(Solved(sure(100)), two_by_two(), torch.Generator())
    for name, expected in (("cells", 0.0), ("sides", 0.0), ("contrast", math.log(3)), ("loss", math.log(3))):
        assert perfect[name].item() == pytest.approx(expected, abs=1e-6)
    assert perfect["cell_accuracy"].item() == perfect["side_accuracy"].item() == 1
    chance = objective(Solved(sure(0)), two_by_two(), torch.Generator())
    assert chance["cells"].item() == pytest.approx(math.log(4), rel=1e-6)
    assert chance["sides"].item() == pytest.approx(math.log(9), rel=1e-6)
    wrong = objective(Solved(sure(-100)), two_by_two(), torch.Generator())
    assert wrong["cells"].item() > 50
    assert wrong["cell_accuracy"].item() == wrong["side_accuracy"].item() == 0


def test_the_grid_decides_what_abuts() -> None:
    """Four cells in a row or in a square: the same cells, other neighbours."""
    made = sure(100)
    square, row = (Contrastive(grid)(Solved(made), two_by_two(), torch.Generator()) for grid in ((2, 2), (1, 4)))
    assert row["cells"].item() == square["cells"].item()
    assert row["sides"].item() > 10
    assert row["side_accuracy"].item() < square["side_accuracy"].item() == 1


@pytest.mark.parametrize(
    ("weights", "used"),
    [({"cells": 0.0}, "sides"), ({"sides": 0.0}, "cells"), ({"cells": 0.0, "sides": 0.0}, "")],
)
def test_a_part_of_no_weight_trains_nothing(weights: dict[str, float], used: str) -> None:
    made = solution()
    free = {name: value.clone().requires_grad_() for name, value in vars(made).items()}
    found = Contrastive((2, 2), **weights)(Solved(Solution(**free)), two_by_two(), torch.Generator())
    torch.autograd.backward(found["loss"])
    trained = {name for name, value in free.items() if value.grad is not None and value.grad.nan_to_num(9).any()}
    assert trained == {"embeddings", used} - {""}


def test_a_solution_is_learned() -> None:
    """Until every cell and side of two puzzles is known by heart."""
    torch.manual_seed(0)
    model, puzzles = Mosaic((3, 4, 4), GRID, 8, width=16, depth=1, heads=2, window=2), batch()
    objective = Contrastive(GRID)
    descend(model.parameters(), lambda: objective(model, puzzles, torch.Generator())["loss"], 100)
    found = objective(model, puzzles, torch.Generator())
    assert found["cell_accuracy"].item() == found["side_accuracy"].item() == 1
    assert found["sides"].item() < 0.1


def test_a_model_that_solves_nothing_is_trained_by_the_contrast_alone() -> None:
    torch.manual_seed(0)
    model, puzzles = create_linear_autoencoder(latent_dim=7, input_size=4).eval(), batch()
    found = Contrastive(GRID, temperature=0.3)(model, puzzles, torch.Generator())
    embedded = F.normalize(model.encode(puzzles.fragments), dim=-1)
    assert found["loss"].item() == pytest.approx(slow(embedded.detach(), puzzles.source_ids, 0.3), rel=1e-5)
    for name in ("cells", "cell_accuracy", "sides", "side_accuracy"):
        assert found[name].item() == 0
