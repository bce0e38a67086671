"""Figures of runs, with what is to be seen on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fragrecon.report.metrics import label
from fragrecon.report.page.viewer import picture
from fragrecon.runs.read import Run
from fragrecon.runs.write import FIGURES

FILLED = ("masked", "descent", "attention")
"""Figures of masked images."""

CAPTIONS = {
    "masked": (
        "Each column is a test image. From the top: the image; what the model saw of it, hidden patches in grey; all "
        "that the model says; and the composite, which takes from the model only what was hidden. Below, the PSNR of "
        "the hidden patches: the higher, the better."
    ),
    "descent": (
        "How the hidden patches come about, step by step, as the model descends its energy; and, over the steps, that "
        "energy and the PSNR of the hidden patches, image by image and on average."
    ),
    "attention": "Where the framed patch looks: the darker, the more, for all heads together and for each.",
    "attention_matrix": "How much each place of an image, a row, attends to each, a column: the lighter, the more.",
    "saliency": "In red, the pixels that the error of the reconstruction depends on most.",
    "puzzle": "The fragments of a test puzzle: shuffled, as the images they were cut from, and grouped.",
    "confusion": "How many fragments of each image, a row, came into each group, a column.",
    "embedding": "Fragments where t-SNE puts their embeddings, and the same places by the images they are from.",
    "reconstructions": "Images above what the model decodes of their fragments' embeddings, and how far that is off.",
    "generated": (
        "Test images, what the model makes of their embeddings, of samples of the standard normal, and of a normal "
        "that was fitted to embeddings of training images."
    ),
    "interpolations": "What is decoded on the way from the embedding of one test image to that of another.",
    "probe_mlp_curves": "How the MLP on frozen embeddings learned; the marked epoch is the best on validation images.",
    "probe_confusion": "What a classifier of embeddings took the test images of each class, a row, for.",
    "projection_pca": "Test images by the two directions in which embeddings vary most.",
    "projection_tsne": "Test images where t-SNE puts their embeddings.",
    "projection_umap": "Test images where UMAP puts their embeddings.",
    "scores": "How the scores of each method are spread over the test puzzles.",
    "curves": "The course of training; a line marks the epoch that was selected.",
    "robustness": "Scores under harder conditions, with their 95% intervals.",
}
"""By a figure's file."""


@dataclass(frozen=True)
class Picture:
    """A figure on a page: its ``source`` is a data URI."""

    name: str
    source: str
    caption: str = ""


def of_run(run: Run) -> tuple[list[Picture], list[Picture]]:
    """Figures of masked images, and all others."""
    found = {path.stem: path for path in sorted((run.folder / FIGURES).glob("*.png"))}
    filled, others = [name for name in FILLED if name in found], [name for name in found if name not in FILLED]
    first, rest = (
        [Picture(label(name), picture(found[name]), CAPTIONS.get(name, "")) for name in part]
        for part in (filled, others)
    )
    return first, rest


def of_sweep(runs: Mapping[str, Run], most: int) -> list[Picture]:
    """What the first runs fill in, by the names that people are shown."""
    paths = {name: run.folder / FIGURES / f"{FILLED[0]}.png" for name, run in runs.items()}
    found = [name for name, path in paths.items() if path.is_file()]
    return [Picture(name, picture(paths[name])) for name in found[:most]]
