"""Write the figures of a run as PNG files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.evaluation.clustering.robustness import Outcome, clustering_scores
from fragrecon.evaluation.examples import Example
from fragrecon.evaluation.pixels.generation import Generated
from fragrecon.evaluation.pixels.inpainting_examples import Inpainted
from fragrecon.evaluation.setup import PartResult
from fragrecon.evaluation.statistics import Scores
from fragrecon.report.figures import clustering, generation, inpainting, probes, projections, scores, training
from fragrecon.report.figures.plotting import save
from fragrecon.report.figures.reconstructions import reconstructions_figure

RECONSTRUCTIONS = "reconstructions.png"
SCORES_METRICS = ("kmeans_ari", "masked_psnr")
"""Metrics of ``scores.png``: the first one that the model has scores for is drawn."""


def write_parts(found: PartResult, model: str, names: Sequence[str], folder: Path) -> None:
    """Write the figures of an evaluation.

    Args:
        found: result of the evaluation.
        model: name of the model.
        names: names of the projections to draw, from `fragrecon.config.evaluation.PROJECTIONS`.
        folder: folder of the figures.
    """
    if found.examples:
        write_example(found.examples[0], model, folder)
    if found.inpainted:
        write_inpainted(found.inpainted, folder)
    if found.generated:
        write_generated(found.generated, folder, clustered=bool(found.examples))
    if found.probes:
        title = ", ".join(filter(None, (model, found.probes.averaged)))
        probes.draw(found.probes, title, folder)
        projections.draw(found.probes, names, title, folder)
    write_scores(found.scores, model, folder)


def write_example(example: Example, model: str, folder: Path, shown: FragmentBatch | None = None) -> None:
    """Write ``puzzle.png``, ``confusion.png``, ``embedding.png`` and, if the model decodes, ``reconstructions.png``.

    Args:
        example: puzzle with the model's predictions.
        model: name of the model.
        folder: folder of the figures.
        shown: the same puzzle at a higher resolution, for all figures but the reconstructions.
    """
    fine = replace(example, batch=shown.as_float()) if shown else example
    title = f"grouped by KMeans on {model}"
    save(clustering.puzzle_figure(fine, title), folder / "puzzle.png")
    save(clustering.confusion_figure(fine), folder / "confusion.png")
    save(clustering.embedding_figure(fine), folder / "embedding.png")
    if example.decoded is not None:
        names = clustering.names_of(example.batch.images_per_puzzle)
        pair = example.images, example.in_place(example.decoded)
        save(reconstructions_figure([pair], names), folder / RECONSTRUCTIONS)


def write_generated(generated: Generated, folder: Path, *, clustered: bool) -> None:
    """Write those of ``generated.png``, ``interpolations.png`` and ``reconstructions.png`` that apply.

    Args:
        generated: images that the model decoded.
        folder: folder of the figures.
        clustered: whether `write_example` has written the reconstructions; they are then written here only if there are
            images of other widths.
    """
    if generated.others or not clustered:
        save(reconstructions_figure(generated.reconstructions), folder / RECONSTRUCTIONS)
    if generated.samples is not None:
        save(generation.generated_figure(generated), folder / "generated.png")
    if generated.between is not None:
        save(generation.interpolations_figure(generated), folder / "interpolations.png")


def write_masked(inpainted: Inpainted, folder: Path) -> None:
    """Write ``masked.png``."""
    save(inpainting.masked_figure(inpainted), folder / "masked.png")


def write_inpainted(inpainted: Inpainted, folder: Path) -> None:
    """Write ``masked.png`` and, if the model has steps or attention, ``descent.png`` and ``attention.png``."""
    write_masked(inpainted, folder)
    if inpainted.steps:
        save(inpainting.descent_figure(inpainted), folder / "descent.png")
    if inpainted.attention:
        save(inpainting.attention_figure(inpainted), folder / "attention.png")


def write_scores(found: Mapping[str, Mapping[str, Scores]], model: str, folder: Path) -> None:
    """Write ``scores.png`` from scores (puzzles,) by method and metric, if the model has one of `SCORES_METRICS`."""
    for metric in SCORES_METRICS:
        if metric in found["model"]:
            methods = {method: rows[metric] for method, rows in found.items() if metric in rows}
            save(scores.scores_figure(methods, metric, model), folder / "scores.png")
            return


def write_robustness(outcomes: Sequence[Outcome], usual: Mapping[str, Mapping[str, Scores]], folder: Path) -> None:
    """Write ``robustness.png``.

    Args:
        outcomes: scores under each condition.
        usual: scores (puzzles,) under the usual condition, by method and metric.
        folder: folder of the figures.
    """
    save(scores.robustness_figure(outcomes, clustering_scores(usual)), folder / "robustness.png")


def write_epochs(epochs: Sequence[Mapping[str, float]], monitor: str, checkpoint: str, folder: Path) -> None:
    """Write ``curves.png`` if there were at least two epochs.

    Args:
        epochs: rows of ``metrics.csv``.
        monitor: metric that selects the epoch.
        checkpoint: file name of the selected checkpoint.
        folder: folder of the figures.
    """
    if len(epochs) > 1:
        selected = re.match(r"best-epoch=(\d+)", checkpoint)
        figure = training.curves_figure(epochs, monitor, int(selected[1]) if selected else None)
        save(figure, folder / "curves.png")
