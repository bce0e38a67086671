from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fragrecon.data.adjacency import adjacent, meeting_sides, neighbours, same_source
from fragrecon.data.puzzles import cut, draw_orders

Size = tuple[int, int]
unhurried = settings(deadline=None, max_examples=40)
STEPS = [(0, 1), (1, 0), (0, -1), (-1, 0)]  # rows and columns to the right, below, to the left and above


def shuffled(count: int, images: int, grid: Size, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Sources and cells of puzzles."""
    cells = grid[0] * grid[1]
    orders = torch.from_numpy(draw_orders(count, images * cells, np.random.default_rng(seed)))
    return orders // cells, orders % cells


def slow_neighbours(sources: list[int], cells: list[int], grid: Size) -> list[list[int]]:
    """By looking at each other fragment of the puzzle."""
    places = [(source, cell // grid[1], cell % grid[1]) for source, cell in zip(sources, cells, strict=True)]
    found = []
    for source, row, column in places:
        beside = [(source, row + down, column + across) for down, across in STEPS]
        found.append([places.index(place) if place in places else len(places) for place in beside])
    return found


@unhurried
@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(0, 10**6), st.data())
def test_neighbours_and_pairs_are_those_of_slow_loops(
    count: int, images: int, rows: int, columns: int, seed: int, drawn: st.DataObject
) -> None:
    """Also where fragments are missing, at the end of the random order."""
    size = drawn.draw(st.integers(1, images * rows * columns))
    sources, cells = (part[:, :size] for part in shuffled(count, images, (rows, columns), seed))
    found = neighbours(sources, cells, (rows, columns), images)
    same, touching = same_source(sources), adjacent(sources, cells, (rows, columns))
    assert same.shape == touching.shape == (count, size, size)
    for puzzle, (source, cell) in enumerate(zip(sources.tolist(), cells.tolist(), strict=True)):
        beside = slow_neighbours(source, cell, (rows, columns))
        assert found[puzzle].tolist() == beside
        assert same[puzzle].tolist() == [[one == other for other in source] for one in source]
        assert touching[puzzle].tolist() == [[j in beside[i] for j in range(size)] for i in range(size)]


def border(pixels: npt.NDArray[np.int64], side: int) -> list[int]:
    """The outermost pixels of a fragment (h, h), clockwise: on the right, below, on the left or above."""
    last = len(pixels) - 1
    places = [
        [(along, last) for along in range(last + 1)],
        [(last, last - along) for along in range(last + 1)],
        [(last - along, 0) for along in range(last + 1)],
        [(0, along) for along in range(last + 1)],
    ]
    return [int(pixels[place]) for place in places[side]]


@unhurried
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 10**6), st.data())
def test_the_sides_that_meet_have_pixels_that_touched_in_the_image(
    images: int, rows: int, columns: int, seed: int, drawn: st.DataObject
) -> None:
    """Images of numbered pixels are cut, and fragments rotated; sides meet where all pixels were beside another."""
    grid, random = (rows, columns), np.random.default_rng(seed)
    size, width = drawn.draw(st.integers(1, images * rows * columns)), 3 * columns
    whole = np.arange(images * 9 * rows * columns).reshape(images, 1, 3 * rows, width)
    tiles = cut(torch.from_numpy(whole), (3, 3)).flatten(0, 1)[:, 0].numpy()
    sources, cells = (part[:, :size] for part in shuffled(1, images, grid, seed))
    quarters = random.integers(0, 4, size)
    fragments = [
        np.rot90(tiles[source * rows * columns + cell], quarter)
        for source, cell, quarter in zip(sources[0].tolist(), cells[0].tolist(), quarters.tolist(), strict=True)
    ]

    def touched(one: int, other: int) -> bool:
        places = [np.unravel_index(pixel, (images, 3 * rows, width)) for pixel in (one, other)]
        apart = [abs(int(a) - int(b)) for a, b in zip(*places, strict=True)]
        return apart[0] == 0 and sum(apart) == 1

    beside = neighbours(sources, cells, grid, images)
    found = meeting_sides(beside, torch.from_numpy(quarters).unsqueeze(0))
    borders = [[border(fragment, side) for side in range(4)] for fragment in fragments]
    for a, s in itertools.product(range(size), range(4)):
        meeting = [
            t * size + b
            for b, t in itertools.product(range(size), range(4))
            if b != a and all(map(touched, borders[a][s], reversed(borders[b][t])))
        ]
        assert [int(found[0, a, s])] == (meeting or [4 * size])


def test_pairs_may_lack_fragments() -> None:
    """Also where cells are empty or taken twice, which `adjacent` does not mind."""
    sources, cells = torch.tensor([[0, 0, 1, 0, 1]]), torch.tensor([[0, 3, 1, 2, 0]])
    assert torch.nonzero(adjacent(sources, cells, (2, 2))[0]).flatten().tolist() == [
        *(0, 3, 1, 3, 2, 4, 3, 0, 3, 1, 4, 2)
    ]
    twice = adjacent(torch.zeros(1, 3, dtype=torch.long), torch.tensor([[0, 0, 1]]), (1, 2))
    assert torch.nonzero(twice[0]).flatten().tolist() == [0, 2, 1, 2, 2, 0, 2, 1]
