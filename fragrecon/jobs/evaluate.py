"""``mode=evaluate``: score the best checkpoint of a finished run again, into a record of its own."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fragrecon import hardware
from fragrecon.data.module import FixedPuzzles, FragmentData
from fragrecon.errors import ConfigError
from fragrecon.evaluation import robustness
from fragrecon.evaluation.baselines import Baselines
from fragrecon.evaluation.examples import arrays_of, first_examples
from fragrecon.evaluation.filling import first_filled
from fragrecon.evaluation.inpainting import Fillings
from fragrecon.evaluation.networks import Networks
from fragrecon.evaluation.opening import methods_of, open_data, protocol_of, shape_text
from fragrecon.evaluation.perception import Perceived, composites, decoded, perceive
from fragrecon.evaluation.protocol import METRICS, evaluate
from fragrecon.evaluation.reconstruction import Masking, reconstruction_of
from fragrecon.evaluation.statistics import Scores
from fragrecon.models.base import Decoder, FragmentModel, Inpainter, count_parameters
from fragrecon.record import FIGURES, Record
from fragrecon.report import figures, gallery, plots
from fragrecon.report.terminal import print_metrics, print_robustness
from fragrecon.runs import Run, load_run
from fragrecon.schema import Config

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
    data.check_test(config.evaluation.puzzles)
    record.enter("evaluation")
    log.info("scoring %s", checkpoint)
    return score(config, model, data, record, {}, source={"run": str(run.folder), "checkpoint": checkpoint.name})


def open_model(config: Config, run: Run, checkpoint: Path) -> FragmentModel:
    """A run's model; raises `ConfigError` if it does not take the fragments asked for."""
    model = run.load_model(checkpoint)
    if model.fragment_shape != config.data.fragment_shape:
        raise ConfigError(
            f"the model of {run.folder} takes fragments of {shape_text(model.fragment_shape)}, but data gives "
            f"{shape_text(config.data.fragment_shape)}; set data.fragment_size and data.channels to match"
        )
    check_reconstruction(config, model)
    return model


def check_reconstruction(config: Config, model: FragmentModel) -> None:
    """Refuse what cannot be scored, such as the reconstruction of a model that makes no pixels.

    Raises:
        ConfigError: it is not that, or lacks networks that are asked for.
    """
    if config.evaluation.reconstruction is None:
        return
    if not isinstance(model, (Inpainter, Decoder)):
        raise ConfigError(
            f"evaluation=reconstruction needs a model that fills in or decodes, such as model=mae or model=conv; "
            f"{class_name(config)} does neither"
        )
    if config.objective.get("normalize"):
        raise ConfigError(
            "evaluation=reconstruction scores pixels, but by objective.normalize=true the model tells patches without "
            "their mean and variance; set evaluation.reconstruction=null"
        )
    if config.evaluation.puzzles:
        Networks(config.evaluation.reconstruction.perceptual, hardware.device_of(config.trainer))


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
    cache = data.cache / "scores"
    how: dict[str, Any] = {"batch_size": evaluation.batch_size, "device": device}
    scores: dict[str, dict[str, Scores]] = {}
    if evaluation.clustering:
        with progress("scoring baselines", len(puzzles)) as advance:
            scores = Baselines(data, protocol, cache).score(puzzles, advance=advance, **how)
        with progress("scoring the model", len(puzzles)) as advance:
            scores |= evaluate(puzzles, methods_of(model, protocol, data.grid), advance=advance, **how)
    perceived = Perceived()
    if evaluation.reconstruction:
        reconstructed, perceived = reconstruction_scores(config, model, puzzles, cache, how)
        for method, found in reconstructed.items():
            scores[method] = scores.get(method, {}) | found | perceived.scores.get(method, {})
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
            **({"mask_ratio": evaluation.reconstruction.ratio} if evaluation.reconstruction else {}),
            **({"perceptual_images": perceived.images} if perceived.images else {}),
        },
        data={
            "name": config.data.name,
            "split": "test",
            "images": len(store),
            "image_shape": list(store.manifest.shape),
            "source": store.manifest.source,
        },
        model={
            "name": class_name(config),
            "parameters": count_parameters(model),
            "latent_dim": model.latent_dim,
            **source,
        },
        seconds=seconds | {"evaluation": time.monotonic() - started},
        dataset_wide=perceived.dataset_wide,
    )
    folder = record.folder / FIGURES
    if evaluation.clustering:
        examples = first_examples(model, puzzles, data.grid, protocol, device)
        record.write_examples(arrays_of(examples))
        gallery.draw_example(examples[0], class_name(config), folder)
    if evaluation.reconstruction and isinstance(model, Inpainter):
        masking = Masking(evaluation.reconstruction.ratio, evaluation.seed)
        gallery.draw_filling(first_filled(model, puzzles, masking, device), folder)
    gallery.draw_scores(scores, class_name(config), folder)
    gallery.draw_epochs(load_run(record.folder).epochs, config.selection.monitor, source["checkpoint"], folder)
    print_metrics(metrics, record.folder)
    if evaluation.robustness:
        asked = list(robustness.conditions(evaluation.robustness))
        clustered = {method: found for method, found in scores.items() if found.keys() >= set(METRICS)}
        with progress("scoring under harder conditions", 2 * len(asked) * evaluation.robustness.puzzles) as advance:
            outcomes = list(
                robustness.outcomes(
                    evaluation.robustness,
                    data,
                    clustered,
                    protocol,
                    lambda batch: model.encode(batch.fragments),
                    model.fragment_shape,
                    cache=cache,
                    advance=advance,
                    **how,
                )
            )
        record.write_robustness(robustness.table(outcomes))
        figures.save(plots.robustness_figure(outcomes, clustered), folder / "robustness.png")
        print_robustness(outcomes)
    return metrics


def reconstruction_scores(
    config: Config, model: FragmentModel, puzzles: FixedPuzzles, cache: Path, how: dict[str, Any]
) -> tuple[dict[str, dict[str, Scores]], Perceived]:
    """Scores (puzzles,) by method and metric of what the model, and what is simpler, makes of masked images, and what
    networks see in that where they are asked for.
    """
    reconstruction = config.evaluation.reconstruction
    assert reconstruction
    masking = Masking(reconstruction.ratio, config.evaluation.seed)
    score = reconstruction_of(model, masking)
    assert score is not None  # by `check_reconstruction`
    found, prefix, outputs = {}, "reconstruction", decoded(model)
    if isinstance(model, Inpainter):
        fillings = Fillings(puzzles.data, masking, model.patches, cache)
        prefix, outputs = "composite", composites(model, fillings)
        with progress("scoring baselines of filling in", len(puzzles)) as advance:
            found = fillings.score(puzzles, advance=advance, **how)
    with progress("scoring what the model fills in", len(puzzles)) as advance:
        found |= evaluate(puzzles, {"model": score}, advance=advance, **how)
    if not reconstruction.perceptual:
        return found, Perceived()
    networks = Networks(reconstruction.perceptual, how["device"])
    with progress("looking at what was filled in", len(puzzles)) as advance:
        return found, perceive(puzzles, outputs, networks, prefix=prefix, advance=advance, **how)


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how far a part of the scoring has come, on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


def class_name(config: Config) -> str:
    """What the model is called in tables and figures."""
    return str(config.model["_target_"].rpartition(".")[2])
