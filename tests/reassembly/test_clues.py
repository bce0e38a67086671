from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from fragrecon.models.base import Solution
from fragrecon.reassembly.clues import IMPOSSIBLE, Clues, all_clues, gradient_clues, learned_clues
from tests.reassembly.samples import Grid, photographs, puzzle_of, seeded

PARTS = ("cells", "across", "down")


def solution(fragments: int, grid: Grid, puzzles: int = 2, seed: int = 0) -> Solution:
    """Logits as a model gives them: a fragment does not abut itself."""
    random = seeded(seed)
    sides = 3 * torch.randn(puzzles, fragments, 4, fragments + 1, generator=random)
    for f in range(fragments):
        sides[:, f, :, f] = -math.inf
    cells = 3 * torch.randn(puzzles, fragments, grid[0] * grid[1], generator=random)
    if grid != (1, 1):
        cells[:, 0, 0] = -math.inf
    return Solution(torch.randn(puzzles, fragments, 3, generator=random), cells, sides)


def logs(logits: list[float]) -> list[float]:
    total = math.log(sum(math.exp(logit) for logit in logits))
    return [max(logit - total, IMPOSSIBLE) for logit in logits]


def assert_close(one: Clues, other: Clues, atol: float = 1e-5) -> None:
    for part in PARTS:
        torch.testing.assert_close(getattr(one, part), getattr(other, part), rtol=1e-5, atol=atol)


# What a model holds likely --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(2, 2), (2, 3), (3, 1), (1, 4), (1, 1)])
def test_learned_clues_are_those_of_a_slow_loop(grid: Grid) -> None:
    rows, columns = grid
    some, n = solution(5, grid), rows * columns
    found = learned_clues(some, grid)
    assert (found.cells.shape, found.across.shape, found.down.shape) == ((2, 5, n), (2, 5, 5), (2, 5, 5))
    for b in range(2):
        sides = [[logs(side) for side in fragment] for fragment in some.sides[b].tolist()]
        for i in range(5):
            expected = [logarithm + math.log(n) for logarithm in logs(some.cells[b, i].tolist())]
            for cell in range(n):
                right, below, left, above = (side[-1] for side in sides[i])
                expected[cell] += right if cell % columns == columns - 1 else 0
                expected[cell] += left if cell % columns == 0 else 0
                expected[cell] += below if cell // columns == rows - 1 else 0
                expected[cell] += above if cell // columns == 0 else 0
            assert found.cells[b, i].tolist() == pytest.approx(expected, abs=1e-4)
            # That j is to the right of i is told by the right of i, and by the left of j; by chance it is one of six.
            across = [sides[i][0][j] + sides[j][2][i] + 2 * math.log(6) for j in range(5)]
            down = [sides[i][1][j] + sides[j][3][i] + 2 * math.log(6) for j in range(5)]
            assert found.across[b, i].tolist() == pytest.approx(across, abs=1e-4)
            assert found.down[b, i].tolist() == pytest.approx(down, abs=1e-4)


def test_what_a_model_rules_out_still_adds_up() -> None:
    some = solution(4, (2, 2))
    some.sides[0, 1, :, -1] = -math.inf
    some.cells[0, 2, 3] = -math.inf
    found = learned_clues(some, (2, 2))
    assert all(torch.isfinite(getattr(found, part)).all() for part in PARTS)
    least = torch.full((2, 4), 2 * (IMPOSSIBLE + math.log(5)))
    torch.testing.assert_close(found.across.diagonal(dim1=1, dim2=2), least)
    assert found.cells[0, 1].max() < 2 * IMPOSSIBLE + math.log(4) + 1e-4  # each cell of 2x2 lies at two borders
    assert found.cells[0, 2, 3] < IMPOSSIBLE + math.log(4) + 1e-4


def test_what_a_model_knows_nothing_of_gains_nothing() -> None:
    cells, sides = torch.zeros(1, 4, 6), torch.zeros(1, 4, 4, 5)
    found = learned_clues(Solution(torch.zeros(1, 4, 2), cells, sides), (2, 3))
    torch.testing.assert_close(found.across, torch.zeros(1, 4, 4))
    torch.testing.assert_close(found.down, torch.zeros(1, 4, 4))
    # A cell gains what speaks for an empty side, the less the fewer of its sides are at a border.
    torch.testing.assert_close(found.cells[0, 0], torch.tensor([2.0, 1, 2, 2, 1, 2]) * -math.log(5))


# Gallagher's compatibility --------------------------------------------------------------------------------------------

Floats = npt.NDArray[np.float64]


def slow_one_sided(edge: Floats, inner: Floats, other: Floats) -> float:
    """Dissimilarity of the steps from an edge (h, C) to the other's, by those from the inner pixels to the edge."""
    channels = edge.shape[1]
    steps = [edge[y] - inner[y] for y in range(len(edge))]
    mean = sum(steps) / len(steps)
    sample = [step - mean for step in steps] + [np.zeros(channels)]
    for channel in range(channels):
        sample += [np.eye(channels)[channel], -np.eye(channels)[channel]]
    covariance = sum((np.outer(row, row) for row in sample), np.zeros((channels, channels))) / (len(sample) - 1)
    inverse = np.linalg.inv(covariance)
    total = 0.0
    for y in range(len(edge)):
        error = other[y] - edge[y] - mean
        total += float(error @ inverse @ error)
    return total


def slow_gains(pixels: Floats) -> Floats:
    """Gains (F, F) of the second to the right of the first, from pixels (F, C, h, w) in 0..255."""
    count = len(pixels)
    found = np.full((count, count), np.inf)
    for i in range(count):
        for j in range(count):
            if i != j:
                right, beside = pixels[i, :, :, -1].T, pixels[i, :, :, -2].T
                left, after = pixels[j, :, :, 0].T, pixels[j, :, :, 1].T
                found[i, j] = slow_one_sided(right, beside, left) + slow_one_sided(left, after, right)
    gains = np.full((count, count), IMPOSSIBLE)
    for i in range(count):
        for j in range(count):
            if i != j:
                second = [sorted(found[i])[1], sorted(found[:, j])[1]] if count > 2 else [1, 1]
                gains[i, j] = -(math.log(found[i, j]) - (math.log(second[0]) + math.log(second[1])) / 2)
    return gains


@pytest.mark.parametrize("shape", [(3, 4, 6), (1, 5, 3), (3, 2, 2)])
@pytest.mark.parametrize("count", [2, 3, 6])
def test_gradient_clues_are_those_of_a_slow_loop(shape: tuple[int, int, int], count: int) -> None:
    fragments = torch.rand(2, count, *shape, generator=seeded(count))
    found = gradient_clues(fragments, 4)
    assert found.cells.tolist() == [[[0.0] * 4] * count] * 2
    for b in range(2):
        pixels = fragments[b].double().numpy() * 255
        np.testing.assert_allclose(found.across[b].numpy(), slow_gains(pixels), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found.down[b].numpy(), slow_gains(pixels.swapaxes(2, 3)), rtol=1e-5, atol=1e-5)


def right_of(sources: Tensor, positions: Tensor, columns: int) -> list[tuple[int, int]]:
    places = list(zip(sources.tolist(), positions.tolist(), strict=True))
    return [
        (i, places.index((image, cell + 1))) for i, (image, cell) in enumerate(places) if cell % columns < columns - 1
    ]


@pytest.mark.parametrize("size", [(64, 96), (96, 64)])
def test_the_pixels_of_photographs_tell_what_abuts(size: tuple[int, int]) -> None:
    batch = puzzle_of(photographs(*size), (16, 16))
    columns = size[1] // 16
    found = gradient_clues(batch.fragments, 24).across[0]
    pairs = right_of(batch.source_ids[0], batch.positions[0], columns)
    right = [found[i].argmax().item() == j for i, j in pairs]
    assert len(right) == 2 * (24 - size[0] // 16)
    assert np.mean(right) > 0.85  # 1/47 by chance
    assert np.median([found[i, j] for i, j in pairs]) > 0.5  # better than second-best
    assert found.median() < 0


def test_turned_mirrored_and_inverted_fragments_have_the_clues_turned_and_mirrored() -> None:
    some = torch.rand(2, 5, 3, 6, 6, generator=seeded(1))
    found = gradient_clues(some, 4)
    assert_close(gradient_clues(some.mT, 4), Clues(found.cells, found.down, found.across))
    assert_close(gradient_clues(some.flip(-1), 4), Clues(found.cells, found.across.mT, found.down))
    assert_close(gradient_clues(some.flip(-2), 4), Clues(found.cells, found.across, found.down.mT))
    assert_close(gradient_clues(1 - some, 4), found)
    assert_close(gradient_clues(some[:, :, [2, 0, 1]], 4), found)


@pytest.mark.parametrize("value", [0.0, 0.4])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_plain_fragments_all_abut_alike(value: float, count: int) -> None:
    found = gradient_clues(torch.full((2, count, 3, 4, 4), value), 4)
    itself = torch.eye(count, dtype=torch.bool)
    for pairs in (found.across, found.down):
        assert torch.isfinite(pairs).all()
        assert (pairs[:, itself] == IMPOSSIBLE).all()
        others = pairs[:, ~itself]
        assert others.numel() == 0 or others.max() - others.min() < 1e-6


def test_pixels_and_model_add_up() -> None:
    some, fragments = solution(6, (2, 3)), torch.rand(2, 6, 3, 4, 4, generator=seeded(4))
    both, learned, pixels = (
        all_clues(some, fragments, (2, 3)),
        learned_clues(some, (2, 3)),
        gradient_clues(fragments, 6),
    )
    assert_close(both, Clues(learned.cells, learned.across + pixels.across, learned.down + pixels.down))
    assert_close(both.cpu(), both, 0)
