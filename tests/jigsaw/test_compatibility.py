from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from fragrecon.jigsaw.compatibility import Compatibility, gradient_changes, gradients, prediction, sum_of_squares

Pixels = npt.NDArray[np.float64]
"""A piece (h, w, C)."""
ALL = [sum_of_squares, prediction, gradients, gradient_changes]


def random_pieces(count: int, height: int, width: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, channels, height, width), generator=generator).float()


def beside(one: Pixels, other: Pixels, s: int, t: int) -> tuple[Pixels, Pixels]:
    """Turn two pieces so that side s of the first is on its right, and side t of the second on its left."""
    return np.rot90(one, s), np.rot90(other, (t + 2) % 4)  # a quarter turn counterclockwise brings below to the right


def slow_squares(one: Pixels, other: Pixels) -> float:
    return float(((one[:, -1] - other[:, 0]) ** 2).sum())


def slow_prediction(one: Pixels, other: Pixels, norm: float = 1.0, power: float = 1.0) -> float:
    def directed(first: Pixels, second: Pixels) -> float:
        total = 0.0
        for row, channel in np.ndindex(first.shape[0], first.shape[2]):
            predicted = first[row, -1, channel] + (first[row, -1, channel] - first[row, -2, channel])
            total += abs(predicted - second[row, 0, channel]) ** norm
        return float(total ** (power / norm))

    return directed(one, other) + directed(other[:, ::-1], one[:, ::-1])


def slow_mahalanobis(first: Pixels, inner: Pixels, second: Pixels) -> float:
    """Of lines (h, C): the last of one piece, the one before, and the first of the other piece."""
    steps = first - inner
    mean = steps.mean(0)
    sample = [*(steps - mean), np.zeros(first.shape[1])]
    for channel in range(first.shape[1]):
        unit = np.eye(first.shape[1])[channel]
        sample += [unit, -unit]
    covariance = sum(np.outer(step, step) for step in sample) / (len(sample) - 1)
    inverse = np.linalg.inv(covariance)
    steps_across = [b - a - mean for a, b in zip(first, second, strict=True)]
    return float(sum(float(step @ inverse @ step) for step in steps_across))


def slow_gradients(one: Pixels, other: Pixels) -> float:
    there = slow_mahalanobis(one[:, -1], one[:, -2], other[:, 0])
    return there + slow_mahalanobis(other[:, 0], other[:, 1], one[:, -1])


def slow_changes(one: Pixels, other: Pixels) -> float:
    return slow_gradients(np.diff(one, axis=0), np.diff(other, axis=0))


SLOW: list[tuple[Compatibility, Callable[[Pixels, Pixels], float]]] = [
    (sum_of_squares, slow_squares),
    (prediction, slow_prediction),
    (
        lambda pieces, rotations: prediction(pieces, rotations, 0.3, 1 / 16),
        lambda a, b: slow_prediction(a, b, 0.3, 1 / 16),
    ),
    (gradients, slow_gradients),
    (gradient_changes, slow_changes),
]


@pytest.mark.parametrize(("fast", "slow"), SLOW)
@pytest.mark.parametrize("channels", [1, 3])
def test_all_ways_are_those_of_a_slow_loop(
    fast: Compatibility, slow: Callable[[Pixels, Pixels], float], channels: int
) -> None:
    pieces = random_pieces(3, 6, 6, channels)
    tables = fast(pieces, False), fast(pieces, True)
    assert [table.shape for table in tables] == [(4, 3, 3), (16, 3, 3)]
    assert all(table.dtype == torch.float32 for table in tables)
    arrays = pieces.double().movedim(1, -1).numpy()
    for a, b in itertools.permutations(range(3), 2):
        for s, t in itertools.product(range(4), repeat=2):
            wanted = slow(*beside(arrays[a], arrays[b], s, t))
            assert float(tables[1][4 * s + t, a, b]) == pytest.approx(wanted, rel=1e-4)
            if t == (s + 2) % 4:
                assert float(tables[0][s, a, b]) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("function", ALL)
def test_tables_are_symmetric_and_no_piece_meets_itself(function: Compatibility) -> None:
    pieces = random_pieces(4, 5, 5)
    known, unknown = function(pieces, False), function(pieces, True)
    for s in range(4):
        torch.testing.assert_close(known[s], known[(s + 2) % 4].mT)
        assert torch.isinf(known[s].diagonal()).all()
        for t in range(4):
            torch.testing.assert_close(unknown[4 * s + t], unknown[4 * t + s].mT)
            assert torch.isinf(unknown[4 * s + t].diagonal()).all()


@pytest.mark.parametrize("function", ALL)
def test_oblong_pieces_of_known_orientation(function: Compatibility) -> None:
    pieces = random_pieces(3, 4, 7)
    square = function(pieces, False)
    turned = function(pieces.rot90(1, (-2, -1)), False)  # what was right is now above
    for s in range(4):
        torch.testing.assert_close(turned[(s - 1) % 4], square[s], rtol=1e-4, atol=1e-2)
