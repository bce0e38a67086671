"""Summaries of scores: mean, standard deviation and confidence interval of the mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Scores = npt.NDArray[np.float64]
Summary = dict[str, Any]


def summary(scores: Scores) -> Summary:
    """Summarise independent scores.

    Args:
        scores: scores (n,).

    Returns:
        ``mean``; ``std``, the standard deviation with n - 1; ``ci95``, the 95% confidence interval of the mean from
        Student's t distribution; and ``n``. For a single score, ``std`` and ``ci95`` are None.

    Example:
        >>> summary(np.array([1.0, 2.0, 3.0]))["mean"]
        2.0
    """
    n = len(scores)
    mean = float(np.mean(scores))
    if n < 2:
        return {"mean": mean, "std": None, "ci95": None, "n": n}
    std = float(np.std(scores, ddof=1))
    half = _quantile(n) * std / math.sqrt(n)
    return {"mean": mean, "std": std, "ci95": [mean - half, mean + half], "n": n}


@cache
def _quantile(n: int) -> float:
    """Return the 97.5% quantile of Student's t distribution for the mean of n scores."""
    return float(stats.t.ppf(0.975, n - 1))


def paired_summaries(scores: Mapping[str, Scores], baseline: Mapping[str, Scores]) -> dict[str, Summary]:
    """Return `paired` summaries of the metrics that both methods have."""
    return {metric: paired(scores[metric], baseline[metric]) for metric in scores if metric in baseline}


def paired(scores: Scores, baseline: Scores) -> Summary:
    """Summarise the paired differences between two methods.

    Args:
        scores: scores (n,) of one method.
        baseline: scores (n,) of the other, on the same puzzles in the same order.

    Returns:
        The summary of ``scores - baseline``.

    Raises:
        ValueError: the numbers of scores differ.
    """
    if scores.shape != baseline.shape:
        raise ValueError(f"{scores.shape} scores cannot be paired with {baseline.shape}")
    return summary(scores - baseline)
