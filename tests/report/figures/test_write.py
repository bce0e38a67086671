"""The figures of a run as files: which there are, and what of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fragrecon.data.puzzles import make_batch
from fragrecon.evaluation.examples import Example
from fragrecon.evaluation.pixels.generation import Generated
from fragrecon.report.figures import write
from fragrecon.report.figures.plotting import save
from fragrecon.report.figures.training import curves_figure
from tests.cli import fingerprint, names
from tests.report.figures.test_generation import generated


def example() -> Example:
    """Two grey images in four fragments each, decoded in blue."""
    images = torch.full((1, 2, 3, 8, 8), 128, dtype=torch.uint8)
    ids = torch.arange(2).unsqueeze(0)
    batch = make_batch(images, ids, ids, torch.randperm(8).unsqueeze(0), (4, 4)).as_float()
    decoded = torch.zeros_like(batch.fragments)
    decoded[:, :, 2] = 1
    return Example(batch, (2, 2), torch.rand(1, 8, 3), batch.source_ids, decoded)


def share(path: Path, colour: tuple[int, int, int]) -> float:
    pixels = np.asarray(Image.open(path).convert("RGB"))
    return float((np.abs(pixels.astype(int) - np.array(colour)) <= 1).all(-1).mean())


GREY, BLUE, GREEN = (128, 128, 128), (0, 0, 255), (0, 255, 0)


@pytest.mark.slow
def test_what_the_model_did_is_drawn_in_its_own_pixels_and_all_else_in_those_that_are_shown(tmp_path: Path) -> None:
    own = example()
    green = torch.zeros(1, 8, 3, 12, 12, dtype=torch.uint8)
    green[:, :, 1] = 255
    shown = replace(own.batch, fragments=green)
    write.write_example(own, "conv", tmp_path / "plain")
    write.write_example(own, "conv", tmp_path / "shown", shown)
    assert names(tmp_path / "plain") == ["confusion.png", "embedding.png", "puzzle.png", "reconstructions.png"]
    for name in ("confusion.png", "embedding.png", "puzzle.png"):
        assert share(tmp_path / "plain" / name, GREY) > 0.01
        assert share(tmp_path / "plain" / name, GREEN) == 0
        assert share(tmp_path / "shown" / name, GREEN) > 0.01
    for folder in ("plain", "shown"):
        assert share(tmp_path / folder / "reconstructions.png", GREY) > 0.1
        assert share(tmp_path / folder / "reconstructions.png", BLUE) > 0.1


def test_a_model_that_does_not_decode_has_no_reconstructions(tmp_path: Path) -> None:
    write.write_example(replace(example(), decoded=None), "mosaic", tmp_path)
    assert names(tmp_path) == ["confusion.png", "embedding.png", "puzzle.png"]


@pytest.mark.parametrize("metric", write.SCORES_METRICS)
def test_methods_without_the_score_have_no_place_among_the_scores(tmp_path: Path, metric: str) -> None:
    clustered = {method: {metric: np.linspace(0, 1, 5)} for method in ("model", "random")}
    write.write_scores(clustered | {"seam_gradients": {"placing_direct": np.ones(5)}}, "mosaic", tmp_path / "more")
    write.write_scores(clustered, "mosaic", tmp_path)
    assert fingerprint(tmp_path / "more")["scores.png"] == fingerprint(tmp_path)["scores.png"]


def test_without_scores_or_epochs_nothing_is_drawn(tmp_path: Path) -> None:
    write.write_scores({"model": {"reconstruction_psnr": np.linspace(10, 20, 5)}}, "conv", tmp_path)
    write.write_epochs([], "val/loss", "last.ckpt", tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("checkpoint", "marked"),
    [("best-epoch=1-val_loss=0.3.ckpt", 1), ("best-epoch=0-val_loss=0.3.ckpt", 0), ("last.ckpt", None)],
)
def test_the_epoch_of_the_checkpoint_is_marked(tmp_path: Path, checkpoint: str, marked: int | None) -> None:
    epochs = [{"epoch": 0.0, "val/loss": 1.0}, {"epoch": 1.0, "val/loss": 0.3}]
    write.write_epochs(epochs, "val/loss", checkpoint, tmp_path)
    save(curves_figure(epochs, "val/loss", marked), tmp_path / "expected.png")
    found = fingerprint(tmp_path)
    assert found["curves.png"] == found["expected.png"]


def test_what_there_is_to_show_of_generation_is_drawn(tmp_path: Path) -> None:
    shown = generated()
    write.write_generated(shown, tmp_path / "all", clustered=False)
    assert names(tmp_path / "all") == ["generated.png", "interpolations.png", "reconstructions.png"]
    write.write_generated(shown, tmp_path / "clustered", clustered=True)
    assert names(tmp_path / "clustered") == ["generated.png", "interpolations.png"]
    write.write_generated(Generated(shown.example, shown.between), tmp_path / "photographs", clustered=False)
    assert names(tmp_path / "photographs") == ["interpolations.png", "reconstructions.png"]
    write.write_generated(Generated(generated(images=1).example, None), tmp_path / "one", clustered=False)
    assert names(tmp_path / "one") == ["reconstructions.png"]
