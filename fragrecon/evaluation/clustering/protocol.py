"""The clustering protocol: embed the fragments of a puzzle, cluster them, and compare with the images they came
from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fragrecon.clustering import agreement
from fragrecon.clustering.backends import Backend
from fragrecon.clustering.balanced import balanced_kmeans
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
"""Metrics of every validation."""

FEWEST_MEMBERS = 4
"""Fragments per image at least, if the number of images is estimated."""

Embed = Callable[[FragmentBatch], Tensor]
"""Maps a batch with float fragments to embeddings (B, F, D)."""

Score = Callable[[FragmentBatch], dict[str, Tensor]]
"""Maps a batch with float fragments to scores (B,) by metric."""


@dataclass(frozen=True)
class ClusteringProtocol:
    """KMeans and KMedoids with the number of images known, each scored by agreement with the true images.

    Attributes:
        backend: implementation of the clustering.
        restarts: restarts of KMeans.
        seed: seed of the random numbers of each puzzle.
        memory: bytes that clustering may use at once.
    """

    backend: Backend
    restarts: int
    seed: int
    memory: int

    def score(self, embeddings: Tensor, batch: FragmentBatch) -> dict[str, Tensor]:
        """Score embeddings, which are clustered without rescaling.

        Args:
            embeddings: embeddings (B, F, D) of the fragments.
            batch: the puzzles.

        Returns:
            Scores (B,) of `METRICS`.

        Raises:
            TrainingError: an embedding is not finite.
        """
        return self.agree(self.cluster(_points(embeddings), batch), batch)

    def score_fully(self, embeddings: Tensor, batch: FragmentBatch) -> dict[str, Tensor]:
        """Score embeddings by more metrics, also outside of the protocol.

        Args:
            embeddings: embeddings (B, F, D) of the fragments.
            batch: the puzzles.

        Returns:
            Scores (B,) of `METRICS`; further agreements of the same clusters; ``balanced_...`` of clusters of equal
            size; ``unknown_...`` with an estimated number of images, and ``unknown_k_error``, the absolute error of
            that number.

        Raises:
            TrainingError: an embedding is not finite.
        """
        points = _points(embeddings)
        labels = self.cluster(points, batch)
        scores = self.agree(labels, batch) | self.agree_further(labels, batch)
        keys, k = self.keys(batch), batch.images_per_puzzle

        balanced = balanced_kmeans(points, k, keys, self.restarts, self.memory)
        scores |= {
            f"balanced_{name}": score for name, score in _agreement(balanced, batch, ("ari", "accuracy")).items()
        }

        # With fewer than twelve fragments the range would hold a single number.
        largest = max(3, points.shape[1] // FEWEST_MEMBERS)
        if largest < points.shape[1]:
            counts = estimate_count(points, largest, self.memory)
            unknown = torch.empty_like(balanced)
            for count in torch.unique(counts).tolist():
                those = counts == count
                unknown[those] = self.backend.kmeans(
                    points[those], count, keys[those.cpu()], self.restarts, self.memory
                ).labels
            scores |= {f"unknown_{name}": score for name, score in _agreement(unknown, batch, ("ari", "nmi")).items()}
            scores["unknown_k_error"] = (counts.cpu() - k).abs().double()
        return scores

    def score_random(self, batch: FragmentBatch) -> dict[str, Tensor]:
        """Return scores (B,) of assigning each fragment to a random image, independently for each algorithm."""
        puzzles, fragments = batch.source_ids.shape
        keys = keys_of(self.seed, "random assignment", batch.step, puzzles)
        drawn = (uniforms(keys, len(ALGORITHMS) * fragments) * batch.images_per_puzzle).long()
        labels = dict(zip(ALGORITHMS, torch.split(drawn, fragments, 1), strict=True))
        return self.agree(labels, batch) | self.agree_further(labels, batch)

    def cluster(self, points: Tensor, batch: FragmentBatch) -> dict[str, Tensor]:
        """Return clusters (B, F) by each algorithm for points (B, F, D)."""
        k = batch.images_per_puzzle
        return {
            "kmeans": self.backend.kmeans(points, k, self.keys(batch), self.restarts, self.memory).labels,
            "kmedoids": self.backend.kmedoids(points, k, self.memory).labels,
        }

    def agree(self, labels: Mapping[str, Tensor], batch: FragmentBatch) -> dict[str, Tensor]:
        """Scores of `METRICS` of the labels (B, F) that each algorithm gave."""
        scores: dict[str, Tensor] = {}
        for algorithm in ALGORITHMS:
            found = _agreement(labels[algorithm], batch, AGREEMENTS)
            scores |= {f"{algorithm}_{name}": score for name, score in found.items()}
        for name in ("ari", "nmi"):
            scores[f"mean_{name}"] = torch.stack([scores[f"{a}_{name}"] for a in ALGORITHMS]).mean(0)
        scores["mean_clustering_score"] = (scores["mean_ari"] + scores["mean_nmi"]) / 2
        return scores

    def agree_further(self, labels: Mapping[str, Tensor], batch: FragmentBatch) -> dict[str, Tensor]:
        """Return scores (B,) of the same labels by `FURTHER_AGREEMENTS`."""
        return {
            f"{algorithm}_{name}": score
            for algorithm in ALGORITHMS
            for name, score in _agreement(labels[algorithm], batch, FURTHER_AGREEMENTS).items()
        }

    def keys(self, batch: FragmentBatch) -> Tensor:
        """Return the keys (B,) of the random numbers that each puzzle is clustered with."""
        return keys_of(self.seed, "clustering", batch.step, len(batch))


def _points(embeddings: Tensor) -> Tensor:
    """Return embeddings as they are clustered; raises `TrainingError` if one is not finite."""
    points = embeddings.detach().float()
    if points.device.type == "mps":  # which has no float64
        points = points.cpu()
    if not torch.isfinite(points).all():
        raise TrainingError("the model's embeddings are not finite and cannot be clustered")
    return points


def _agreement(labels: Tensor, batch: FragmentBatch, names: Iterable[str]) -> dict[str, Tensor]:
    known = AGREEMENTS | FURTHER_AGREEMENTS
    table = agreement.contingency(labels.cpu(), batch.source_ids.cpu())
    return {name: known[name](table) for name in names}


def check_puzzle(images_per_puzzle: int, cells: int) -> None:
    """Check that images and fragments make a puzzle.

    Args:
        images_per_puzzle: images of a puzzle.
        cells: fragments of an image.

    Raises:
        ConfigError: there are fewer than two of either.
    """
    if images_per_puzzle < 2 or cells < 2:
        raise ConfigError(
            f"the clustering protocol needs at least 2 images a puzzle and 2 fragments an image, "
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
        methods: methods by name.
        batch_size: puzzles per batch.
        device: device of the fragments.
        change: applied to each batch before it is scored.
        advance: called with the number of puzzles done by all methods, for a progress bar.

    Returns:
        Scores (puzzles,) by method and metric, puzzle by puzzle in the same order.
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
