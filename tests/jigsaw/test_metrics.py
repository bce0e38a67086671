from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from fragrecon.jigsaw.metrics import comparison, distinct, enhanced, score
from fragrecon.jigsaw.pieces import Arrangement, Grid, looks
from tests.jigsaw.samples import CHINA, photograph_puzzle, random_arrangement

STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))
Cells = dict[tuple[int, int], tuple[int, int]]
"""Piece and rotation by cell."""


def cells_of(found: Arrangement, image: int) -> Cells:
    places = zip(found.rows.tolist(), found.columns.tolist(), strict=True)
    return {
        place: (piece, int(found.rotations[piece]))
        for piece, place in enumerate(places)
        if found.images[piece] == image
    }


def turned(cells: Cells, grid: Grid) -> tuple[Cells, Grid]:
    """An image after a quarter turn counterclockwise."""
    return {(grid[1] - 1 - c, r): (piece, (turn - 1) % 4) for (r, c), (piece, turn) in cells.items()}, grid[::-1]


def ways(found: Arrangement, image: int, rotations: bool) -> list[Cells]:
    one = cells_of(found, image), found.grids[image]
    result = []
    for _ in range(4 if rotations else 1):
        result.append(one[0])
        one = turned(*one)
    return result


def links(found: Arrangement, truth: Arrangement) -> set[tuple[int, int, int]]:
    """(piece, side of the upright piece, neighbour), with -1 for none, of all pieces."""
    result = set()
    for image in range(len(found.grids)):
        cells = cells_of(found, image)
        for (row, column), (piece, turn) in cells.items():
            for direction, (down, across) in enumerate(STEPS):
                other = cells.get((row + down, column + across))
                # The side of the piece as given that faces the direction; then that of the truly upright piece.
                side = (direction - turn + int(truth.rotations[piece])) % 4
                lie = (
                    None
                    if other is None
                    else (other[1] - int(truth.rotations[other[0]]) - turn + int(truth.rotations[piece])) % 4
                )
                if lie in (None, 0):  # both are rotated alike
                    result.add((piece, side, -1 if other is None else other[0]))
    return result


def upright(found: Arrangement, truth: Arrangement) -> set[int]:
    return {piece for piece in range(len(found.images)) if found.rotations[piece] == truth.rotations[piece]}


def slow_scores(found: Arrangement, truth: Arrangement, rotations: bool) -> dict[str, float]:
    count, images = len(truth.images), len(truth.grids)
    true = [cells_of(truth, image) for image in range(images)]
    best = np.zeros((len(found.grids), images), int)
    for number, image in np.ndindex(best.shape):
        best[number, image] = max(
            sum(way.get(cell) == wanted for cell, wanted in true[image].items())
            for way in ways(found, number, rotations)
        )
    padded = np.zeros((max(best.shape), images), int)
    padded[: len(best)] = best
    direct, perfect = 0, 0
    for order in itertools.permutations(range(len(padded)), images):
        matched = [int(padded[number, image]) for image, number in enumerate(order)]
        if sum(matched) > direct:
            direct = sum(matched)
            perfect = sum(
                matched[image] == len(true[image]) == (found.images == number).sum()
                for image, number in enumerate(order)
            )
    wanted, held = links(truth, truth), links(found, truth)
    if not rotations:
        held = {link for link in held if link[0] in upright(found, truth)}
    inner = {link for link in wanted if link[2] >= 0}
    sedas, enas, components = [], [], []
    for image in range(images):
        own = {piece for piece, _ in true[image].values()}
        direct_scores, neighbour_scores = [0.0], [0.0]
        for number in range(len(found.grids)):
            inside = {piece for piece, _ in cells_of(found, number).values()}
            size = len(own) + len(inside - own)
            same = sum(link in held for link in wanted if link[0] in own & inside)
            neighbour_scores.append(same / (4 * size))
            for way in ways(found, number, rotations):
                nearest = min((row + column for row, column in way), default=0)
                for down, across in itertools.product(range(nearest + 1), repeat=2):
                    if down + across <= nearest:
                        right = sum(way.get((r + down, c + across)) == one for (r, c), one in true[image].items())
                        direct_scores.append(right / size)
        sedas.append(max(direct_scores))
        enas.append(max(neighbour_scores))
        left, largest = set(own), 0
        while left:
            part, stack = set(), [left.pop()]
            while stack:
                piece = stack.pop()
                part.add(piece)
                stack += [b for a, _, b in inner & held if a == piece and b not in part and b in left]
                left -= set(stack)
            largest = max(largest, len(part))
        components.append(largest / len(own))
    return {
        "direct": direct / count,
        "neighbours": len(inner & held) / max(1, len(inner)),
        "perfect": perfect / images,
        "largest_component": float(np.mean(components)),
        "sedas": float(np.mean(sedas)),
        "enas": float(np.mean(enas)),
        "images_found": len(set(found.images.tolist())),
        "images": images,
    }


def disturbed(truth: Arrangement, random: np.random.Generator, rotate: bool) -> Arrangement:
    """The truth with a few pieces exchanged or rotated, images rotated as wholes, and images in another order."""
    found = replace(truth, images=truth.images.copy(), rows=truth.rows.copy(), columns=truth.columns.copy())
    for _ in range(random.integers(0, 4)):
        a, b = random.integers(len(truth.images), size=2)
        for values in (found.images, found.rows, found.columns):
            values[[a, b]] = values[[b, a]]
    if rotate:
        turns = (found.rotations + (random.random(len(found.rotations)) < 0.1)) % 4
        found = replace(found, rotations=turns)
        for image in range(len(found.grids)):
            for _ in range(random.integers(4)):
                own, (rows, columns) = found.images == image, found.grids[image]
                new_rows = np.where(own, columns - 1 - found.columns, found.rows)
                new_columns = np.where(own, found.rows, found.columns)
                grids = tuple((columns, rows) if k == image else grid for k, grid in enumerate(found.grids))
                turns = np.where(own, (found.rotations - 1) % 4, found.rotations)
                found = replace(found, rows=new_rows, columns=new_columns, rotations=turns, grids=grids)
    elif random.random() < 0.5:  # shifted, in a larger image
        found = replace(found, rows=found.rows + 1, grids=tuple((rows + 1, columns) for rows, columns in found.grids))
    order = random.permutation(len(found.grids))
    grids = tuple(found.grids[k] for k in np.argsort(order))
    return replace(found, images=order[found.images], grids=grids)


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_scores_are_those_of_a_slow_loop(rotate: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    grids: list[Grid] = [(2, 3), (3, 3), (1, 4)][: 1 + seed % 3]
    total = sum(rows * columns for rows, columns in grids)
    truth = random_arrangement(grids, total - seed % 2, random, rotate=rotate)
    for found in (
        truth,
        disturbed(truth, random, rotate),
        random_arrangement([(4, 5), (2, 2)], total - seed % 2, random, rotate=rotate),
    ):
        assert score(found, truth, rotate) == pytest.approx(slow_scores(found, truth, rotate), abs=1e-12)


def test_the_truth_is_perfect_and_may_be_rotated_only_if_orientation_is_unknown() -> None:
    truth = random_arrangement([(3, 4)], 12, np.random.default_rng(0))
    rotated = replace(
        truth, rows=3 - truth.columns, columns=truth.rows, rotations=(truth.rotations - 1) % 4, grids=((4, 3),)
    )
    perfect = ("direct", "neighbours", "perfect", "largest_component", "sedas", "enas")
    for found, rotations in ((truth, False), (truth, True), (rotated, True)):
        assert [score(found, truth, rotations)[name] for name in perfect] == [1.0] * 6
    assert comparison(rotated, truth, False, distinct(12))["neighbours"] == 0


def test_two_images_taken_for_one_count_once() -> None:
    truth = random_arrangement([(2, 2), (2, 2)], 8, np.random.default_rng(1))
    joined = replace(truth, images=0 * truth.images, columns=truth.columns + 2 * truth.images, grids=((2, 4),))
    found = score(joined, truth, False)
    assert (found["images_found"], found["images"]) == (1, 2)
    assert (found["direct"], found["perfect"], found["neighbours"]) == (0.5, 0, 1)
    assert found["sedas"] == pytest.approx((4 / 8 + 0) / 2)
    # Of the 16 sides of an image, two lack the border that they should have.
    assert enhanced(joined, truth, False, distinct(8))["enas"] == pytest.approx(14 / 32)


@pytest.mark.parametrize("rotate", [False, True])
def test_equal_pieces_may_be_exchanged(rotate: bool) -> None:
    image = CHINA[:, :160, :200].clone()
    image[:, :80, :120] = 255  # six white pieces
    pieces, truth = photograph_puzzle([image], (40, 40), rotate=rotate)
    white = np.flatnonzero((pieces == 255).all(1).all(1).all(1).numpy())
    assert len(white) == 6
    other = np.roll(white, 1)
    found = replace(truth, rows=truth.rows.copy(), columns=truth.columns.copy(), rotations=truth.rotations.copy())
    for values, given in ((found.rows, truth.rows), (found.columns, truth.columns)):
        values[white] = given[other]
    if rotate:
        found.rotations[white] = (found.rotations[white] + 1) % 4
    strict, alike = score(found, truth, rotate), score(found, truth, rotate, looks(pieces, rotate))
    assert strict["direct"] == pytest.approx(14 / 20)
    assert strict["perfect"] == 0
    assert strict["neighbours"] < 1
    assert [alike[name] for name in ("direct", "neighbours", "perfect", "sedas", "enas")] == [1.0] * 5
    other = np.roll(np.flatnonzero(truth.rows == 3), 1)
    found.columns[np.roll(other, -1)] = truth.columns[other]  # not equal
    assert score(found, truth, rotate, looks(pieces, rotate))["perfect"] == 0
