"""How well clusterings agree with the truth, for a batch of small problems at once.

Every function takes labels (P, n) of P problems with n points each, integers from 0, and returns float64 scores (P,).
"""

from __future__ import annotations

import torch
from torch import Tensor


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

    def pairs(counts: Tensor) -> Tensor:
        return counts * (counts - 1) / 2

    both = pairs(table).sum((1, 2))
    predicted, true = pairs(table.sum(2)).sum(1), pairs(table.sum(1)).sum(1)
    chance = predicted * true / pairs(table.sum((1, 2))).clamp(min=1)
    best = (predicted + true) / 2
    return torch.where(best == chance, 1.0, (both - chance) / (best - chance).where(best != chance, 1.0))


def normalized_mutual_info(table: Tensor) -> Tensor:
    """NMI of contingency tables (P, a, b), mutual information over the arithmetic mean of the entropies.

    Two clusterings of a single cluster each agree perfectly, as in scikit-learn.
    """
    total = table.sum((1, 2)).view(-1, 1)

    def entropy(counts: Tensor) -> Tensor:
        share = counts / total
        nats: Tensor = torch.special.xlogy(share, share).sum(1)
        return -nats

    predicted, true, joint = entropy(table.sum(2)), entropy(table.sum(1)), entropy(table.flatten(1))
    mean = (predicted + true) / 2
    shared = (predicted + true - joint).clamp(min=0)
    return torch.where(mean > 0, shared / mean.where(mean > 0, 1.0), 1.0)


def purity(table: Tensor) -> Tensor:
    """Share of points (P,) that belong to the majority of their cluster."""
    return table.amax(2).sum(1) / table.sum((1, 2))
