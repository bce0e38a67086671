from __future__ import annotations

import numpy as np
import pytest
import torch

from fragrecon.jigsaw.assemble import _tighten, assemble, count_images
from fragrecon.jigsaw.evidence import FLOOR, Floats, log_odds, logits
from fragrecon.jigsaw.fill import Canvas, Filling
from fragrecon.jigsaw.forest import EMPTY, STEPS, Forest, likely_pairs, turned
from fragrecon.jigsaw.metrics import neighbours, score
from fragrecon.jigsaw.pieces import Arrangement, Grid, looks
from fragrecon.jigsaw.solve import solve_jigsaw
from tests.jigsaw.samples import CHINA, FLOWER, photograph_puzzle, random_arrangement

PERFECT = ("direct", "neighbours", "perfect", "largest_component", "sedas", "enas")


def true_table(truth: Arrangement, rotations: bool, noise: float = 0.0, seed: int = 0) -> Floats:
    """Log-odds of 5 for true neighbours and of -5 for others, with noise; symmetric."""
    count = len(truth.images)
    drawn = np.random.default_rng(seed).standard_normal((4, 4 if rotations else 1, count, count))
    other = drawn.transpose(1, 0, 3, 2) if rotations else np.roll(drawn, 2, 0).transpose(0, 1, 3, 2)
    table = (noise * (drawn + other) / np.sqrt(2) - 5).astype(np.float32)
    for side, row in enumerate(neighbours(truth)):
        for a, b in enumerate(row.tolist()):
            if b != EMPTY:
                s, t = (side - truth.rotations[a]) % 4, (side + 2 - truth.rotations[b]) % 4
                table[s, t if rotations else 0, a, b] += 10
    found: Floats = np.maximum(table, FLOOR).reshape(-1, count, count)
    return found


def slow_total(found: Arrangement, table: Floats) -> float:
    total = 0.0
    for side in (0, 1):
        for a, b in enumerate(neighbours(found)[side].tolist()):
            if b != EMPTY:
                s, t = (side - found.rotations[a]) % 4, (side + 2 - found.rotations[b]) % 4
                total += float(table[4 * s + t if len(table) == 16 else s, a, b])
    return total


@pytest.mark.parametrize("rotations", [False, True])
@pytest.mark.parametrize("grids", [[(4, 5)], [(3, 4), (4, 4)]])
def test_clear_evidence_is_followed(rotations: bool, grids: list[Grid]) -> None:
    random = np.random.default_rng(0)
    count = sum(rows * columns for rows, columns in grids)
    truth = random_arrangement(grids, count, random, rotate=rotations)
    table = true_table(truth, rotations, noise=1.0)
    for known in (grids, None):
        found, confidences = assemble(table, known, rounds=2)
        scores = score(found, truth, rotations)
        assert [scores[name] for name in PERFECT] == [1.0] * len(PERFECT)
        assert scores["images_found"] == len(grids)
        assert (confidences > 0.9).all()
        assert known is None or found.grids == tuple(grids)


def test_holes_stay_empty_and_every_piece_has_one_cell() -> None:
    random = np.random.default_rng(2)
    truth = random_arrangement([(5, 6)], 27, random)
    found, _ = assemble(true_table(truth, False, noise=1.0), [(5, 6)], rounds=2)
    assert score(found, truth, False)["direct"] == 1
    assert len({(row, column) for row, column in zip(found.rows.tolist(), found.columns.tolist(), strict=True)}) == 27


@pytest.mark.parametrize("rotations", [False, True])
@pytest.mark.parametrize("grids", [[(6, 6)], [(2, 9), (3, 6)], None])
def test_without_evidence_the_result_is_still_an_arrangement(rotations: bool, grids: list[Grid] | None) -> None:
    random = np.random.default_rng(3)
    truth = random_arrangement([(6, 6)], 36, random)
    table = true_table(truth, rotations, noise=9.0)
    found, confidences = assemble(table, grids, rounds=1)
    cells = {tuple(cell) for cell in np.stack([found.images, found.rows, found.columns], 1).tolist()}
    assert len(cells) == 36
    for image, row, column in cells:
        rows, columns = found.grids[image]
        assert 0 <= row < rows
        assert 0 <= column < columns
    assert ((confidences >= 0) & (confidences <= 1)).all()
    assert rotations or not found.rotations.any()


def test_the_search_never_lowers_the_total() -> None:
    truth = random_arrangement([(6, 7)], 42, np.random.default_rng(4))
    table = true_table(truth, False, noise=4.0)
    totals = [slow_total(assemble(table, [(6, 7)], rounds=rounds)[0], table) for rounds in (0, 4, 8)]
    assert totals == sorted(totals)


@pytest.mark.parametrize("quarters", range(5))
def test_positions_are_rotated_counterclockwise(quarters: int) -> None:
    marks = np.zeros((5, 5), int)
    marks[1, 4] = 1  # two columns right of, and one row above the centre
    place = turned(np.array([-1, 2]), quarters)
    assert np.rot90(marks, quarters)[2 + place[0], 2 + place[1]] == 1
    for side, step in enumerate(STEPS):
        assert turned(step, quarters).tolist() == STEPS[(side - quarters) % 4].tolist()


def test_the_forest_keeps_places_and_never_overlaps() -> None:
    truth = random_arrangement([(5, 5)], 25, np.random.default_rng(5), rotate=True)
    table = true_table(truth, True, noise=3.0)
    forest = Forest(table)
    left = likely_pairs(table, 5)
    assert len({tuple(pair) for pair in left.tolist()}) == len(left)
    for least in (3.0, 0.0, -np.inf):
        left = forest.grow(left, least)
        for number, part in forest.parts.items():
            assert (forest.part_of[part.members] == number).all()
            assert len({tuple(place) for place in forest.places[part.members].tolist()}) == len(part.members)
            assert part.at(forest.places[part.members]).tolist() == part.members.tolist()
    assert len(left) == 0


def test_parts_do_not_exceed_a_limit() -> None:
    truth = random_arrangement([(3, 6)], 18, np.random.default_rng(6))
    forest = Forest(true_table(truth, False))
    forest.grow(likely_pairs(forest.table, 3), -np.inf, limit=(3, 4))
    for part in forest.parts.values():
        size = forest.places[part.members].max(0) - forest.places[part.members].min(0) + 1
        assert (size <= (3, 4)).all()


def test_scores_totals_and_confidences_of_a_canvas_are_those_of_a_slow_loop() -> None:
    random = np.random.default_rng(7)
    truth = random_arrangement([(3, 3)], 9, random, rotate=True)
    table = true_table(truth, True, noise=3.0)
    grid = np.full((5, 5), EMPTY)
    grid[truth.rows[:7] + 1, truth.columns[:7] + 1] = np.arange(7)
    filling = Filling(table, [Canvas(grid, (3, 3))], truth.rotations.copy())
    assert filling.pool.tolist() == [7, 8]

    def slow(cell: tuple[int, int], piece: int, turn: int) -> float:
        total = 0.0
        for direction, (down, across) in enumerate(STEPS.tolist()):
            other = int(grid[cell[0] + down, cell[1] + across])
            if other != EMPTY:
                s, t = (direction - turn) % 4, (direction + 2 - truth.rotations[other]) % 4
                total += float(table[4 * s + t, piece, other])
        return total

    cells = np.argwhere(grid[1:4, 1:4] < 9) + 1
    every = list(range(9))
    wanted = [[[slow((r, c), piece, turn) for piece in every] for turn in range(4)] for r, c in cells.tolist()]
    np.testing.assert_allclose(filling.scores(filling.canvases[0], cells, np.array(every)), wanted, atol=1e-4)
    first = [values[:7] for values in (truth.images, truth.rows, truth.columns, truth.rotations)]
    placed = Arrangement(first[0], first[1], first[2], first[3], ((3, 3),))
    assert filling.total() == pytest.approx(slow_total(placed, table), abs=1e-3)
    cell = int(truth.rows[0]) + 1, int(truth.columns[0]) + 1
    odds = {(piece, turn): np.exp(slow(cell, piece, turn)) for piece in every for turn in range(4)}
    share = odds[0, int(truth.rotations[0])] / sum(odds.values())
    assert filling.confidences()[0] == pytest.approx(share, rel=1e-3)
    assert (filling.confidences()[7:] == 0).all()


def test_pieces_are_exchanged_to_their_cells() -> None:
    truth = random_arrangement([(4, 4)], 16, np.random.default_rng(8))
    table = true_table(truth, False)
    grid = np.full((6, 6), EMPTY)
    grid[truth.rows + 1, truth.columns + 1] = np.arange(16)
    wrong = grid.copy()
    wrong[1, 1], wrong[3, 3] = grid[3, 3], grid[1, 1]
    filling = Filling(table, [Canvas(wrong, (4, 4))], np.zeros(16, np.int64))
    before = filling.total()
    filling.exchange()
    assert (filling.canvases[0].grid == grid).all()
    assert filling.total() > before


def test_pieces_far_off_or_in_nearly_empty_lines_fill_the_holes_instead() -> None:
    places = np.array([[row, column] for row in range(5) for column in range(6)])
    table = np.full((4, 30, 30), -1.0, np.float32)
    for side, step in enumerate(STEPS):
        ends = np.argwhere((places[:, None] + step == places).all(-1))
        table[side, ends[:, 0], ends[:, 1]] = 5.0
    grid = np.full((13, 10), EMPTY)
    grid[tuple((places + 6).T - np.array([[0], [4]]))] = np.arange(30)
    grid[9, 4], grid[1, 3] = EMPTY, grid[9, 4]  # far above
    grid[10, 2], grid[7, 8] = EMPTY, grid[10, 2]  # alone in a column
    filling = Filling(table, [Canvas(grid, (11, 8))], np.zeros(30, np.int64))
    _tighten(filling)
    (top, left), _ = filling.canvases[0].box()
    np.testing.assert_array_equal(filling.canvases[0].grid[top : top + 5, left : left + 6], np.arange(30).reshape(5, 6))
    assert filling.canvases[0].size() == (5, 6)


def test_only_large_parts_count_as_images() -> None:
    assert count_images([1, 1, 1]) == 1
    assert count_images([500, 80, 70, 12]) == 2


@pytest.mark.parametrize("rotate", [False, True])
def test_two_photographs_are_assembled_from_their_pixels(rotate: bool) -> None:
    pieces, truth = photograph_puzzle([CHINA, FLOWER], (53, 53), seed=1, rotate=rotate)
    solved = solve_jigsaw(pieces, rotations=rotate, rounds=4)
    scores = score(solved.arrangement, truth, rotate, looks(pieces, rotate))
    assert [scores[name] for name in PERFECT] == [1.0] * len(PERFECT)
    assert scores["images_found"] == 2
    best = solved.neighbours[..., 0] % len(pieces)
    wanted = neighbours(truth)
    sides = (np.arange(4)[:, None] - truth.rotations) % 4  # of the pieces as given, by true side
    found = best[sides, np.arange(len(pieces))]
    assert (found == wanted)[wanted != EMPTY].mean() > 0.95
    probabilities = solved.probabilities.sum(-1)
    assert ((probabilities >= 0) & (probabilities <= 1 + 1e-5)).all()


def test_the_size_of_one_image_is_found_and_pieces_of_uniform_images_are_placed() -> None:
    pieces, truth = photograph_puzzle([CHINA], (61, 64))
    solved = solve_jigsaw(pieces, rotations=False, images=1, rounds=2)
    assert solved.arrangement.grids == truth.grids
    uniform = torch.full((6, 1, 8, 8), 7, dtype=torch.uint8)
    found = solve_jigsaw(uniform, rotations=True, grids=[(2, 3)], rounds=1)
    assert (
        len({(row, column) for row, column in zip(found.arrangement.rows, found.arrangement.columns, strict=True)}) == 6
    )
    alone = solve_jigsaw(pieces[:1], rotations=False)
    assert alone.arrangement.grids == ((1, 1),)


def test_a_table_of_a_photograph_speaks_for_its_truth() -> None:
    pieces, truth = photograph_puzzle([CHINA], (61, 64))
    table = log_odds(logits(pieces.float(), False)).numpy()
    other = random_arrangement([truth.grids[0]], len(pieces), np.random.default_rng(0))
    assert slow_total(truth, table) > 0 > slow_total(other, table)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("rotations", [False, True])
def test_the_smallest_puzzles(count: int, rotations: bool) -> None:
    pieces = photograph_puzzle([CHINA], (61, 61))[0][:count]
    for grids in (None, [(1, count)]):
        found = solve_jigsaw(pieces, rotations=rotations, grids=grids, rounds=1)
        assert found.arrangement.images.shape == found.confidences.shape == (count,)
