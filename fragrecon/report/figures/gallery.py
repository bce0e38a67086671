"""All figures of a run, each a PNG in one folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.evaluation.examples import Example
from fragrecon.evaluation.pixels.generation import Generated
from fragrecon.evaluation.pixels.inpainting_examples import Inpainted
from fragrecon.evaluation.setup import PartResult
from fragrecon.evaluation.statistics import Scores
from fragrecon.report.figures import generated, masked, plots, probes, projections, widths
from fragrecon.report.figures import puzzles as figures

RECONSTRUCTIONS = "reconstructions.png"
METRICS = ("kmeans_ari", "masked_psnr")
"""Of which the first that a model is scored by is drawn."""


def draw(found: PartResult, model: str, names: Sequence[str], folder: Path) -> None:
    """Write the figures of a scoring.

    Args:
        found: what the evaluation found and saw.
        model: name of the model.
        names: projections of embeddings to draw, of `fragrecon.config.evaluation.PROJECTIONS`.
        folder: folder of the figures.
    """
    if found.examples:
        draw_example(found.examples[0], model, folder)
    if found.inpainted:
        draw_filling(found.inpainted, folder)
    if found.generated:
        draw_generated(found.generated, folder, clustered=bool(found.examples))
    if found.probes:
        title = ", ".join(filter(None, (model, found.probes.averaged)))
        probes.draw(found.probes, title, folder)
        projections.draw(found.probes, names, title, folder)
    draw_scores(found.scores, model, folder)


def draw_example(example: Example, model: str, folder: Path, shown: FragmentBatch | None = None) -> None:
    """Write ``puzzle.png``, ``confusion.png``, ``embedding.png`` and, of a model that decodes, ``reconstructions.png``.

    Args:
        example: what is drawn.
        model: what the model is called.
        folder: of the figures.
        shown: the same puzzle in finer pixels than the model saw, for what shows no work of the model.
    """
    fine = replace(example, batch=shown) if shown else example
    title = f"grouped by KMeans on {model}"
    figures.save(figures.puzzle_figure(fine.batch, fine.groups, fine.grid, title), folder / "puzzle.png")
    figures.save(figures.confusion_figure(fine), folder / "confusion.png")
    figures.save(figures.embedding_figure(fine), folder / "embedding.png")
    if example.decoded is not None:
        draw_reconstructions(example, folder)


def draw_reconstructions(example: Example, folder: Path) -> None:
    """Write ``reconstructions.png`` of a model that decodes."""
    figures.save(figures.reconstructions_figure(example), folder / RECONSTRUCTIONS)


def draw_generated(shown: Generated, folder: Path, *, clustered: bool) -> None:
    """Write ``generated.png`` and ``interpolations.png``, as far as there is something to show.

    Args:
        shown: what is drawn.
        folder: of the figures.
        clustered: whether there is a puzzle, of which `draw_example` shows the reconstructions; else they are written
            too.
    """
    if shown.others:
        figures.save(widths.widths_figure(shown), folder / RECONSTRUCTIONS)
    elif not clustered:
        draw_reconstructions(shown.example, folder)
    if shown.samples is not None:
        figures.save(generated.generated_figure(shown), folder / "generated.png")
    if shown.between is not None:
        figures.save(generated.interpolations_figure(shown), folder / "interpolations.png")


def draw_filling(filling: Inpainted, folder: Path) -> None:
    """Write ``masked.png``, and ``descent.png`` and ``attention.png`` of a model that has these to show."""
    figures.save(masked.masked_figure(filling), folder / "masked.png")
    if filling.steps:
        figures.save(masked.descent_figure(filling), folder / "descent.png")
    if filling.attention:
        figures.save(masked.attention_figure(filling), folder / "attention.png")


def draw_scores(scores: Mapping[str, Mapping[str, Scores]], model: str, folder: Path) -> None:
    """Write ``scores.png``, of the methods' scores (puzzles,) by method and metric, if any are of `METRICS`."""
    for metric in METRICS:
        if metric in scores["model"]:
            found = {method: rows[metric] for method, rows in scores.items() if metric in rows}
            figures.save(plots.scores_figure(found, metric, model), folder / "scores.png")
            return


def draw_epochs(epochs: Sequence[Mapping[str, float]], monitor: str, checkpoint: str, folder: Path) -> None:
    """Write ``curves.png`` if there were epochs.

    Args:
        epochs: rows of ``metrics.csv``.
        monitor: the figure that selects.
        checkpoint: name of the file whose weights count, which tells its epoch if it was selected.
        folder: of the figures.
    """
    if epochs:
        selected = re.match(r"best-epoch=(\d+)", checkpoint)
        figure = plots.curves_figure(epochs, monitor, int(selected[1]) if selected else None)
        figures.save(figure, folder / "curves.png")
