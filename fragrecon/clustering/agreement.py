"""How well clusterings agree with the truth, for a batch of small problems at once.

Every function takes labels (P, n) of P problems with n points each, integers from 0, and returns float64 scores (P,).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.special import gammaln
from torch import Tensor

ROUNDING = 1e-11
"""Of sums of logarithms of counts."""


def contingency(predicted: Tensor, truth: Tensor) -> Tensor:
    """Counts (P, a, b) of points that are in predicted cluster i and in true cluster j, float64 (exact up to 2**53)."""
    if predicted.shape != truth.shape or predicted.ndim != 2:
        raise ValueError(f"labels should be two tensors (P, n), not {tuple(predicted.shape)} and {tuple(truth.shape)}")
    if predicted.numel() == 0:
        raise ValueError("there are no labels to compare")
    if min(int(predicted.min()), int(truth.min())) < 0:
        raise ValueError("labels should count from 0")
    rows, columns = int(predicted.max()) + 1, int(truth.max()) + 1
    problems = torch.arange(len(predicted), device=predicted.device).unsqueeze(1)
    cells = ((problems * rows + predicted) * columns + truth).flatten()
    counts = torch.bincount(cells, minlength=len(predicted) * rows * columns)
    return counts.view(-1, rows, columns).double()


def adjusted_rand_index(table: Tensor) -> Tensor:
    """ARI of contingency tables (P, a, b): agreement of pairs of points beyond chance, 1 at best, 0 by chance.

    Hubert and Arabie, "Comparing partitions", 1985, eq. 5. Two trivial clusterings that are alike agree perfectly.
    """
    both = _pairs(table).sum((1, 2))
    predicted, true = _pairs(table.sum(2)).sum(1), _pairs(table.sum(1)).sum(1)
    chance = predicted * true / _pairs(table.sum((1, 2))).clamp(min=1)
    best = (predicted + true) / 2
    return torch.where(best == chance, 1.0, (both - chance) / (best - chance).where(best != chance, 1.0))


def normalized_mutual_info(table: Tensor) -> Tensor:
    """NMI of contingency tables (P, a, b), mutual information over the arithmetic mean of the entropies.

    Two clusterings of a single cluster each agree perfectly, as in scikit-learn.
    """
    predicted, true, joint = _entropy(table.sum(2)), _entropy(table.sum(1)), _entropy(table.flatten(1))
    mean = (predicted + true) / 2
    shared = (predicted + true - joint).clamp(min=0)
    return torch.where(mean > 0, shared / mean.where(mean > 0, 1.0), 1.0)


def purity(table: Tensor) -> Tensor:
    """Share of points (P,) that belong to the majority of their cluster."""
    return table.amax(2).sum(1) / table.sum((1, 2))


def adjusted_mutual_info(table: Tensor) -> Tensor:
    """AMI of contingency tables (P, a, b) of integers: mutual information beyond chance, 1 at best, 0 by chance.

    Vinh, Epps and Bailey, JMLR 2010, with the arithmetic mean of the entropies. Two clusterings of a single cluster
    each agree perfectly, as in scikit-learn.
    """
    predicted, true, joint = _entropy(table.sum(2)), _entropy(table.sum(1)), _entropy(table.flatten(1))
    chance = _expected_mutual_info(table)
    above, best = predicted + true - joint - chance, (predicted + true) / 2 - chance
    # Two clusterings into single points agree by necessity; all that is left of their entropy then is rounding.
    room = best.abs() > ROUNDING * (1 + predicted + true)
    trivial = (predicted == 0) != (true == 0)
    return torch.where(trivial, 0.0, torch.where(room, above / best.where(room, 1.0), 1.0))


def _expected_mutual_info(table: Tensor) -> Tensor:
    """Mean mutual information (P,), in nats, of clusterings with the marginals of the tables: ibid., eq. 24a.

    It is a sum over pairs of a cluster and a class, of which each depends on their two sizes only, so it is computed
    once for each pair of sizes that occurs, whatever the number of problems.
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
        return log_factorial[count.clamp(0, base)]  # outside for what is impossible only

    probability = torch.exp(
        log(a) + log(b) + log(n - a) + log(n - b) - log(n) - log(shared) - log(a - shared) - log(b - shared)
        - log(n - a - b + shared)
    )  # fmt: skip
    information = shared.double() / n * torch.log((shared * n).double() / (a * b).clamp(min=1))
    of_pair = torch.where(possible, probability * information, 0.0).sum(1)
    return of_pair[places].sum((1, 2))


def accuracy(table: Tensor) -> Tensor:
    """Share of points (P,) in the right class when clusters are given to classes one to one, in the best way."""
    found = []
    for counts in table.cpu().numpy():
        found.append(counts[linear_sum_assignment(counts, maximize=True)].sum() / counts.sum())
    return torch.tensor(found, dtype=torch.float64, device=table.device)


def pair_precision(table: Tensor) -> Tensor:
    """Of the pairs of points put together, the share (P,) that belongs together; 1 where none was put together."""
    return _share(_pairs(table).sum((1, 2)), _pairs(table.sum(2)).sum(1))


def pair_recall(table: Tensor) -> Tensor:
    """Of the pairs of points that belong together, the share (P,) put together; 1 where none belongs together."""
    return _share(_pairs(table).sum((1, 2)), _pairs(table.sum(1)).sum(1))


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole.where(whole > 0, 1.0), 1.0)


def _pairs(counts: Tensor) -> Tensor:
    return counts * (counts - 1) / 2


def _entropy(counts: Tensor) -> Tensor:
    """Of counts (P, m), in nats."""
    share = counts / counts.sum(1, keepdim=True)
    nats: Tensor = torch.special.xlogy(share, share).sum(1)
    return -nats
