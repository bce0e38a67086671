"""Measures of agreement between clusterings and true classes, for a batch of small problems at once.

All measures take the contingency tables (P, a, b) that `contingency` counts, and return float64 scores (P,).

Example:
    >>> predicted = torch.tensor([[0, 0, 0, 1, 1, 1]])
    >>> truth = torch.tensor([[0, 0, 1, 1, 2, 2]])
    >>> table = contingency(predicted, truth)
    >>> [f"{float(measure(table)):.4f}" for measure in (adjusted_rand_index, purity, accuracy)]
    ['0.2424', '0.6667', '0.6667']
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.special import gammaln
from torch import Tensor

ROUNDING = 1e-11
"""Relative rounding error of sums of logarithms of counts."""


def contingency(predicted: Tensor, truth: Tensor) -> Tensor:
    """Count how many points each pair of a predicted cluster and a true class shares.

    Args:
        predicted: predicted labels, (P, n) integers from 0.
        truth: true labels, (P, n) integers from 0.

    Returns:
        Counts (P, a, b), float64 (exact up to 2**53), of points in predicted cluster i and true class j.

    Raises:
        ValueError: the shapes differ, there are no labels, or a label is negative.

    Example:
        >>> contingency(torch.tensor([[0, 0, 1]]), torch.tensor([[0, 1, 1]]))
        tensor([[[1., 1.],
                 [0., 1.]]], dtype=torch.float64)
    """
    if predicted.shape != truth.shape or predicted.ndim != 2:
        raise ValueError(
            f"expected two tensors (P, n) of labels, got {tuple(predicted.shape)} and {tuple(truth.shape)}"
        )
    if predicted.numel() == 0:
        raise ValueError("there are no labels to compare")
    if min(int(predicted.min()), int(truth.min())) < 0:
        raise ValueError("labels must not be negative")
    rows, columns = int(predicted.max()) + 1, int(truth.max()) + 1
    problems = torch.arange(len(predicted), device=predicted.device).unsqueeze(1)
    cells = ((problems * rows + predicted) * columns + truth).flatten()
    counts = torch.bincount(cells, minlength=len(predicted) * rows * columns)
    return counts.view(-1, rows, columns).double()


def adjusted_rand_index(table: Tensor) -> Tensor:
    """Adjusted Rand index: agreement on pairs of points, corrected for chance.

    Source: Hubert and Arabie, "Comparing partitions", 1985, eq. 5.

    Args:
        table: contingency tables, (P, a, b).

    Returns:
        Scores (P,), 1 for identical clusterings (trivial ones included), 0 on average for random ones.

    Example:
        >>> adjusted_rand_index(torch.tensor([[[3.0, 0.0], [0.0, 3.0]], [[2.0, 1.0], [1.0, 2.0]]]).double())
        tensor([ 1.0000, -0.1111], dtype=torch.float64)
    """
    both = _pairs(table).sum((1, 2))
    predicted, true = _pairs(table.sum(2)).sum(1), _pairs(table.sum(1)).sum(1)
    chance = predicted * true / _pairs(table.sum((1, 2))).clamp(min=1)
    best = (predicted + true) / 2
    return torch.where(best == chance, 1.0, (both - chance) / (best - chance).where(best != chance, 1.0))


def normalized_mutual_info(table: Tensor) -> Tensor:
    """Normalised mutual information: mutual information over the arithmetic mean of the entropies.

    Args:
        table: contingency tables, (P, a, b).

    Returns:
        Scores (P,) in [0, 1]. As in scikit-learn, two clusterings with a single cluster each score 1.

    Example:
        >>> normalized_mutual_info(torch.tensor([[[2.0, 0.0], [0.0, 2.0]], [[1.0, 1.0], [1.0, 1.0]]]).double())
        tensor([1., 0.], dtype=torch.float64)
    """
    predicted, true, joint = _entropy(table.sum(2)), _entropy(table.sum(1)), _entropy(table.flatten(1))
    mean = (predicted + true) / 2
    shared = (predicted + true - joint).clamp(min=0)
    return torch.where(mean > 0, shared / mean.where(mean > 0, 1.0), 1.0)


def purity(table: Tensor) -> Tensor:
    """Share of points that belong to the majority class of their cluster.

    Args:
        table: contingency tables, (P, a, b).

    Returns:
        Scores (P,) in (0, 1].

    Example:
        >>> purity(torch.tensor([[[3.0, 1.0], [0.0, 4.0]]]).double())
        tensor([0.8750], dtype=torch.float64)
    """
    return table.amax(2).sum(1) / table.sum((1, 2))


def adjusted_mutual_info(table: Tensor) -> Tensor:
    """Adjusted mutual information: mutual information corrected for chance, over the mean of the entropies.

    Source: Vinh, Epps and Bailey, JMLR 2010, with the arithmetic mean of the entropies.

    Args:
        table: contingency tables of integer counts, (P, a, b).

    Returns:
        Scores (P,), 1 for identical clusterings, 0 on average for random ones. As in scikit-learn, two clusterings with
        a single cluster each score 1.

    Example:
        >>> adjusted_mutual_info(torch.tensor([[[2.0, 0.0], [0.0, 2.0]]]).double())
        tensor([1.], dtype=torch.float64)
    """
    predicted, true, joint = _entropy(table.sum(2)), _entropy(table.sum(1)), _entropy(table.flatten(1))
    chance = _expected_mutual_info(table)
    above, best = predicted + true - joint - chance, (predicted + true) / 2 - chance
    # For two clusterings into single points the expectation equals the entropy, up to rounding.
    room = best.abs() > ROUNDING * (1 + predicted + true)
    trivial = (predicted == 0) != (true == 0)
    return torch.where(trivial, 0.0, torch.where(room, above / best.where(room, 1.0), 1.0))


def _expected_mutual_info(table: Tensor) -> Tensor:
    """Expected mutual information (P,), in nats, of random clusterings with the marginals of the tables.

    Source: Vinh, Epps and Bailey, JMLR 2010, eq. 24a. Each term of the sum over pairs of a cluster and a class depends
    only on their two sizes, so it is computed once for each pair of sizes that occurs, for all problems together.

    Returns:
        Expectations (P,).
    """
    rows, columns, total = table.sum(2).long(), table.sum(1).long(), table.sum((1, 2)).long()
    base = int(total.max()) + 1
    pairs = (total.view(-1, 1, 1) * base + rows.unsqueeze(2)) * base + columns.unsqueeze(1)
    codes, places = torch.unique(pairs, return_inverse=True)
    a, b, n = (codes // base % base).unsqueeze(1), (codes % base).unsqueeze(1), (codes // base**2).unsqueeze(1)
    shared = torch.arange(1, int(torch.minimum(a, b).max().clamp(min=1)) + 1, device=table.device)
    possible = (shared <= a) & (shared <= b) & (shared >= a + b - n)
    log_factorial = torch.from_numpy(gammaln(np.arange(1.0, base + 2))).to(table.device)

    def log(count: Tensor) -> Tensor:
        return log_factorial[count.clamp(0, base)]  # out of range only where `possible` is false

    probability = torch.exp(
        log(a) + log(b) + log(n - a) + log(n - b) - log(n) - log(shared) - log(a - shared) - log(b - shared)
        - log(n - a - b + shared)
    )  # fmt: skip
    information = shared.double() / n * torch.log((shared * n).double() / (a * b).clamp(min=1))
    of_pair = torch.where(possible, probability * information, 0.0).sum(1)
    return of_pair[places].sum((1, 2))


def accuracy(table: Tensor) -> Tensor:
    """Share of correctly classified points under the best one-to-one assignment of clusters to classes.

    Args:
        table: contingency tables, (P, a, b).

    Returns:
        Scores (P,) in (0, 1].

    Example:
        >>> accuracy(torch.tensor([[[0.0, 3.0], [2.0, 1.0]]]).double())
        tensor([0.8333], dtype=torch.float64)
    """
    found = []
    for counts in table.cpu().numpy():
        found.append(counts[linear_sum_assignment(counts, maximize=True)].sum() / counts.sum())
    return torch.tensor(found, dtype=torch.float64, device=table.device)


def pair_precision(table: Tensor) -> Tensor:
    """Share of the pairs of points in one cluster that belong to one class.

    Args:
        table: contingency tables, (P, a, b).

    Returns:
        Scores (P,) in [0, 1]; 1 where no two points are in one cluster.

    Example:
        >>> pair_precision(torch.tensor([[[2.0, 1.0]]]).double())
        tensor([0.3333], dtype=torch.float64)
    """
    together = _pairs(table.sum(2)).sum(1)
    return torch.where(together > 0, _pairs(table).sum((1, 2)) / together.where(together > 0, 1.0), 1.0)


def pair_recall(table: Tensor) -> Tensor:
    """Share of the pairs of points of one class that are in one cluster.

    Args:
        table: contingency tables, (P, a, b).

    Returns:
        Scores (P,) in [0, 1]; 1 where no two points are of one class.

    Example:
        >>> pair_recall(torch.tensor([[[2.0, 1.0]]]).double())
        tensor([1.], dtype=torch.float64)
    """
    return pair_precision(table.mT)


def _pairs(counts: Tensor) -> Tensor:
    return counts * (counts - 1) / 2


def _entropy(counts: Tensor) -> Tensor:
    """Entropies (P,), in nats, of counts (P, m)."""
    share = counts / counts.sum(1, keepdim=True)
    nats: Tensor = torch.special.xlogy(share, share).sum(1)
    return -nats
