"""The clustering protocol: embed the fragments of a puzzle, cluster them, and compare the clusters with the
original images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fragrecon.clustering import agreement
from fragrecon.clustering.backends import Backend
from fragrecon.clustering.balanced import balance
from fragrecon.clustering.count import estimate_count
from fragrecon.data.module import FixedPuzzles
from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError, TrainingError
from fragrecon.evaluation.statistics import Scores
from fragrecon.seeds import keys_of, uniforms

ALGORITHMS = ("kmeans", "kmedoids")
AGREEMENTS = {
    "ari": agreement.adjusted_rand_index,
    "nmi": agreement.normalized_mutual_info,
    "purity": agreement.purity,
}
FURTHER_AGREEMENTS = {
    "ami": agreement.adjusted_mutual_info,
    "accuracy": agreement.accuracy,
    "precision": agreement.pair_precision,
    "recall": agreement.pair_recall,
}
METRICS = (
    *(f"{algorithm}_{name}" for algorithm in ALGORITHMS for name in AGREEMENTS),
    "mean_ari",
    "mean_nmi",
    "mean_clustering_score",
)
"""Metrics of the protocol, computed in every validation."""

FEWEST_MEMBERS = 4
"""Minimum number of fragments per image when the number of images is estimated."""

Embed = Callable[[FragmentBatch], Tensor]
"""Maps a batch with float fragments to embeddings (B, F, D)."""

Score = Callable[[FragmentBatch], dict[str, Tensor]]
"""Maps a batch with float fragments to scores (B,) by metric."""


@dataclass(frozen=True)
class ClusteringProtocol:
    """KMeans and KMedoids with the number of images given, scored by agreement with the true images.

    Attributes:
        backend: implementation of the clustering.
        restarts: number of restarts of KMeans.
        seed: seed of the random numbers.
        memory: bytes that clustering may use at once.
        estimate_count: whether `score_fully` also clusters with an estimated number of images.
    """

    backend: Backend
    restarts: int
    seed: int
    memory: int
    estimate_count: bool = False

    def score(self, embeddings: Tensor, batch: FragmentBatch) -> dict[str, Tensor]:
        """Cluster embeddings without rescaling and score the clusters.

        Args:
            embeddings: embeddings (B, F, D) of the fragments.
            batch: puzzles.

        Returns:
            Scores (B,) of `METRICS`.

        Raises:
            TrainingError: an embedding is not finite.
        """
        return self.agree(self.cluster(_points(embeddings), batch), batch)

    def score_fully(self, embeddings: Tensor, batch: FragmentBatch) -> dict[str, Tensor]:
        """Score embeddings by more metrics, including some beyond the protocol.

        Args:
            embeddings: embeddings (B, F, D) of the fragments.
            batch: puzzles.

        Returns:
            Scores (B,) by `METRICS` and `FURTHER_AGREEMENTS`; ``balanced_...`` for clusters of equal size,
            if the fragments fill such; and, if asked for, ``unknown_...`` for an estimated number of images and
            ``unknown_k_error``, its absolute error.

        Raises:
            TrainingError: an embedding is not finite.
        """
        points = _points(embeddings)
        labels = self.cluster(points, batch)
        scores = self.agree(labels, batch) | self.agree_further(labels, batch)
        keys, k = self.keys(batch), batch.images_per_puzzle

        if points.shape[1] % k == 0:  # otherwise some fragments are missing
            balanced = balance(points, labels["kmeans"], k, self.memory)
            agreements = _agreement(balanced, batch, ("ari", "accuracy"))
            scores |= {f"balanced_{name}": score for name, score in agreements.items()}

        # With fewer than twelve fragments, the range would contain a single number.
        largest = max(3, points.shape[1] // FEWEST_MEMBERS)
        if self.estimate_count and largest < points.shape[1]:
            counts = estimate_count(points, largest, self.memory)
            unknown = torch.empty(points.shape[:2], dtype=torch.int64, device=points.device)
            for count in torch.unique(counts).tolist():
                those = counts == count
                unknown[those] = self.backend.kmeans(
                    points[those], count, keys[those.cpu()], self.restarts, self.memory
                ).labels
            scores |= {f"unknown_{name}": score for name, score in _agreement(unknown, batch, ("ari", "nmi")).items()}
            scores["unknown_k_error"] = (counts.cpu() - k).abs().double()
        return scores

    def score_random(self, batch: FragmentBatch) -> dict[str, Tensor]:
        """Return scores (B,) of random assignments of fragments to images, drawn independently per algorithm."""
        puzzles, fragments = batch.source_ids.shape
        keys = keys_of(self.seed, "random assignment", batch.step, puzzles)
        drawn = (uniforms(keys, len(ALGORITHMS) * fragments) * batch.images_per_puzzle).long()
        labels = dict(zip(ALGORITHMS, torch.split(drawn, fragments, 1), strict=True))
        return self.agree(labels, batch) | self.agree_further(labels, batch)

    def cluster(self, points: Tensor, batch: FragmentBatch) -> dict[str, Tensor]:
        """Cluster points (B, F, D) with each algorithm; returns clusters (B, F) by algorithm."""
        k = batch.images_per_puzzle
        return {
            "kmeans": self.backend.kmeans(points, k, self.keys(batch), self.restarts, self.memory).labels,
            "kmedoids": self.backend.kmedoids(points, k, self.memory).labels,
        }

    def agree(self, labels: Mapping[str, Tensor], batch: FragmentBatch) -> dict[str, Tensor]:
        """Return scores (B,) by `METRICS` of the clusters (B, F) of each algorithm."""
        scores: dict[str, Tensor] = {}
        for algorithm in ALGORITHMS:
            found = _agreement(labels[algorithm], batch, AGREEMENTS)
            scores |= {f"{algorithm}_{name}": score for name, score in found.items()}
        for name in ("ari", "nmi"):
            scores[f"mean_{name}"] = torch.stack([scores[f"{a}_{name}"] for a in ALGORITHMS]).mean(0)
        scores["mean_clustering_score"] = (scores["mean_ari"] + scores["mean_nmi"]) / 2
        return scores

    def agree_further(self, labels: Mapping[str, Tensor], batch: FragmentBatch) -> dict[str, Tensor]:
        """Return scores (B,) by `FURTHER_AGREEMENTS` of the clusters (B, F) of each algorithm."""
        return {
            f"{algorithm}_{name}": score
            for algorithm in ALGORITHMS
            for name, score in _agreement(labels[algorithm], batch, FURTHER_AGREEMENTS).items()
        }

    def keys(self, batch: FragmentBatch) -> Tensor:
        """Return random keys (B,), one per puzzle, for clustering."""
        return keys_of(self.seed, "clustering", batch.step, len(batch))


def _points(embeddings: Tensor) -> Tensor:
    """Convert embeddings to points for clustering; raises `TrainingError` if one is not finite."""
    points = embeddings.detach().float()
    if points.device.type == "mps":  # MPS has no float64
        points = points.cpu()
    if not torch.isfinite(points).all():
        raise TrainingError("the model's embeddings are not finite and cannot be clustered")
    return points


def _agreement(labels: Tensor, batch: FragmentBatch, names: Iterable[str]) -> dict[str, Tensor]:
    known = AGREEMENTS | FURTHER_AGREEMENTS
    table = agreement.contingency(labels.cpu(), batch.source_ids.cpu())
    return {name: known[name](table) for name in names}


def check_puzzle(images_per_puzzle: int, cells: int) -> None:
    """Check that there are at least two images per puzzle and two fragments per image.

    Args:
        images_per_puzzle: number of images per puzzle.
        cells: number of fragments per image.

    Raises:
        ConfigError: there are fewer.
    """
    if images_per_puzzle < 2 or cells < 2:
        raise ConfigError(
            f"the clustering protocol needs at least 2 images per puzzle and 2 fragments per image, "
            f"not {images_per_puzzle} and {cells}; set data.images_per_puzzle higher or data.fragment_size lower"
        )


@torch.inference_mode()
def evaluate(
    puzzles: FixedPuzzles,
    methods: Mapping[str, Score],
    *,
    batch_size: int,
    device: torch.device,
    change: Callable[[FragmentBatch], FragmentBatch] = lambda batch: batch,
    advance: Callable[[int], None] = lambda count: None,
) -> dict[str, dict[str, Scores]]:
    """Score methods on the same puzzles.

    Args:
        puzzles: puzzles to score on.
        methods: scoring functions by method name.
        batch_size: puzzles per batch.
        device: device of the fragments.
        change: function applied to each batch before it is scored.
        advance: called with the number of puzzles done by all methods, for a progress bar.

    Returns:
        Scores (puzzles,) by method and metric, with the puzzles in the same order.
    """
    rows: dict[str, list[dict[str, Tensor]]] = {name: [] for name in methods}
    if methods:
        for part in puzzles.parts(batch_size):
            batch = change(puzzles.read(part).to(device).as_float())
            for name, score in methods.items():
                rows[name].append(score(batch))
            advance(len(batch))
    return {
        name: {metric: torch.cat([scores[metric] for scores in found]).numpy() for metric in found[0]}
        for name, found in rows.items()
    }
