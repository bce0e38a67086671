"""``mode=evaluate``: score the best checkpoint of a finished run again, into a record of its own."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fragrecon import hardware
from fragrecon.clustering.backends import load_backend
from fragrecon.data.module import FragmentData
from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError
from fragrecon.evaluation import robustness
from fragrecon.evaluation.baselines import Baselines
from fragrecon.evaluation.pairs import score_pairs
from fragrecon.evaluation.protocol import METRICS, ClusteringProtocol, Score, check_puzzle, evaluate
from fragrecon.evaluation.reassembly import score_gradients, score_solution
from fragrecon.models.base import FragmentModel, PairScorer, Solver, count_parameters
from fragrecon.record import FIGURES, Record
from fragrecon.report.terminal import print_metrics, print_robustness
from fragrecon.runs import load_run
from fragrecon.schema import Config, build

log = logging.getLogger(__name__)


def main(config: Config, record: Record) -> dict[str, Any]:
    """Score ``config.run``; raises `ConfigError` if its model does not take the fragments asked for."""
    if config.run is None:
        raise ConfigError("mode=evaluate needs the run to score: run=FOLDER")
    if not config.evaluation.puzzles:
        raise ConfigError("evaluation.puzzles=0 leaves nothing to score")
    data = open_data(config)
    run = load_run(config.run)
    checkpoint = run.best_checkpoint
    model = run.load_model(checkpoint)
    if model.fragment_shape != config.data.fragment_shape:
        raise ConfigError(
            f"the model of {run.folder} takes fragments of {shape_text(model.fragment_shape)}, but data gives "
            f"{shape_text(config.data.fragment_shape)}; set data.fragment_size and data.channels to match"
        )
    data.check_test(config.evaluation.puzzles)
    record.enter("evaluation")
    log.info("scoring %s", checkpoint)
    return score(config, model, data, record, {}, source={"run": str(run.folder), "checkpoint": checkpoint.name})


def open_data(config: Config) -> FragmentData:
    """The data module of a job, with what the configuration alone can tell already checked."""
    facts = {name: getattr(config.data, name) for name in ("root", "image_size", "channels", "download")}
    reader = build(config.data.reader, "data.reader", **facts)
    if reader.shape != config.data.image_shape:
        raise ConfigError(
            f"data={config.data.name} holds images of {shape_text(reader.shape)}; "
            f"data.image_size and data.channels ask for {shape_text(config.data.image_shape)}"
        )
    evaluation = config.evaluation
    data = FragmentData(config.data, reader, config.seed, evaluation.seed, evaluation.validation_puzzles)
    check_puzzle(config.data.images_per_puzzle, data.cells)
    return data


def protocol_of(config: Config) -> ClusteringProtocol:
    evaluation = config.evaluation
    backend = load_backend(evaluation.backend)
    return ClusteringProtocol(backend, evaluation.restarts, evaluation.seed, evaluation.memory_mb * 2**20)


def score(
    config: Config,
    model: FragmentModel,
    data: FragmentData,
    record: Record,
    seconds: dict[str, float],
    source: dict[str, str],
) -> dict[str, Any]:
    """Score a model and the baselines on the test puzzles, write the record and print the table."""
    started = time.monotonic()
    device = hardware.device_of(config.trainer)
    model = model.to(device).eval()
    evaluation = config.evaluation
    puzzles, protocol = data.test_set(evaluation.puzzles), protocol_of(config)

    def embed(batch: FragmentBatch) -> torch.Tensor:
        return model.encode(batch.fragments)

    cache = data.cache / "scores"
    how: dict[str, Any] = {"batch_size": evaluation.batch_size, "device": device}
    with progress("scoring baselines", len(puzzles)) as advance:
        scores = Baselines(data, protocol, cache).score(puzzles, advance=advance, **how)
    with progress("scoring the model", len(puzzles)) as advance:
        scores |= evaluate(puzzles, methods_of(model, protocol, data.grid), advance=advance, **how)
    store = data.store("test")
    metrics = record.write_metrics(
        scores,
        protocol={
            "puzzles": len(puzzles),
            "images_per_puzzle": config.data.images_per_puzzle,
            "fragments_per_image": data.cells,
            "fragment_shape": list(config.data.fragment_shape),
            "backend": evaluation.backend,
            "restarts": evaluation.restarts,
            "seed": evaluation.seed,
        },
        data={
            "name": config.data.name,
            "split": "test",
            "images": len(store),
            "image_shape": list(store.manifest.shape),
            "source": store.manifest.source,
        },
        model={
            "name": config.model["_target_"].rpartition(".")[2],
            "parameters": count_parameters(model),
            "latent_dim": model.latent_dim,
            **source,
        },
        seconds=seconds | {"evaluation": time.monotonic() - started},
    )
    draw_puzzle(model, data, protocol, record, device)
    print_metrics(metrics, record.folder)
    if evaluation.robustness:
        from fragrecon.report import figures

        asked = list(robustness.conditions(evaluation.robustness))
        clustered = {method: found for method, found in scores.items() if found.keys() >= set(METRICS)}
        with progress("scoring under harder conditions", 2 * len(asked) * evaluation.robustness.puzzles) as advance:
            outcomes = list(
                robustness.outcomes(
                    evaluation.robustness,
                    data,
                    clustered,
                    protocol,
                    embed,
                    model.fragment_shape,
                    cache=cache,
                    advance=advance,
                    **how,
                )
            )
        record.write_robustness(robustness.table(outcomes))
        figures.save(figures.robustness_figure(outcomes, clustered), record.folder / FIGURES / "robustness.png")
        print_robustness(outcomes)
    return metrics


def methods_of(model: FragmentModel, protocol: ClusteringProtocol, grid: tuple[int, int]) -> dict[str, Score]:
    """How the model scores a batch, by all that it can do; and what pixels alone do, if it puts puzzles together.

    It can only put images together that are cut as those it was trained on.
    """
    puts_together = isinstance(model, Solver) and model.grid == grid

    def score(batch: FragmentBatch) -> dict[str, torch.Tensor]:
        solution = model.solve(batch.fragments) if isinstance(model, Solver) else None
        embeddings = model.encode(batch.fragments) if solution is None else solution.embeddings
        scores = protocol.score_fully(embeddings, batch)
        if solution is not None:
            scores |= score_pairs(solution.pair_scores(), batch, grid, protocol)
            scores |= score_solution(solution, batch, grid, protocol) if puts_together else {}
        elif isinstance(model, PairScorer):
            scores |= score_pairs(model.pair_scores(batch.fragments), batch, grid, protocol)
        return scores

    methods: dict[str, Score] = {"model": score}
    if puts_together:
        methods["seam_gradients"] = lambda batch: score_gradients(batch, grid, protocol)
    return methods


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how far a part of the scoring has come, on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


@torch.inference_mode()
def draw_puzzle(
    model: FragmentModel, data: FragmentData, protocol: ClusteringProtocol, record: Record, device: torch.device
) -> None:
    """Write ``figures/puzzle.png``: the first test puzzle shuffled, solved, and as the model groups it."""
    from fragrecon.report import figures

    batch = data.test_set(1).read(slice(0, 1)).to(device).as_float()
    groups = protocol.cluster(model.encode(batch.fragments).float(), batch)["kmeans"]
    figure = figures.puzzle_figure(batch, groups, data.grid, f"grouped by KMeans on {type(model).__name__}")
    figures.save(figure, record.folder / FIGURES / "puzzle.png")


def shape_text(shape: tuple[int, int, int]) -> str:
    return f"{shape[1]}x{shape[2]} pixels, {shape[0]} channel{'s' if shape[0] > 1 else ''}"
