"""``mode=evaluate``: score the best checkpoint of a finished run again, into a record of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fragrecon import machine as hardware
from fragrecon.config.schema import Config, class_name
from fragrecon.data.module import FragmentData
from fragrecon.errors import ConfigError
from fragrecon.evaluation.clustering import robustness
from fragrecon.evaluation.clustering.protocol import METRICS
from fragrecon.evaluation.pixels.networks import Networks
from fragrecon.evaluation.setup import open_data, protocol_of, shape_text
from fragrecon.evaluation.statistics import Scores
from fragrecon.jobs.scoring import Task, joined, parts, probing_of
from fragrecon.models.base import Decoder, FragmentModel, Inpainter, count_parameters
from fragrecon.report.figures import gallery, plots, projections
from fragrecon.report.figures import puzzles as figures
from fragrecon.report.terminal import print_metrics, print_robustness, progress
from fragrecon.runs.read import Run, load_run
from fragrecon.runs.write import FIGURES, Record

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
    model = open_model(config, run, checkpoint)
    check_data(config, data)
    record.enter("evaluation")
    log.info("scoring %s", checkpoint)
    return score(config, model, run, data, record, {})


def open_model(config: Config, run: Run, checkpoint: Path) -> FragmentModel:
    """A run's model; raises `ConfigError` if it does not take the fragments asked for."""
    model = run.load_model(checkpoint)
    if model.fragment_shape != config.data.fragment_shape:
        raise ConfigError(
            f"the model of {run.folder} takes fragments of {shape_text(model.fragment_shape)}, but data gives "
            f"{shape_text(config.data.fragment_shape)}; set data.fragment_size and data.channels to match"
        )
    check_parts(config, model)
    return model


def check_parts(config: Config, model: FragmentModel) -> None:
    """Refuse what cannot be scored, such as the reconstruction of a model that makes no pixels.

    Raises:
        ConfigError: it is not that, or lacks networks that are asked for.
    """
    evaluation, name = config.evaluation, class_name(config)
    if evaluation.reconstruction:
        if not isinstance(model, (Inpainter, Decoder)):
            raise ConfigError(
                f"evaluation=reconstruction needs a model that fills in or decodes, such as model=mae or model=conv; "
                f"{name} does neither"
            )
        if config.objective.get("normalize"):
            raise ConfigError(
                "evaluation=reconstruction scores pixels, but by objective.normalize=true the model tells patches "
                "without their mean and variance; set evaluation.reconstruction=null"
            )
    if evaluation.generation and not isinstance(model, Decoder):
        raise ConfigError(f"evaluation=generation needs a model that decodes, such as model=vae; {name} does not")
    if evaluation.puzzles:
        asked = [part.perceptual for part in (evaluation.reconstruction, evaluation.generation) if part]
        Networks(sorted({network for part in asked for network in part}), hardware.device_of(config.trainer))
        projections.check(evaluation.probe.projections if evaluation.probe else [])


def check_data(config: Config, data: FragmentData) -> None:
    """Refuse data without what is to be scored; raises `DataError` or `ConfigError`."""
    if config.evaluation.puzzles:
        data.check_test(config.evaluation.puzzles)
        reconstruction = config.evaluation.reconstruction
        images = len(data.test_set(config.evaluation.puzzles)) * config.data.images_per_puzzle
        if reconstruction and reconstruction.perceptual and images < 2:
            raise ConfigError(
                "evaluation.reconstruction.perceptual needs at least 2 test images, as it compares distributions; "
                "there is one"
            )
        if config.evaluation.probe:
            probing_of(config, data, hardware.device_of(config.trainer))


def score(
    config: Config,
    model: FragmentModel,
    run: Run,
    data: FragmentData,
    record: Record,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Score a model and the baselines on the test split, write the record and print the tables.

    Args:
        config: of the job.
        model: to score, with the run's best weights.
        run: that it is from.
        data: to score on.
        record: to write.
        seconds: how long each part of the job took so far.
    """
    started = time.monotonic()
    device = hardware.device_of(config.trainer)
    task = Task(config, model.to(device).eval(), run, data, device)
    found = list(parts(task, record))
    evaluation, store, checkpoint = config.evaluation, data.store("test"), run.best_checkpoint.name
    elsewhere = {} if run.folder == record.folder else {"run": str(run.folder)}
    scores = joined(part.scores for part in found)
    scores.setdefault("model", {})  # where all that was found has a single value
    metrics = record.write_metrics(
        scores,
        protocol={
            "puzzles": len(task.puzzles),
            "images_per_puzzle": config.data.images_per_puzzle,
            "fragments_per_image": data.cells,
            "fragment_shape": list(config.data.fragment_shape),
            "backend": evaluation.backend,
            "restarts": evaluation.restarts,
            "seed": evaluation.seed,
            **{key: value for part in found for key, value in part.protocol.items()},
        },
        data={
            "name": config.data.name,
            "split": "test",
            "images": len(store),
            "image_shape": list(store.manifest.shape),
            "source": store.manifest.source,
        },
        model={
            "name": task.name,
            "parameters": count_parameters(model),
            "latent_dim": model.latent_dim,
            **elsewhere,
            "checkpoint": checkpoint,
        },
        seconds=seconds | {"evaluation": time.monotonic() - started},
        dataset_wide=joined(part.dataset_wide for part in found),
    )
    for part in found:
        part.draw(record)
    folder = record.folder / FIGURES
    gallery.draw_scores(scores, task.name, folder)
    gallery.draw_epochs(load_run(record.folder).epochs, config.selection.monitor, checkpoint, folder)
    print_metrics(metrics, record.folder)
    if evaluation.robustness:
        outcomes = harder(task, scores)
        record.write_robustness(robustness.table(outcomes))
        figures.save(plots.robustness_figure(outcomes, clusterings(scores)), folder / "robustness.png")
        print_robustness(outcomes)
    return metrics


def harder(task: Task, scores: Mapping[str, Mapping[str, Scores]]) -> list[robustness.Outcome]:
    """The model and the baselines under conditions harder than those of training."""
    asked = task.config.evaluation.robustness
    assert asked
    conditions = len(list(robustness.conditions(asked)))
    with progress("scoring under harder conditions", 2 * conditions * asked.puzzles) as advance:
        return list(
            robustness.outcomes(
                asked,
                task.data,
                clusterings(scores),
                protocol_of(task.config),
                lambda batch: task.model.encode(batch.fragments),
                task.model.fragment_shape,
                cache=task.cache,
                advance=advance,
                **task.how,
            )
        )


def clusterings(scores: Mapping[str, Mapping[str, Scores]]) -> dict[str, Mapping[str, Scores]]:
    """Scores of the methods that group fragments."""
    return {method: found for method, found in scores.items() if found.keys() >= set(METRICS)}
