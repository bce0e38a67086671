"""Score a model, and write, print and draw its scores: the last step of training, and all of ``mode=evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fragrecon.config.schema import Config
from fragrecon.data.module import FragmentData
from fragrecon.errors import ConfigError
from fragrecon.evaluation import suite
from fragrecon.evaluation.clustering.robustness import score_robustness, table
from fragrecon.evaluation.examples import arrays_of
from fragrecon.evaluation.setup import Scoring, shape_text
from fragrecon.machine import device_of
from fragrecon.models.base import FragmentModel, count_parameters
from fragrecon.progress import Stopwatch, progress
from fragrecon.report.figures import projections, write
from fragrecon.report.terminal import print_metrics, print_robustness
from fragrecon.runs.read import Run
from fragrecon.runs.sweeps import sweep_of
from fragrecon.runs.write import FIGURES, PROBE_FILES, Record


def open_model(config: Config, run: Run, checkpoint: Path) -> FragmentModel:
    """Load the model of a run and check that it can be scored with the config.

    Args:
        config: job config.
        run: run of the model.
        checkpoint: file with its weights.

    Returns:
        The model in eval mode, on the CPU.

    Raises:
        ConfigError: the model does not fit the config's fragments, or lacks a method that the evaluation needs.
    """
    model = run.load_model(checkpoint)
    if model.fragment_shape != config.data.fragment_shape:
        raise ConfigError(
            f"the model of {run.folder} takes fragments of {shape_text(model.fragment_shape)}, but data gives "
            f"{shape_text(config.data.fragment_shape)}; set data.fragment_size and data.channels to match"
        )
    check_scorable(config, model)
    return model


def check_scorable(config: Config, model: FragmentModel) -> None:
    """Check that a model can be scored and drawn with the config.

    Raises:
        ConfigError: it cannot, or a required package is not installed.
    """
    suite.check_abilities(config, model)
    if config.evaluation.puzzles and config.evaluation.probe:
        projections.check(config.evaluation.probe.projections)


def score(
    config: Config,
    model: FragmentModel,
    run: Run,
    data: FragmentData,
    record: Record,
    watch: Stopwatch,
) -> dict[str, Any]:
    """Score a model and the baselines on the test split, write the record, print the tables and draw the figures.

    A job of a sweep prints no tables, and by default draws only the figures that the page of the sweep shows.

    Args:
        config: job config.
        model: model to score, with the best weights of the run.
        run: run of the model.
        data: data to score on.
        record: record to write.
        watch: durations of the parts of the job; those of this function are added.

    Returns:
        The content of ``metrics.json``.
    """
    device, evaluation, checkpoint = device_of(config.trainer), config.evaluation, run.checkpoint
    probe_folders = [record.folder / PROBE_FILES, run.folder / PROBE_FILES]
    scoring = Scoring(config, model.to(device).eval(), checkpoint, data, device, probe_folders)
    with watch.part("evaluation"):
        found = suite.score_parts(scoring)
    store = data.store("test")
    elsewhere = {} if run.folder == record.folder else {"run": str(run.folder)}
    metrics = record.write_metrics(
        found.scores,
        protocol={
            "puzzles": len(scoring.puzzles),
            "images_per_puzzle": config.data.images_per_puzzle,
            "fragments_per_image": data.cells,
            "fragment_shape": list(config.data.fragment_shape),
            "backend": evaluation.backend,
            "restarts": evaluation.restarts,
            "seed": evaluation.seed,
            **found.protocol,
        },
        data={
            "name": config.data.name,
            "split": "test",
            "images": len(store),
            "image_shape": list(store.manifest.shape),
            "source": store.manifest.source,
            "lossy": store.manifest.lossy,
        },
        model={
            "name": scoring.name,
            "parameters": count_parameters(model),
            "latent_dim": model.latent_dim,
            **elsewhere,
            "checkpoint": checkpoint.name,
        },
        seconds=watch.seconds,
        dataset_wide=found.dataset_wide,
    )
    if found.examples:
        record.write_examples(arrays_of(found.examples))
    folder, in_sweep = record.folder / FIGURES, sweep_of(record.folder) is not None
    all_figures = config.report.figures or (config.report.figures is None and not in_sweep)
    with watch.part("figures"):
        if all_figures:
            with progress("drawing figures"):
                projected = evaluation.probe.projections if evaluation.probe else []
                write.write_parts(found, scoring.name, projected, folder)
                write.write_epochs(record.epochs, config.selection.monitor, checkpoint.name, folder)
        elif found.inpainted and config.report.figures is None:
            write.write_masked(found.inpainted, folder)
    if not in_sweep:
        print_metrics(metrics, record.folder)
    if evaluation.robustness:
        with watch.part("robustness"):
            outcomes = score_robustness(scoring, found.scores)
        record.write_robustness(table(outcomes))
        if all_figures:
            with watch.part("figures"):
                write.write_robustness(outcomes, found.scores, folder)
        if not in_sweep:
            print_robustness(outcomes)
    record.write_seconds(metrics, watch.seconds)
    return metrics
