"""Robustness: scores under conditions other than those of training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fragrecon.data.compression import jpeg
from fragrecon.data.corruption import KINDS, corrupt
from fragrecon.data.module import FragmentData
from fragrecon.data.puzzles import FragmentBatch, cut, join
from fragrecon.errors import ConfigError, DataError
from fragrecon.evaluation.clustering.baselines import Baselines
from fragrecon.evaluation.clustering.protocol import METRICS, Score, check_puzzle, evaluate
from fragrecon.evaluation.clustering.reassembly import score_rotations, solved
from fragrecon.evaluation.setup import Scoring, protocol_of
from fragrecon.evaluation.statistics import Scores, Summary, paired_summaries, summary
from fragrecon.progress import progress
from fragrecon.seeds import keys_of

if TYPE_CHECKING:
    from fragrecon.config.evaluation import RobustnessConfig


JPEG_QUALITY = "jpeg_quality"
"""The axis of `compress_images`, unlike the corruption ``compression``, which compresses each fragment separately."""


@dataclass(frozen=True)
class Condition:
    """A change to the usual puzzles: an axis, such as ``noise`` or ``images``, and its value."""

    axis: str
    value: float

    def __str__(self) -> str:
        return f"{self.axis}={self.value:g}"

    def data(self, usual: FragmentData) -> FragmentData:
        """Return the data whose puzzles are scored; raises `ConfigError` or `DataError` if there are none."""
        if self.axis == "images":
            return usual.variant(images_per_puzzle=int(self.value))
        if self.axis == "fragment_size":
            return usual.variant(fragment_size=int(self.value))
        return usual

    def is_usual(self, data: FragmentData, usual: FragmentData) -> bool:
        """Whether these are the usual puzzles."""
        same = data.config.fragment_shape == usual.config.fragment_shape
        same &= data.config.images_per_puzzle == usual.config.images_per_puzzle
        return same and self.axis in ("images", "fragment_size")

    def change(self, batch: FragmentBatch, seed: int, grid: tuple[int, int]) -> FragmentBatch:
        """Change the fragments of a batch, floats in [0, 1], with independent random numbers per puzzle.

        Args:
            batch: puzzles with float fragments.
            seed: seed of the evaluation.
            grid: rows and columns of fragments in an image.

        Returns:
            The batch with other fragments; the same batch for the axes that `data` applies.

        Raises:
            ConfigError: the change cannot be applied to fragments of this shape.
        """
        if self.axis == JPEG_QUALITY:
            return compress_images(batch, grid, int(self.value))
        if self.axis not in KINDS:
            return batch
        keys = keys_of(seed, f"robustness/{self}", batch.step, len(batch)).to(batch.fragments.device)
        return corrupt(self.axis, batch, keys, self.value)


def compress_images(batch: FragmentBatch, grid: tuple[int, int], quality: int) -> FragmentBatch:
    """Compress the whole images of puzzles as JPEG files of the size at which they are cut, then cut them again.

    The grid of compressed squares begins at the corner of an image, and chroma is stored at half resolution.

    Args:
        batch: puzzles with float fragments in [0, 1].
        grid: rows and columns of fragments in an image.
        quality: 1 to 100, on the scale of libjpeg.

    Returns:
        The batch with compressed fragments, in the same order.
    """
    cells = grid[0] * grid[1]
    places = batch.source_ids * cells + batch.positions
    rows = torch.arange(len(batch), device=places.device).unsqueeze(1)
    ordered = batch.fragments[rows, places.argsort(1)]
    images = join(ordered.view(len(batch), -1, cells, *ordered.shape[2:]), grid)  # (B, N, C, H, W)
    pixels = (images.flatten(0, 1) * 255).round()
    offset = torch.zeros(len(pixels), 2, dtype=torch.int64, device=pixels.device)
    compressed = jpeg(pixels, torch.full_like(offset[:, 0], quality), offset).view_as(images) / 255
    return replace(batch, fragments=cut(compressed, batch.fragment_size).flatten(1, 2)[rows, places])


@dataclass(frozen=True)
class Outcome:
    """Scores (puzzles,) under a condition, by method and metric, and the reason why a method has none."""

    condition: Condition
    scores: Mapping[str, Mapping[str, Scores]]
    not_applicable: dict[str, str]


def conditions(config: RobustnessConfig) -> Iterator[Condition]:
    """Yield the conditions of a configuration, axis by axis."""
    for field in fields(config):
        values = getattr(config, field.name)
        if isinstance(values, list):
            yield from (Condition(field.name, value) for value in values)


def outcomes(
    scoring: Scoring, usual_scores: Mapping[str, Mapping[str, Scores]], advance: Callable[[int], None]
) -> Iterator[Outcome]:
    """Score a model and the baselines under each condition.

    Args:
        scoring: model and data of the usual condition; its config sets ``evaluation.robustness``.
        usual_scores: scores under the usual condition, by method and metric, on at least the puzzles of a condition.
        advance: called with the number of puzzles done, twice per condition, for a progress bar.

    Yields:
        The outcome of each condition.
    """
    asked, usual, model, protocol = _robustness(scoring), scoring.data, scoring.model, protocol_of(scoring.config)
    usual_baselines = Baselines(usual, protocol, scoring.cache)
    for condition in conditions(asked):
        try:
            data = condition.data(usual)
            check_puzzle(data.config.images_per_puzzle, data.cells)
            puzzles = data.test_set(asked.puzzles)
            condition.change(puzzles.read(slice(0, 1)).as_float(), protocol.seed, data.grid)
        except (ConfigError, DataError) as error:
            advance(2 * asked.puzzles)
            yield Outcome(condition, {}, {"all": str(error)})
            continue
        if condition.is_usual(data, usual):
            first = {
                method: {metric: scores[: asked.puzzles] for metric, scores in found.items()}
                for method, found in usual_scores.items()
            }
            advance(2 * asked.puzzles)
            yield Outcome(condition, first, {})
            continue
        change = partial(condition.change, seed=protocol.seed, grid=data.grid)
        settings = scoring.settings | {"change": change, "advance": advance}
        # Batches of larger puzzles have fewer puzzles, so that they need no more memory than usual.
        fragments = data.config.images_per_puzzle * data.cells, usual.config.images_per_puzzle * usual.cells
        settings["batch_size"] = max(1, settings["batch_size"] * fragments[1] // max(fragments))
        baselines = usual_baselines if data is usual else Baselines(data, protocol, scoring.cache)
        scores = baselines.score(puzzles, condition=str(condition), **settings)
        if data.config.fragment_shape != model.fragment_shape:
            advance(asked.puzzles)
            sizes = ["x".join(map(str, shape[1:])) for shape in (model.fragment_shape, data.config.fragment_shape)]
            yield Outcome(condition, scores, {"model": f"it takes fragments of {sizes[0]} pixels, not {sizes[1]}"})
            continue

        def score(batch: FragmentBatch) -> dict[str, Tensor]:
            solution, embeddings = solved(model, batch.fragments)
            scores = protocol.score_fully(embeddings, batch)
            return scores | (score_rotations(solution, batch) if solution else {})

        own: dict[str, Score] = {"model": score}
        yield Outcome(condition, scores | evaluate(puzzles, own, **settings), {})


def score_robustness(scoring: Scoring, scores: Mapping[str, Mapping[str, Scores]]) -> list[Outcome]:
    """Score the model and the baselines under conditions other than those of training.

    Args:
        scoring: model and data; its config sets ``evaluation.robustness``.
        scores: scores under the usual condition, by method and metric.

    Returns:
        One outcome per condition.
    """
    asked = _robustness(scoring)
    with progress("scoring under harder conditions", 2 * len(list(conditions(asked))) * asked.puzzles) as advance:
        return list(outcomes(scoring, clustering_scores(scores), advance))


def clustering_scores(scores: Mapping[str, Mapping[str, Scores]]) -> dict[str, Mapping[str, Scores]]:
    """Return the scores of the methods that cluster fragments, by method and metric."""
    return {method: found for method, found in scores.items() if found.keys() >= set(METRICS)}


def _robustness(scoring: Scoring) -> RobustnessConfig:
    asked = scoring.config.evaluation.robustness
    assert asked
    return asked


def table(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Return one row per condition, method and metric, with paired differences between the model and each baseline."""
    rows: list[dict[str, Any]] = []
    for outcome in outcomes:
        head = {"axis": outcome.condition.axis, "value": outcome.condition.value}
        for method, found in outcome.scores.items():
            rows += [_row(head | {"method": method}, metric, summary(scores)) for metric, scores in found.items()]
        for method, found in outcome.scores.items():
            if method != "model" and "model" in outcome.scores:
                differences = paired_summaries(outcome.scores["model"], found)
                key = head | {"method": f"model_minus_{method}"}
                rows += [_row(key, metric, difference) for metric, difference in differences.items()]
        rows += [head | {"method": method, "not_applicable": why} for method, why in outcome.not_applicable.items()]
    return rows


def _row(head: dict[str, Any], metric: str, found: Summary) -> dict[str, Any]:
    low, high = found["ci95"] or (None, None)
    return head | {
        "metric": metric,
        "mean": found["mean"],
        "std": found["std"],
        "low": low,
        "high": high,
        "n": found["n"],
    }
