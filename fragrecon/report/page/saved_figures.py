"""Figures saved by runs, with their captions."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from fragrecon.errors import RunError
from fragrecon.report.metrics import label
from fragrecon.report.page.viewer import picture
from fragrecon.runs.read import Run
from fragrecon.runs.write import FIGURES

log = logging.getLogger(__name__)

FILLED = ("masked", "descent", "attention")
"""Figures of masked images."""

CAPTIONS = {
    "masked": (
        "Each column is a test image. From the top: the image; its visible part, with hidden patches hatched; the "
        "model's output; and the composite, with the model's output in place of the hidden patches only. Below: PSNR "
        "of the hidden patches; higher is better."
    ),
    "descent": (
        "The hidden patches after each step of energy descent. Below: the energy and the PSNR of the hidden patches by "
        "step, for each image (grey) and on average (black)."
    ),
    "attention": (
        "Attention of the framed patch to all patches, averaged over heads and for each head; darker is more, relative "
        "to the largest of the other patches."
    ),
    "attention_matrix": "Attention of each position (row) to each position (column); lighter is more.",
    "saliency": "Red: pixels that the reconstruction error depends on most.",
    "puzzle": (
        "The fragments of a test puzzle: shuffled, as the original images, and grouped. Groups are named after images "
        "one to one; a dark fragment is from the image named on it."
    ),
    "confusion": (
        "Number of fragments of each image (row) in each group (column). Groups are named after images one to one; ? "
        "has no fragment of the image left for it."
    ),
    "embedding": "t-SNE of the fragments' embeddings: the fragments, and the images they were cut from.",
    "reconstructions": "From the top: images, their reconstructions from the fragments' embeddings, and the PSNR.",
    "generated": (
        "Test images, and images decoded from their embeddings, from samples of the standard normal, and from samples "
        "of a normal distribution fitted to embeddings of training images."
    ),
    "interpolations": "Images decoded from points between the embeddings of two test images.",
    "probe_mlp_curves": "Training of the MLP on frozen embeddings; the marked epoch is the best on validation images.",
    "probe_confusion": "Predicted classes (columns) of the test images of each class (row).",
    "projection_pca": "Test images, placed by the first two principal components of their embeddings.",
    "projection_tsne": "Test images, placed by t-SNE of their embeddings.",
    "projection_umap": "Test images, placed by UMAP of their embeddings.",
    "scores": "Distribution of each method's scores over the test puzzles.",
    "curves": "Training and validation metrics by epoch; a line marks the selected epoch.",
    "search_history": "Best validation score of each trial; of a pruned trial, its last score.",
    "search_importance": "Importance of the parameters for the scores, by the splits of a random forest.",
    "search_parameters": "Scores of all trials by parameter.",
    "robustness": "Scores of the model and the best baselines under harder conditions, with 95% intervals.",
}
"""Captions by file name; a figure without one is shown without a caption."""


@dataclass(frozen=True)
class Picture:
    """A figure on a page; its ``source`` is a data URI."""

    name: str
    source: str
    caption: str = ""


def of_run(run: Run) -> tuple[list[Picture], list[Picture]]:
    """Return the figures of masked images, and all others."""
    found = {path.stem: path for path in sorted((run.folder / FIGURES).glob("*.png"))}
    filled, others = [name for name in FILLED if name in found], [name for name in found if name not in FILLED]
    first, rest = (_pictures({label(name): found[name] for name in part}) for part in (filled, others))
    return first, rest


def of_jigsaw(folder: Path) -> list[Picture]:
    """Return the figures of an assembled jigsaw puzzle, the images first."""
    found = sorted((folder / FIGURES).glob("*.png"), key=lambda path: (not path.stem.startswith("rebuilt"), path.name))
    return _pictures({label(path.stem): path for path in found})


def of_search(folder: Path) -> list[Picture]:
    """Return the figures of a search, from the folder of its sweep."""
    found = sorted((folder / FIGURES).glob("search_*.png"))
    return _pictures({label(path.stem): path for path in found})


def of_sweep(runs: Mapping[str, Run], most: int) -> list[Picture]:
    """Return the masked images of the first runs, which are given by display name."""
    paths = {name: run.folder / FIGURES / f"{FILLED[0]}.png" for name, run in runs.items()}
    found = {name: path for name, path in paths.items() if path.is_file()}
    return [replace(shown, caption="") for shown in _pictures(dict(islice(found.items(), most)))]


def _pictures(paths: Mapping[str, Path]) -> list[Picture]:
    """Return figures, given by display name; one that cannot be read is skipped with a warning."""
    found = []
    for name, path in paths.items():
        try:
            found.append(Picture(name, picture(path), CAPTIONS.get(path.stem, "")))
        except RunError as error:
            log.warning("%s; the page lacks it", error)
    return found
