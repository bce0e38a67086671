from __future__ import annotations

import math
from dataclasses import replace

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
    nothing = torch.zeros(2, 8, dtype=torch.long)
    return FragmentBatch(torch.zeros(2, 8, 3, 4, 4), sources, positions, nothing, nothing, torch.zeros(2, 2))


# What abuts right, below, left and above each of the above; 8 where nothing does.
ABUTTING = [
    [[8, 8, 6, 3], [7, 2, 8, 8], [5, 8, 8, 1], [8, 0, 4, 8], [3, 6, 8, 8], [8, 8, 2, 7], [0, 8, 8, 4], [8, 5, 1, 8]],
    [[8, 4, 1, 8], [0, 7, 8, 8], [3, 5, 8, 8], [8, 6, 2, 8], [8, 8, 7, 0], [6, 8, 8, 2], [8, 8, 5, 3], [4, 8, 8, 1]],
]

# The same two puzzles, some fragments of which are rotated: those, and the sides that meet, as (fragment, side).
ROTATIONS = [[0, 1, 0, 0, 2, 0, 3, 0], [3, 3, 0, 0, 0, 1, 0, 2]]
RIGHT, BELOW, LEFT, ABOVE = range(4)
MEETING = [
    [
        *(((0, LEFT), (6, BELOW)), ((0, ABOVE), (3, BELOW)), ((1, ABOVE), (7, LEFT)), ((1, RIGHT), (2, ABOVE))),
        *(((2, RIGHT), (5, LEFT)), ((3, LEFT), (4, LEFT)), ((4, ABOVE), (6, RIGHT)), ((5, ABOVE), (7, BELOW))),
    ],
    [
        *(((0, ABOVE), (1, BELOW)), ((0, LEFT), (4, ABOVE)), ((1, LEFT), (7, BELOW)), ((2, RIGHT), (3, LEFT))),
        *(((2, BELOW), (5, LEFT)), ((3, BELOW), (6, ABOVE)), ((4, LEFT), (7, LEFT)), ((5, ABOVE), (6, LEFT))),
    ],
]


def rotated() -> FragmentBatch:
    return replace(two_by_two(), rotations=torch.tensor(ROTATIONS))


def meeting() -> list[list[list[int]]]:
    """What meets each side of each fragment of `rotated`, as it is given: 8 t + b for side t of b, 32 for nothing."""
    found = [[[32] * 4 for _ in range(8)] for _ in range(2)]
    for own, pairs in zip(found, MEETING, strict=True):
        for one, other in pairs:
            for (a, s), (b, t) in ((one, other), (other, one)):
                own[a][s] = 8 * t + b
    return found


def solution(puzzles: int = 2, count: int = 8, cells: int = 4, rotations: bool = False) -> Solution:
    random = torch.Generator().manual_seed(7)
    ways = 4 if rotations else 1
    sides = 2 * torch.randn(puzzles, count, 4, ways * count + 1, generator=random)
    itself = torch.cat([torch.eye(count).repeat(1, ways), torch.zeros(count, 1)], 1).bool().unsqueeze(1)
    cell = 2 * torch.randn(puzzles, count, cells, generator=random)
    turns = 2 * torch.randn(puzzles, count, 4, generator=random) if rotations else None
    return Solution(embeddings(puzzles, count), cell, sides.masked_fill(itself, -torch.inf), turns)


ACCURACIES = {"cells": "cell_accuracy", "sides": "side_accuracy", "rotations": "rotation_accuracy"}


def surprise(logits: list[float], target: int) -> float:
    return math.log(math.fsum(math.exp(value) for value in logits)) - logits[target]


def first_greatest(logits: list[float]) -> int:
    return max(range(len(logits)), key=logits.__getitem__)


@pytest.mark.parametrize("rotations", [False, True])
def test_cells_sides_and_rotations_are_those_of_a_slow_loop(rotations: bool) -> None:
    puzzles, made = rotated() if rotations else two_by_two(), solution(rotations=rotations)
    targets = meeting() if rotations else ABUTTING
    rows: dict[str, list[tuple[list[float], int]]] = {"cells": [], "sides": []}
    for puzzle in range(2):
        for fragment in range(8):
            cell = int(puzzles.positions[puzzle, fragment])
            rows["cells"].append((made.cells[puzzle, fragment].double().tolist(), cell))
            for side in range(4):
                logits = made.sides[puzzle, fragment, side].double().tolist()
                rows["sides"].append((logits, targets[puzzle][fragment][side]))
            if made.rotations is not None:
                turns = made.rotations[puzzle, fragment].double().tolist()
                rows.setdefault("rotations", []).append((turns, ROTATIONS[puzzle][fragment]))
    objective = Contrastive((2, 2), temperature=0.3, cells=0.5, sides=0.25)
    found = objective(Solved(made), puzzles, torch.Generator())
    assert len(rows) == 2 + rotations
    for name in rows:
        expected = math.fsum(surprise(*row) for row in rows[name]) / len(rows[name])
        assert found[name].item() == pytest.approx(expected, rel=1e-5)
        right = sum(first_greatest(logits) == target for logits, target in rows[name])
        assert 0 < right < len(rows[name])
        assert found[ACCURACIES[name]].item() == pytest.approx(right / len(rows[name]))
    if not rotations:
        assert found["rotations"].item() == found["rotation_accuracy"].item() == 0
    contrast = slow(made.embeddings, puzzles.source_ids, 0.3)
    assert found["contrast"].item() == pytest.approx(contrast, rel=1e-5)
    places = found["cells"].item() + found["rotations"].item()
    whole = found["contrast"].item() + 0.5 * places + 0.25 * found["sides"].item()
    assert found["loss"].item() == pytest.approx(whole, rel=1e-6)
    assert tuple(found) == Contrastive.parts


def sure(strength: float, rotations: bool = False) -> Solution:
    """Every cell, neighbour and rotation told, as loudly as is said."""
    puzzles = two_by_two()
    told = F.one_hot(torch.tensor(meeting()), 33) if rotations else F.one_hot(torch.tensor(ABUTTING), 9)
    cells = strength * F.one_hot(puzzles.positions, 4).float()
    turns = strength * F.one_hot(torch.tensor(ROTATIONS), 4).float() if rotations else None
    return Solution(F.one_hot(puzzles.source_ids, 2).float(), cells, strength * told.float(), turns)


@pytest.mark.parametrize("rotations", [False, True])
def test_a_perfect_solution_costs_what_is_left_of_the_choice_and_chance_its_logarithm(rotations: bool) -> None:
    objective, puzzles = Contrastive((2, 2), temperature=0.01), rotated() if rotations else two_by_two()
    names = list(ACCURACIES)[: 2 + rotations]
    perfect = objective(Solved(sure(100, rotations)), puzzles, torch.Generator())
    for name, expected in (*((name, 0.0) for name in ACCURACIES), ("contrast", math.log(3)), ("loss", math.log(3))):
        assert perfect[name].item() == pytest.approx(expected, abs=1e-6)
    assert [perfect[ACCURACIES[name]].item() for name in names] == [1.0] * len(names)
    chance = objective(Solved(sure(0, rotations)), puzzles, torch.Generator())
    for name, choices in zip(names, (4, 33 if rotations else 9, 4), strict=False):
        assert chance[name].item() == pytest.approx(math.log(choices), rel=1e-6)
    wrong = objective(Solved(sure(-100, rotations)), puzzles, torch.Generator())
    assert all(wrong[name].item() > 50 for name in names)
    assert [wrong[ACCURACIES[name]].item() for name in names] == [0.0] * len(names)


def test_the_sides_of_rotated_fragments_are_not_those_of_upright_ones() -> None:
    found = Contrastive((2, 2))(Solved(sure(100, rotations=True)), two_by_two(), torch.Generator())
    assert found["cell_accuracy"].item() == 1
    assert found["rotation_accuracy"].item() == pytest.approx(sum(row.count(0) for row in ROTATIONS) / 16)
    assert found["side_accuracy"].item() < 0.6


@pytest.mark.parametrize("rotations", [False, True])
def test_what_is_missing_is_no_neighbour(rotations: bool) -> None:
    """Of the first puzzle only 1 A0, 2 A2, 4 B0 and 7 A1 are left; A0 and A2 meet, and A0 and A1."""
    kept = torch.tensor([1, 2, 4, 7])
    whole = rotated() if rotations else two_by_two()
    tensors = {name: value[:1, kept] for name, value in vars(whole).items() if name not in ("image_ids", "step")}
    puzzle = FragmentBatch(**tensors, image_ids=whole.image_ids[:1])
    pairs = [(0, RIGHT, 1, ABOVE), (0, ABOVE, 3, LEFT)] if rotations else [(0, BELOW, 1, ABOVE), (0, RIGHT, 3, LEFT)]
    sides = torch.zeros(1, 4, 4, 17 if rotations else 5)
    sides[..., -1] = 50
    for a, s, b, t in pairs:
        sides[0, a, s, 4 * t + b if rotations else b] = 100
        sides[0, b, t, 4 * s + a if rotations else a] = 100
    turns = 100 * F.one_hot(puzzle.rotations, 4).float() if rotations else None
    made = Solution(embeddings(1, 4), torch.zeros(1, 4, 4), sides, turns)
    found = Contrastive((2, 2))(Solved(made), puzzle, torch.Generator())
    assert found["side_accuracy"].item() == 1
    assert found["sides"].item() == pytest.approx(0, abs=1e-6)


def test_the_grid_decides_what_abuts() -> None:
    """Four cells in a row or in a square: the same cells, other neighbours."""
    made = sure(100)
    square, row = (Contrastive(grid)(Solved(made), two_by_two(), torch.Generator()) for grid in ((2, 2), (1, 4)))
    assert row["cells"].item() == square["cells"].item()
    assert row["sides"].item() > 10
    assert row["side_accuracy"].item() < square["side_accuracy"].item() == 1


@pytest.mark.parametrize(
    ("weights", "used"),
    [
        ({"cells": 0.0}, {"sides"}),
        ({"sides": 0.0}, {"cells", "rotations"}),
        ({"cells": 0.0, "sides": 0.0}, set()),
    ],
)
def test_a_part_of_no_weight_trains_nothing(weights: dict[str, float], used: set[str]) -> None:
    made = solution(rotations=True)
    free = {name: value.clone().requires_grad_() for name, value in vars(made).items()}
    found = Contrastive((2, 2), **weights)(Solved(Solution(**free)), rotated(), torch.Generator())
    torch.autograd.backward(found["loss"])
    trained = {name for name, value in free.items() if value.grad is not None and value.grad.nan_to_num(9).any()}
    assert trained == {"embeddings"} | used


def test_a_solution_is_learned() -> None:
    """Until every cell and side of two puzzles is known by heart."""
    torch.manual_seed(0)
    model, puzzles = Mosaic((3, 4, 4), GRID, 8, width=16, depth=1, heads=2, window=2), batch()
    objective = Contrastive(GRID)
    descend(model.parameters(), lambda: objective(model, puzzles, torch.Generator())["loss"], 100)
    found = objective(model, puzzles, torch.Generator())
    assert found["cell_accuracy"].item() == found["side_accuracy"].item() == 1
    assert found["sides"].item() < 0.1


def test_the_solution_of_rotated_fragments_is_learned() -> None:
    """Until every cell, side and rotation of two puzzles is known by heart."""
    torch.manual_seed(0)
    model = Mosaic((3, 4, 4), (2, 2), 8, width=16, depth=1, heads=2, window=2, rotations=True)
    fragments = torch.rand(2, 8, 3, 4, 4, generator=torch.Generator().manual_seed(8))
    objective, puzzles = Contrastive((2, 2)), replace(rotated(), fragments=fragments)
    descend(model.parameters(), lambda: objective(model, puzzles, torch.Generator())["loss"], 100)
    found = objective(model, puzzles, torch.Generator())
    assert [found[name].item() for name in ACCURACIES.values()] == [1.0] * 3
    assert found["sides"].item() < 0.1
    upright = model.solve(fragments).upright()
    assert torch.equal(upright.sides.argmax(-1), torch.tensor(ABUTTING))


def test_a_model_that_solves_nothing_is_trained_by_the_contrast_alone() -> None:
    torch.manual_seed(0)
    model, puzzles = create_linear_autoencoder(latent_dim=7, input_size=4).eval(), batch()
    found = Contrastive(GRID, temperature=0.3)(model, puzzles, torch.Generator())
    embedded = F.normalize(model.encode(puzzles.fragments), dim=-1)
    assert found["loss"].item() == pytest.approx(slow(embedded.detach(), puzzles.source_ids, 0.3), rel=1e-5)
    for name in (*ACCURACIES, *ACCURACIES.values()):
        assert found[name].item() == 0
