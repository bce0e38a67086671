"""The clustering part of the evaluation."""

from __future__ import annotations

from torch import Tensor

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.evaluation.clustering.baselines import Baselines
from fragrecon.evaluation.clustering.pairs import score_pairs
from fragrecon.evaluation.clustering.protocol import ClusteringProtocol, Score, evaluate
from fragrecon.evaluation.clustering.reassembly import score_gradients, score_rotations, score_solution, solved
from fragrecon.evaluation.examples import first_examples
from fragrecon.evaluation.setup import PartResult, Scoring, protocol_of
from fragrecon.models.base import FragmentModel, PairScorer, Solver
from fragrecon.progress import progress


def score_clustering(scoring: Scoring) -> PartResult:
    """Score a model and the baselines by the clustering protocol.

    Args:
        scoring: model and data.

    Returns:
        Scores and example puzzles; empty if the config disables clustering.
    """
    if not scoring.config.evaluation.clustering:
        return PartResult()
    protocol, puzzles, grid = protocol_of(scoring.config), scoring.puzzles, scoring.data.grid
    with progress("scoring baselines", len(puzzles)) as advance:
        baselines = Baselines(scoring.data, protocol, scoring.cache)
        scores = baselines.score(puzzles, advance=advance, **scoring.settings)
    with progress("scoring the model", len(puzzles)) as advance:
        methods = methods_of(scoring.model, protocol, grid)
        scores |= evaluate(puzzles, methods, advance=advance, **scoring.settings)
    with progress("example puzzles", announce=False):
        examples = first_examples(scoring.model, puzzles, grid, protocol, scoring.device)
    return PartResult(scores, examples=examples)


def methods_of(model: FragmentModel, protocol: ClusteringProtocol, grid: tuple[int, int]) -> dict[str, Score]:
    """Return the scoring functions for everything a model predicts.

    Args:
        model: model in eval mode.
        protocol: clustering protocol.
        grid: rows and columns of fragments in an image.

    Returns:
        Scoring functions by method: ``model`` and, if it reassembles images of this grid, ``seam_gradients``.
    """
    reassembles = isinstance(model, Solver) and model.grid == grid

    def score(batch: FragmentBatch) -> dict[str, Tensor]:
        solution, embeddings = solved(model, batch.fragments)
        scores = protocol.score_fully(embeddings, batch)
        if solution is not None:
            scores |= score_rotations(solution, batch) | score_pairs(solution.pair_scores(), batch, grid, protocol)
            scores |= score_solution(solution, batch, grid, protocol) if reassembles else {}
        elif isinstance(model, PairScorer):
            scores |= score_pairs(model.pair_scores(batch.fragments), batch, grid, protocol)
        return scores

    methods: dict[str, Score] = {"model": score}
    if reassembles:
        methods["seam_gradients"] = lambda batch: score_gradients(batch, grid, protocol)
    return methods
