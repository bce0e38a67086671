from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fragrecon.clustering.balanced import assign
from fragrecon.reassembly.clues import Clues
from fragrecon.reassembly.place import LEAST, beam, gain, improve, moves, place
from tests.reassembly.samples import Grid, random_clues, reordered, seeded, shuffled, slow_gain, taken, true_clues

unhurried = settings(deadline=None, max_examples=30)
GRIDS = [(1, 1), (1, 3), (3, 1), (2, 2), (2, 3), (3, 2)]
SMALL = st.sampled_from([(1, 3), (2, 2), (2, 3), (3, 2)])
SEEDS = st.integers(0, 2**32)


def solved(positions: Tensor) -> Tensor:
    """The fragment at each cell."""
    return torch.tensor([[own.index(cell) for cell in range(len(own))] for own in positions.tolist()])


def starts(groups: int, n: int, seed: int = 0) -> Tensor:
    return torch.stack([torch.randperm(n, generator=seeded(seed + i)) for i in range(groups)])


def best_of_all(clues: Clues, group: int, grid: Grid) -> float:
    n = grid[0] * grid[1]
    return max(slow_gain(clues, group, placement, grid) for placement in itertools.permutations(range(n)))


def slow_moves(grid: Grid) -> set[tuple[int, ...]]:
    rows, columns = grid
    n = rows * columns

    def of_image(image: list[list[int]]) -> tuple[int, ...]:
        return tuple(cell for row in image for cell in row)

    image = [[row * columns + column for column in range(columns)] for row in range(rows)]
    found = {of_image(image)}
    for one, other in itertools.combinations(range(n), 2):
        cells = list(range(n))
        cells[one], cells[other] = other, one
        found.add(tuple(cells))
    for one, other in itertools.combinations(range(rows), 2):
        swapped = list(image)
        swapped[one], swapped[other] = image[other], image[one]
        found.add(of_image(swapped))
    for one, other in itertools.combinations(range(columns), 2):
        order = list(range(columns))
        order[one], order[other] = other, one
        found.add(of_image([[row[column] for column in order] for row in image]))
    for down in range(rows):
        for across in range(columns):
            lower = image[down:] + image[:down]
            found.add(of_image([row[across:] + row[:across] for row in lower]))
    return found


@pytest.mark.parametrize("grid", [*GRIDS, (4, 4), (2, 5)])
def test_moves_are_swaps_of_cells_rows_and_columns_and_shifts(grid: Grid) -> None:
    found = [tuple(move) for move in moves(grid).tolist()]
    assert found[0] == tuple(range(grid[0] * grid[1]))
    assert set(found) == slow_moves(grid)


@unhurried
@given(SEEDS, st.sampled_from([*GRIDS, (4, 4)]))
def test_the_gain_is_that_of_a_slow_loop(seed: int, grid: Grid) -> None:
    n = grid[0] * grid[1]
    clues = random_clues(3, n, grid, seed)
    placements = torch.stack([starts(4, n, group) for group in range(3)])
    found = gain(clues, placements, grid)
    for group in range(3):
        expected = [slow_gain(clues, group, placement, grid) for placement in placements[group].tolist()]
        assert found[group].tolist() == pytest.approx(expected, abs=1e-4)


@unhurried
@given(SEEDS, SMALL, st.booleans())
def test_a_beam_that_is_wide_enough_finds_the_best_of_all_placements(seed: int, grid: Grid, coarse: bool) -> None:
    n = grid[0] * grid[1]
    clues = random_clues(2, n, grid, seed)
    if coarse:
        clues = Clues(clues.cells.round(), clues.across.round(), clues.down.round())
    for search in (beam, place):
        found = search(clues, grid, math.factorial(n))
        for group in range(2):
            assert sorted(found[group].tolist()) == list(range(n))
            own = slow_gain(clues, group, found[group].tolist(), grid)
            assert own == pytest.approx(best_of_all(clues, group, grid), abs=1e-4)


def slow_beam(clues: Clues, group: int, grid: Grid, width: int) -> list[int]:
    n = grid[0] * grid[1]
    kept: list[list[int]] = [[]]
    for _ in range(n):
        longer = [[*begun, fragment] for begun in kept for fragment in range(n) if fragment not in begun]
        empty = [n] * n
        longer.sort(key=lambda begun: -slow_gain(clues, group, (begun + empty)[:n], grid))
        kept = longer[:width]
    return kept[0]


@unhurried
@given(SEEDS, st.sampled_from([(2, 2), (2, 3), (3, 2), (1, 4)]), st.integers(1, 5))
def test_a_narrow_beam_follows_the_best_beginnings(seed: int, grid: Grid, width: int) -> None:
    clues = random_clues(2, grid[0] * grid[1], grid, seed)
    found = beam(clues, grid, width)
    assert found.tolist() == [slow_beam(clues, group, grid, width) for group in range(2)]


@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (2, 3), (3, 1), (4, 4), (3, 5)])
@pytest.mark.parametrize("part", ["cells", "seams", "both"])
def test_clues_of_the_truth_place_every_fragment(grid: Grid, part: str) -> None:
    sources, positions = shuffled(6, 1, grid)
    weights = {"cells": (1.0, 0.0), "seams": (0.0, 1.0), "both": (0.5, 0.5)}[part]
    clues = true_clues(sources, positions, grid, cells=weights[0], seams=weights[1])
    assert torch.equal(place(clues, grid), solved(positions))


def test_improvement_takes_the_best_move_each_time() -> None:
    grid = (2, 3)
    clues, before = random_clues(20, 6, grid), starts(20, 6)
    found = improve(clues, before, grid)
    assert torch.equal(before, starts(20, 6))
    steps = []
    for group in range(20):
        own, count = before[group].tolist(), 0
        while True:
            best = max(
                ([own[cell] for cell in move] for move in slow_moves(grid)),
                key=lambda placement: slow_gain(clues, group, placement, grid),
            )
            if slow_gain(clues, group, best, grid) <= slow_gain(clues, group, own, grid) + LEAST:
                break
            own, count = best, count + 1
        steps.append(count)
        assert found[group].tolist() == own
    assert len(set(steps)) > 2  # some are done before others


@pytest.mark.parametrize("width", [1, 2, 64])
def test_the_result_is_no_worse_than_the_search_from_either_start(width: int) -> None:
    grid = (3, 3)
    clues = random_clues(40, 9, grid)
    by_cells, by_beam = assign(clues.cells).argsort(1), beam(clues, grid, width)
    found = gain(clues, place(clues, grid, width).unsqueeze(1), grid)[:, 0]
    ends = [gain(clues, improve(clues, start, grid).unsqueeze(1), grid)[:, 0] for start in (by_cells, by_beam)]
    torch.testing.assert_close(found, torch.maximum(*ends))
    assert (ends[0] > ends[1] + 1e-3).any()
    assert (ends[1] > ends[0] + 1e-3).any()


def test_a_group_is_placed_alike_wherever_it_stands() -> None:
    grid = (2, 3)
    clues = random_clues(12, 6, grid)
    whole = place(clues, grid, 8)
    assert torch.equal(place(clues, grid, 8, memory=1), whole)
    assert torch.equal(place(taken(clues, torch.arange(11, -1, -1)), grid, 8), whole.flip(0))
    assert torch.equal(torch.cat([place(taken(clues, slice(i, i + 1)), grid, 8) for i in range(12)]), whole)


@unhurried
@given(SEEDS)
def test_the_order_of_fragments_does_not_matter(seed: int) -> None:
    grid = (2, 3)
    clues, order = random_clues(4, 6, grid, seed), torch.randperm(6, generator=seeded(seed))
    assert torch.equal(order[place(reordered(clues, order), grid)], place(clues, grid))


@pytest.mark.parametrize("grid", [(2, 2), (2, 3), (4, 4)])
@pytest.mark.parametrize("value", [0.0, -90.0])
def test_clues_that_say_nothing_still_place_every_fragment_once(grid: Grid, value: float) -> None:
    n = grid[0] * grid[1]
    found = place(Clues(*(torch.full((2, n, n), value) for _ in range(3))), grid)
    assert found.sort(1).values.tolist() == [list(range(n))] * 2


def test_no_group_at_all_has_no_placement() -> None:
    assert place(random_clues(0, 4, (2, 2)), (2, 2)).shape == (0, 4)
