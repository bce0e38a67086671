from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from fragrecon.evaluation.statistics import paired, summary


@pytest.mark.parametrize("n", [2, 3, 10, 1000])
def test_summary_is_that_of_scipy(n: int) -> None:
    scores = np.random.default_rng(n).beta(2, 5, n)
    found = summary(scores)
    interval = stats.ttest_1samp(scores, 0).confidence_interval(0.95)
    assert found["n"] == n
    assert found["mean"] == pytest.approx(math.fsum(scores) / n, rel=1e-12)
    assert found["std"] == pytest.approx(stats.tstd(scores), rel=1e-12)
    assert found["ci95"] == pytest.approx([interval.low, interval.high], rel=1e-10)


def test_a_single_score_has_neither_spread_nor_interval() -> None:
    assert summary(np.array([0.25])) == {"mean": 0.25, "std": None, "ci95": None, "n": 1}


def test_equal_scores_have_an_interval_of_no_width() -> None:
    assert summary(np.full(7, 0.5)) == {"mean": 0.5, "std": 0.0, "ci95": [0.5, 0.5], "n": 7}
    found = summary(np.full(1000, 0.1))
    assert found["ci95"] == pytest.approx([0.1, 0.1], abs=1e-12)
    assert found["std"] == pytest.approx(0, abs=1e-12)


def test_a_summary_is_plain_json() -> None:
    for n in (1, 2, 50):
        found = summary(np.linspace(0, 1, n))
        assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize("n", [4, 20])
def test_the_interval_holds_the_true_mean_as_often_as_it_says(n: int) -> None:
    samples = np.random.default_rng(0).normal(0.3, 0.1, (2000, n))
    hits = 0
    for sample in samples:
        low, high = summary(sample)["ci95"]
        hits += low <= 0.3 <= high
    # A normal quantile in place of Student's would hold it in 86% of samples of 4, and in 93.5% of samples of 20.
    least, most = stats.binom.interval(0.999, len(samples), 0.95)
    assert least <= hits <= most


def test_paired_is_the_paired_t_interval() -> None:
    random = np.random.default_rng(1)
    hardness = random.normal(0, 0.2, 60)
    scores, baseline = 0.5 + hardness + random.normal(0, 0.02, 60), 0.45 + hardness + random.normal(0, 0.02, 60)
    found = paired(scores, baseline)
    interval = stats.ttest_rel(scores, baseline).confidence_interval(0.95)
    assert found["mean"] == pytest.approx(float((scores - baseline).mean()), rel=1e-12)
    assert found["ci95"] == pytest.approx([interval.low, interval.high], rel=1e-10)
    assert found["n"] == 60
    assert found["std"] < 0.05 < 0.15 < paired(scores, baseline[::-1])["std"]


def test_paired_turns_its_sign_with_its_arguments() -> None:
    scores, baseline = np.random.default_rng(2).random((2, 9))
    ahead, behind = paired(scores, baseline), paired(baseline, scores)
    assert ahead["mean"] == pytest.approx(-behind["mean"], rel=1e-12)
    assert ahead["ci95"] == pytest.approx([-end for end in reversed(behind["ci95"])], rel=1e-12)


def test_scores_of_unlike_numbers_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match=r"\(3,\).*\(1,\)"):
        paired(np.zeros(3), np.zeros(1))
