"""How scores hold up when the puzzle gets harder than the one that was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fragrecon.data.corruption import CHANGES
from fragrecon.data.module import FragmentData
from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError, DataError
from fragrecon.evaluation.clustering.baselines import Baselines
from fragrecon.evaluation.clustering.protocol import ClusteringProtocol, Embed, Score, check_puzzle, evaluate
from fragrecon.evaluation.statistics import Scores, Summary, paired_summaries, summary
from fragrecon.seeds import keys_of

if TYPE_CHECKING:
    from fragrecon.config.schema import RobustnessConfig


@dataclass(frozen=True)
class Condition:
    """One way in which a puzzle departs from the usual: along an axis, by a value."""

    axis: str
    value: float

    def __str__(self) -> str:
        return f"{self.axis}={self.value:g}"

    def data(self, usual: FragmentData) -> FragmentData:
        """The data whose puzzles are scored; raises `ConfigError` or `DataError` where there are none."""
        if self.axis == "images":
            return usual.variant(images_per_puzzle=int(self.value))
        if self.axis == "fragment_size":
            return usual.variant(fragment_size=int(self.value))
        return usual

    def is_usual(self, data: FragmentData, usual: FragmentData) -> bool:
        """Whether these puzzles are no others than usual."""
        same = data.config.fragment_shape == usual.config.fragment_shape
        same &= data.config.images_per_puzzle == usual.config.images_per_puzzle
        return same and self.axis not in CHANGES

    def change(self, batch: FragmentBatch, seed: int) -> FragmentBatch:
        """What is done to the fragments, floats in 0..1; the random numbers of a puzzle are its own."""
        if self.axis not in CHANGES:
            return batch
        keys = keys_of(seed, f"robustness/{self}", batch.step, len(batch)).to(batch.fragments.device)
        return replace(batch, fragments=CHANGES[self.axis](batch.fragments, keys, self.value))


@dataclass(frozen=True)
class Outcome:
    """Scores under a condition by method and metric, puzzle by puzzle; why some method has none."""

    condition: Condition
    scores: Mapping[str, Mapping[str, Scores]]
    not_applicable: dict[str, str]


def conditions(config: RobustnessConfig) -> Iterator[Condition]:
    """All that a configuration asks for, axis by axis."""
    for field in fields(config):
        values = getattr(config, field.name)
        if isinstance(values, list):
            yield from (Condition(field.name, value) for value in values)


def outcomes(
    config: RobustnessConfig,
    usual: FragmentData,
    usual_scores: Mapping[str, Mapping[str, Scores]],
    protocol: ClusteringProtocol,
    embed: Embed,
    fragment_shape: tuple[int, int, int],
    *,
    cache: Path,
    advance: Callable[[int], None],
    batch_size: int,
    **how: Any,
) -> Iterator[Outcome]:
    """Score a model and the baselines under each condition.

    Args:
        config: which conditions, and on how many puzzles.
        usual: data of the usual condition.
        usual_scores: of the usual condition, by method and metric, of at least as many puzzles.
        protocol: how to score.
        embed: the model's.
        fragment_shape: the only one that the model takes.
        cache: folder of the baselines' scores.
        advance: told how many puzzles are done, twice for each condition, for a progress bar.
        batch_size: puzzles embedded at once, where they are as large as usual.
        how: further arguments of `evaluate`.
    """
    usual_baselines = Baselines(usual, protocol, cache)
    for condition in conditions(config):
        try:
            data = condition.data(usual)
            check_puzzle(data.config.images_per_puzzle, data.cells)
            puzzles = data.test_set(config.puzzles)
            condition.change(puzzles.read(slice(0, 1)).as_float(), protocol.seed)
        except (ConfigError, DataError) as error:
            advance(2 * config.puzzles)
            yield Outcome(condition, {}, {"all": str(error)})
            continue
        if condition.is_usual(data, usual):
            first = {
                method: {metric: scores[: config.puzzles] for metric, scores in found.items()}
                for method, found in usual_scores.items()
            }
            advance(2 * config.puzzles)
            yield Outcome(condition, first, {})
            continue
        how["change"] = partial(condition.change, seed=protocol.seed)
        # Puzzles of more fragments are taken fewer at once, so that they need no more memory than usual.
        fragments = data.config.images_per_puzzle * data.cells, usual.config.images_per_puzzle * usual.cells
        how["batch_size"] = max(1, batch_size * fragments[1] // max(fragments))
        baselines = usual_baselines if data is usual else Baselines(data, protocol, cache)
        scores = baselines.score(puzzles, condition=str(condition), advance=advance, **how)
        if data.config.fragment_shape != fragment_shape:
            advance(config.puzzles)
            sizes = ["x".join(map(str, shape[1:])) for shape in (fragment_shape, data.config.fragment_shape)]
            yield Outcome(condition, scores, {"model": f"it takes fragments of {sizes[0]} pixels, not {sizes[1]}"})
            continue
        model: dict[str, Score] = {"model": lambda batch: protocol.score_fully(embed(batch), batch)}
        yield Outcome(condition, scores | evaluate(puzzles, model, advance=advance, **how), {})


def table(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """A row for each condition, method and metric, with paired differences of the model to each baseline."""
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
