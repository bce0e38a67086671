"""Scores of a model's predictions for pairs of fragments, beyond the clustering protocol.

Shapes: B puzzles of F fragments.
"""

from __future__ import annotations

import torch
from scipy.stats import rankdata
from torch import Tensor

from fragrecon.clustering import agreement
from fragrecon.clustering.balanced import balanced_kmeans
from fragrecon.clustering.spectral import spectral_embedding
from fragrecon.data.adjacency import adjacent, same_source
from fragrecon.data.puzzles import FragmentBatch
from fragrecon.evaluation.clustering.protocol import ClusteringProtocol
from fragrecon.models.base import PairScores

SPECTRAL = {
    "ari": agreement.adjusted_rand_index,
    "nmi": agreement.normalized_mutual_info,
    "accuracy": agreement.accuracy,
}


def score_pairs(
    scores: PairScores, batch: FragmentBatch, grid: tuple[int, int], protocol: ClusteringProtocol
) -> dict[str, Tensor]:
    """Score a model's predictions for pairs of fragments.

    Args:
        scores: predicted scores that two fragments are from the same image, and that they are adjacent.
        batch: puzzles.
        grid: rows and columns of fragments in an image.
        protocol: clustering protocol.

    Returns:
        Scores (B,) by metric: ``spectral_...`` for balanced spectral clustering of the predictions, that is KMeans with
        clusters of equal size in the spectral embedding; ``same_auroc`` and ``adjacency_auroc`` for the ranking of
        the pairs of a puzzle by the predictions.
    """
    keys = protocol.keys(batch)
    points = spectral_embedding(scores.same, batch.images_per_puzzle, protocol.memory)
    labels = balanced_kmeans(points, batch.images_per_puzzle, keys, protocol.restarts, protocol.memory)
    table = agreement.contingency(labels.cpu(), batch.source_ids.cpu())
    found = {f"spectral_{name}": score(table) for name, score in SPECTRAL.items()}
    upper = torch.ones_like(scores.same[0], dtype=torch.bool).triu(1)  # each pair once
    found["same_auroc"] = auroc(scores.same[:, upper], same_source(batch.source_ids)[:, upper])
    touching = adjacent(batch.source_ids, batch.positions, grid)
    found["adjacency_auroc"] = auroc(scores.adjacent[:, upper], touching[:, upper])
    return found


def auroc(scores: Tensor, positive: Tensor) -> Tensor:
    """Compute the area under the ROC curve from ranks; ties count half.

    It is the probability that a positive scores higher than a negative (Hanley and McNeil, 1982).

    Args:
        scores: scores (P, n).
        positive: (P, n), True for positives.

    Returns:
        Areas (P,); 1/2 if there are no positives or no negatives.
    """
    ranks = torch.from_numpy(rankdata(scores.double().cpu().numpy(), axis=1))
    marked = positive.cpu()
    positives = marked.sum(1).double()
    negatives = marked.shape[1] - positives
    above = (ranks * marked).sum(1) - positives * (positives + 1) / 2
    pairs = positives * negatives
    return torch.where(pairs > 0, above / pairs.clamp(min=1), 0.5)
