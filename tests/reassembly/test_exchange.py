from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fragrecon.reassembly.clues import Clues
from fragrecon.reassembly.exchange import exchange, fit
from fragrecon.reassembly.place import LEAST
from tests.reassembly.samples import Grid, random_clues, seeded, shuffled, slow_gain, taken, true_clues

unhurried = settings(deadline=None, max_examples=30)
SEEDS = st.integers(0, 2**32)
SIZES = st.sampled_from([(2, (2, 2)), (2, (2, 3)), (3, (1, 3)), (3, (3, 1)), (4, (1, 1)), (2, (3, 2))])


def laid(puzzles: int, fragments: int, places: int, seed: int = 0) -> Tensor:
    """Fragments and, for want of more, nothing (F), in random order."""
    orders = torch.stack([torch.randperm(places, generator=seeded(seed + i)) for i in range(puzzles)])
    return orders.clamp(max=fragments)


def swaps(held: list[int], n: int) -> list[list[int]]:
    """What lies where after each swap of two cells of different images."""
    found = []
    for one, other in itertools.combinations(range(len(held)), 2):
        if one // n != other // n:
            swapped = list(held)
            swapped[one], swapped[other] = held[other], held[one]
            found.append(swapped)
    return found


def slow_exchange(clues: Clues, puzzle: int, held: list[int], grid: Grid) -> tuple[list[int], list[float]]:
    """The best single swap time and again, by the gain of the whole puzzle; and all gains on the way."""
    gains = [slow_gain(clues, puzzle, held, grid)]
    while True:
        tried = swaps(held, grid[0] * grid[1])
        found = [slow_gain(clues, puzzle, swapped, grid) for swapped in tried]
        if not found or max(found) <= gains[-1] + LEAST:
            return held, gains
        held = tried[found.index(max(found))]
        gains.append(max(found))


@unhurried
@given(SEEDS, SIZES, st.integers(0, 3))
def test_what_a_fragment_would_gain_is_that_of_a_slow_loop(seed: int, sizes: tuple[int, Grid], lost: int) -> None:
    images, grid = sizes
    places = images * grid[0] * grid[1]
    fragments = places - lost
    clues = random_clues(2, fragments, grid, seed)
    held = laid(2, fragments, places, seed % 1000)
    padded = Clues(*(torch.nn.functional.pad(clue, (0, 1, 0, 1)) for clue in (clues.cells, clues.across, clues.down)))
    every = torch.arange(places).expand_as(held)
    found = fit(Clues(padded.cells[..., :-1], padded.across, padded.down), held, grid, every)
    assert found.shape == (2, places, fragments + 1)
    for b in range(2):
        own = held[b].tolist()
        for place in range(places):
            without = [*own[:place], fragments, *own[place + 1 :]]
            rest = slow_gain(clues, b, without, grid)
            for f in range(fragments):
                laid_there = [*own[:place], f, *own[place + 1 :]]
                expected = slow_gain(clues, b, laid_there, grid) - rest
                assert found[b, place, f].item() == pytest.approx(expected, abs=1e-4)
            assert found[b, place, fragments] == 0  # nothing gains nothing


@unhurried
@given(SEEDS, SIZES, st.integers(0, 3))
def test_each_exchange_is_the_best_swap_of_all(seed: int, sizes: tuple[int, Grid], lost: int) -> None:
    images, grid = sizes
    places = images * grid[0] * grid[1]
    clues, held = random_clues(3, places - lost, grid, seed), laid(3, places - lost, places, seed % 1000)
    before = held.clone()
    found = exchange(clues, held, grid)
    assert torch.equal(held, before)
    for b in range(3):
        expected, gains = slow_exchange(clues, b, held[b].tolist(), grid)
        own = found[b].tolist()
        assert sorted(own) == sorted(held[b].tolist())
        reached = slow_gain(clues, b, own, grid)
        if lost >= 2:  # two swaps may then do the same for different empty places, and lead to different ends
            assert reached >= gains[0]
        else:
            assert reached == pytest.approx(gains[-1], abs=1e-3)
            assert own == expected or min(b - a for a, b in itertools.pairwise(gains)) < 1e-2


@unhurried
@given(SEEDS, st.sampled_from([1.0, 30.0, 90.0]))
def test_the_gain_never_falls_and_no_swap_is_left_that_gains(seed: int, scale: float) -> None:
    """Also where clues are as large as many that are ruled out."""
    grid = (2, 3)
    clues, held = random_clues(2, 17, grid, seed, scale), laid(2, 17, 18, seed % 1000)
    found = exchange(clues, held, grid)
    for b in range(2):
        reached = slow_gain(clues, b, found[b].tolist(), grid)
        assert reached >= slow_gain(clues, b, held[b].tolist(), grid)
        most = max(slow_gain(clues, b, swapped, grid) for swapped in swaps(found[b].tolist(), 6))
        assert most <= reached + LEAST * (1 + scale)


@pytest.mark.parametrize(("grid", "cells"), [((2, 3), 0.0), ((4, 4), 0.5)])
def test_fragments_that_went_to_the_wrong_image_go_back(grid: Grid, cells: float) -> None:
    n = grid[0] * grid[1]
    sources, positions = shuffled(4, 3, grid)
    clues = true_clues(sources, positions, grid, cells=cells)
    truth = (sources * n + positions).argsort(1)
    wrong = truth.clone()
    wrong[:, [0, n + n // 2]] = truth[:, [n + n // 2, 0]]
    assert not torch.equal(wrong, truth)
    assert torch.equal(exchange(clues, wrong, grid), truth)
    assert torch.equal(exchange(clues, truth, grid), truth)


@pytest.mark.parametrize("value", [0.0, -90.0, 1e4])
def test_clues_that_say_nothing_move_nothing(value: float) -> None:
    clues = Clues(torch.full((2, 8, 4), value), torch.full((2, 8, 8), value), torch.full((2, 8, 8), value))
    held = laid(2, 8, 8)
    assert torch.equal(exchange(clues, held, (2, 2)), held)


def test_a_puzzle_is_answered_alike_wherever_it_stands() -> None:
    grid = (2, 2)
    clues, held = random_clues(8, 11, grid), laid(8, 11, 12)
    whole = exchange(clues, held, grid)
    alone = [exchange(taken(clues, slice(i, i + 1)), held[i : i + 1], grid) for i in range(8)]
    assert torch.equal(torch.cat(alone), whole)
