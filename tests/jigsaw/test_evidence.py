from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fragrecon.jigsaw.compatibility import gradients, sum_of_squares
from fragrecon.jigsaw.evidence import FLOOR, LEAST, alone, log_odds, logits, partners, ranked
from fragrecon.jigsaw.metrics import neighbours
from tests.jigsaw.samples import CHINA, photograph_puzzle


def symmetric(ways: int, count: int, seed: int = 0) -> torch.Tensor:
    """A random table of ways."""
    table = 5 * torch.randn(4, ways // 4, count, count, generator=torch.Generator().manual_seed(seed))
    for s in range(4):
        for t in range(ways // 4):
            other = table[t, s] if ways == 16 else table[(s + 2) % 4, 0]
            other.copy_(table[s, t].mT.clone())
            table[s, t].fill_diagonal_(-torch.inf)
            other.fill_diagonal_(-torch.inf)
    return table.view(ways, count, count)


@pytest.mark.parametrize("ways", [4, 16])
def test_log_odds_are_those_of_a_softmax_over_all_partners_and_none(ways: int) -> None:
    count = 5
    table = symmetric(ways, count)
    found = log_odds(table.clone())
    sides = [(s, a) for s in range(4) for a in range(count)]

    def logit(s: int, a: int, t: int, b: int) -> float:
        if ways == 4:
            return float(table[s, a, b]) if t == (s + 2) % 4 else -math.inf
        return float(table[4 * s + t, a, b])

    sums = {one: sum(math.exp(logit(*one, *other)) for other in sides) for one in sides}
    none = float(alone(torch.tensor([math.log(total) for total in sums.values()]), count**-0.5))
    shares = [math.exp(none) / (math.exp(none) + total) for total in sums.values()]
    assert sum(shares) / len(shares) == pytest.approx(count**-0.5, abs=1e-4)
    for s, a in sides:
        for t, b in sides:
            if math.isinf(value := logit(s, a, t, b)):
                continue
            both = [math.log(math.exp(value) / (sums[one] + math.exp(none))) for one in ((s, a), (t, b))]
            wanted = max(FLOOR, sum(both) / 2 + math.log(count if ways == 4 else 4 * count))
            assert float(found[s if ways == 4 else 4 * s + t, a, b]) == pytest.approx(wanted, abs=1e-3)


def test_logits_add_logarithms_of_mean_dissimilarities() -> None:
    pieces = torch.rand(3, 3, 6, 6) * 255
    found = logits(pieces, False, [(sum_of_squares, 0.5), (gradients, 2.0)])
    parts = [(table(pieces, False) / 18 + LEAST).log() for table in (sum_of_squares, gradients)]
    torch.testing.assert_close(found, -0.5 * parts[0] - 2 * parts[1])


@pytest.mark.parametrize("ways", [4, 16])
def test_partners_are_ranked(ways: int) -> None:
    table = symmetric(ways, 6).numpy()
    found, scores = ranked(table, 4)
    for s, a in np.ndindex(4, 6):
        every = {
            t * 6 + b: float(table[s if ways == 4 else 4 * s + t, a, b])
            for t in range(4)
            for b in range(6)
            if ways == 16 or t == (s + 2) % 4
        }
        wanted = sorted(every, key=lambda side: -every[side])[:4]
        assert found[s, a].tolist() == wanted
        assert scores[s, a].tolist() == [every[side] for side in wanted]
    assert partners(table) == (6 if ways == 4 else 24)


def test_the_likeliest_neighbours_of_a_photograph_are_the_true_ones() -> None:
    pieces, truth = photograph_puzzle([CHINA], (32, 32))
    table = log_odds(logits(pieces.float(), False)).numpy()
    best = ranked(table, 1)[0][..., 0] % len(pieces)
    true = neighbours(truth)
    assert (best == true)[true >= 0].mean() > 0.9
