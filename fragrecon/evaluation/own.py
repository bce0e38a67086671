"""The part of the evaluation that the user writes: metrics of embeddings, of the model and of raw pixels.

A metric called ``coherence`` in ``evaluation.own`` that returns the score ``share`` is ``own_coherence_share`` in
``metrics.json``. The last word of the name sets its direction; see `fragrecon.report.metrics.MEASURES`.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from fragrecon.config.build import build
from fragrecon.config.schema import Config
from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError
from fragrecon.evaluation.clustering.protocol import Score, evaluate
from fragrecon.evaluation.setup import PartResult, Scoring
from fragrecon.progress import progress


class EmbeddingMetric(Protocol):
    """Interface of a metric of the user. It may take its own settings as arguments."""

    def score(self, embeddings: Tensor, batch: FragmentBatch) -> dict[str, Tensor]:
        """Score the embeddings of some puzzles.

        Args:
            embeddings: (B, F, D).
            batch: the puzzles, with the true image and cell of each fragment.

        Returns:
            Scores (B,) by name.
        """


def metrics_of(config: Config) -> dict[str, EmbeddingMetric]:
    """Build the metrics of a config by name; raises `ConfigError`."""
    nodes = config.evaluation.own
    return {name: build(node, f"evaluation.own.{name}", EmbeddingMetric) for name, node in nodes.items()}


def score_own(scoring: Scoring) -> PartResult:
    """Score a model and raw pixels by the user's metrics.

    Args:
        scoring: model and data.

    Returns:
        Scores; empty if the config has no such metrics.
    """
    metrics = metrics_of(scoring.config)
    if not metrics:
        return PartResult()
    methods: dict[str, Score] = {
        "model": lambda batch: _scores(metrics, scoring.model.encode(batch.fragments), batch),
        "raw_pixels": lambda batch: _scores(metrics, batch.fragments.flatten(2), batch),
    }
    with progress("scoring own metrics", len(scoring.puzzles)) as advance:
        return PartResult(evaluate(scoring.puzzles, methods, advance=advance, **scoring.settings))


def _scores(metrics: dict[str, EmbeddingMetric], embeddings: Tensor, batch: FragmentBatch) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, metric in metrics.items():
        for key, values in metric.score(embeddings, batch).items():
            if values.shape != (len(batch),):
                raise ConfigError(
                    f"evaluation.own.{name}: score() returned '{key}' of shape {tuple(values.shape)}; it should be one "
                    f"score for each of the {len(batch)} puzzles"
                )
            found[f"own_{name}_{key}"] = values.detach().cpu().double()
    return found
