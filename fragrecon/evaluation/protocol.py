"""The clustering protocol: embed the fragments of a puzzle, cluster them, and compare with the images they came
from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fragrecon.clustering import agreement
from fragrecon.clustering.backends import Backend
from fragrecon.data.module import FixedPuzzles
from fragrecon.data.puzzles import FragmentBatch, batches
from fragrecon.errors import ConfigError, TrainingError
from fragrecon.evaluation.statistics import Scores
from fragrecon.seeds import keys_of, uniforms

ALGORITHMS = ("kmeans", "kmedoids")
AGREEMENTS = {
    "ari": agreement.adjusted_rand_index,
    "nmi": agreement.normalized_mutual_info,
    "purity": agreement.purity,
}
METRICS = (
    *(f"{algorithm}_{name}" for algorithm in ALGORITHMS for name in AGREEMENTS),
    "mean_ari",
    "mean_nmi",
    "mean_clustering_score",
)

Embed = Callable[[FragmentBatch], Tensor]
"""From a batch with fragments as float to embeddings (B, F, D)."""


@dataclass(frozen=True)
class ClusteringProtocol:
    """KMeans and KMedoids with the number of images known, each scored by ARI, NMI and purity.

    Attributes:
        backend: what clusters.
        restarts: of KMeans.
        seed: keys the random numbers of each puzzle.
        memory: bytes that clustering may take at once.
    """

    backend: Backend
    restarts: int
    seed: int
    memory: int

    def score(self, embeddings: Tensor, batch: FragmentBatch) -> dict[str, Tensor]:
        """Scores (B,) of each metric for embeddings (B, F, D) of the batch's fragments, taken as they are.

        Raises:
            TrainingError: the embeddings hold numbers that are not finite.
        """
        points = embeddings.detach().float()
        if points.device.type == "mps":  # which has no float64
            points = points.cpu()
        if not torch.isfinite(points).all():
            raise TrainingError("the model's embeddings hold numbers that are not finite; they cannot be clustered")
        return self.agree(self.cluster(points, batch), batch)

    def cluster(self, points: Tensor, batch: FragmentBatch) -> dict[str, Tensor]:
        """Labels (B, F) by each algorithm for points (B, F, D)."""
        keys, k = keys_of(self.seed, "clustering", batch.step, len(batch)), batch.images_per_puzzle
        return {
            "kmeans": self.backend.kmeans(points, k, keys, self.restarts, self.memory),
            "kmedoids": self.backend.kmedoids(points, k, self.memory),
        }

    def score_random(self, batch: FragmentBatch) -> dict[str, Tensor]:
        """Scores of assigning each fragment to an image by chance, drawn for each algorithm anew."""
        puzzles, fragments = batch.source_ids.shape
        keys = keys_of(self.seed, "random assignment", batch.step, puzzles)
        drawn = (uniforms(keys, len(ALGORITHMS) * fragments) * batch.images_per_puzzle).long()
        return self.agree(dict(zip(ALGORITHMS, drawn.split(fragments, 1), strict=True)), batch)

    def agree(self, labels: Mapping[str, Tensor], batch: FragmentBatch) -> dict[str, Tensor]:
        """Scores of the labels (B, F) that each algorithm gave."""
        truth = batch.source_ids.cpu()
        scores: dict[str, Tensor] = {}
        for algorithm in ALGORITHMS:
            table = agreement.contingency(labels[algorithm].cpu(), truth)
            scores |= {f"{algorithm}_{name}": score(table) for name, score in AGREEMENTS.items()}
        for name in ("ari", "nmi"):
            scores[f"mean_{name}"] = torch.stack([scores[f"{a}_{name}"] for a in ALGORITHMS]).mean(0)
        scores["mean_clustering_score"] = (scores["mean_ari"] + scores["mean_nmi"]) / 2
        return scores


def check_puzzle(images_per_puzzle: int, cells: int) -> None:
    """Refuse what is no puzzle; raises `ConfigError`."""
    if images_per_puzzle < 2 or cells < 2:
        raise ConfigError(
            f"the clustering protocol needs at least 2 images a puzzle and 2 fragments an image, "
            f"not {images_per_puzzle} and {cells}; set data.images_per_puzzle higher or data.fragment_size lower"
        )


def raw_pixels(batch: FragmentBatch) -> Tensor:
    """The baseline that embeds a fragment by its own pixel values, (B, F, C * h * w)."""
    return batch.fragments.flatten(2)


@torch.inference_mode()
def evaluate(
    protocol: ClusteringProtocol,
    puzzles: FixedPuzzles,
    methods: Mapping[str, Embed],
    *,
    batch_size: int,
    device: torch.device,
    advance: Callable[[int], None] = lambda count: None,
) -> dict[str, dict[str, Scores]]:
    """Score methods, and random assignment, on the same puzzles.

    Args:
        protocol: how to score.
        puzzles: what to score on.
        methods: by name.
        batch_size: puzzles embedded at once.
        device: where the fragments are embedded.
        advance: told how many puzzles are done, for a progress bar.

    Returns:
        Scores (puzzles,) by method and metric, puzzle by puzzle in the same order.
    """
    parts: dict[str, list[dict[str, Tensor]]] = {"random": [], **{name: [] for name in methods}}
    for part in batches(len(puzzles), batch_size):
        batch = puzzles.read(part).to(device).as_float()
        parts["random"].append(protocol.score_random(batch))
        for name, embed in methods.items():
            parts[name].append(protocol.score(embed(batch), batch))
        advance(len(batch))
    return {
        name: {metric: torch.cat([scores[metric] for scores in rows]).numpy() for metric in METRICS}
        for name, rows in parts.items()
    }
