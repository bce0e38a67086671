"""What a sample of scores says: mean, spread and the interval of the mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Scores = npt.NDArray[np.float64]
Summary = dict[str, Any]


def summary(scores: Scores) -> Summary:
    """Mean, standard deviation (n - 1), 95% interval of the mean by Student's t, and n, of independent scores.

    With a single score there is neither deviation nor interval: both are None.
    """
    n = len(scores)
    mean = float(np.mean(scores))
    if n < 2:
        return {"mean": mean, "std": None, "ci95": None, "n": n}
    std = float(np.std(scores, ddof=1))
    half = float(stats.t.ppf(0.975, n - 1)) * std / math.sqrt(n)
    return {"mean": mean, "std": std, "ci95": [mean - half, mean + half], "n": n}


def paired_summaries(scores: Mapping[str, Scores], baseline: Mapping[str, Scores]) -> dict[str, Summary]:
    """`paired` for each metric that both have."""
    return {metric: paired(scores[metric], baseline[metric]) for metric in scores if metric in baseline}


def paired(scores: Scores, baseline: Scores) -> Summary:
    """Summary of the differences between two methods on the same puzzles, in the same order."""
    if scores.shape != baseline.shape:
        raise ValueError(f"{scores.shape} scores cannot be paired with {baseline.shape}")
    return summary(scores - baseline)
