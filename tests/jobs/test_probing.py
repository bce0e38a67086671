"""Classifiers of a run's embeddings, and samples of its prior, from the command line's config to the record."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from fragrecon.errors import ConfigError, DataError
from fragrecon.evaluation.setup import open_data
from fragrecon.runs.read import Run, load_run
from tests import layouts
from tests.cli import SMALL, fingerprint, job, metrics, names, rows

pytestmark = pytest.mark.timeout(180)

PROBE = (
    "evaluation.probe.epochs=4",
    "evaluation.probe.hidden=[8]",
    "evaluation.probe.batch_size=50",
    "evaluation.probe.neighbours=[1,5]",
    "evaluation.probe.projections=[pca]",
)
WHOLE = (
    *SMALL,
    *PROBE,
    "evaluation=probe",
    "data.reader.num_classes=3",
    "data.fragment_size=64",
    "data.images_per_puzzle=1",
    "data.puzzles_per_batch=20",
    "evaluation.puzzles=20",
    "selection.monitor=val/loss",
    "selection.mode=min",
)
BOTH = (
    "model=vae",
    "model.latent_dim=6",
    "model.encoder_channels=[4,8,8]",
    "+evaluation.reconstruction={ratio:0.5}",
    "+evaluation.generation={samples:12,perceptual:[]}",
)
METHODS = ["raw_pixels", "exact_pca", "model"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Run:
    """A small variational autoencoder, scored by all that whole images can be."""
    folder = tmp_path_factory.mktemp("probing") / "run"
    job(folder, cache, *WHOLE, *BOTH, figures=True)
    return load_run(folder)


def test_all_parts_of_the_evaluation_are_in_one_record(run: Run) -> None:
    found = run.metrics
    assert set(found["scores"]) == {*METHODS, "downsampled"}
    for method in METHODS:
        for name in ("mlp", "linear", "knn"):
            assert found["scores"][method][f"probe_{name}_accuracy"]["n"] == found["data"]["images"] == 60
    for method in ("downsampled", "model"):
        assert found["scores"][method]["reconstruction_psnr"]["n"] == 20
    assert found["protocol"]["probe_embedding"] == "whole image"
    assert found["protocol"]["generated_images"] == 12
    assert set(found["dataset_wide"]["model"]) == {"generation_latent_frechet_distance", "generation_active_share"}
    drawn = {"curves", "reconstructions", "generated", "interpolations", "probe_mlp_curves", "probe_confusion"}
    assert {f"figures/{name}.png" for name in drawn | {"projection_pca"}} <= set(names(run.folder, "figures/*.png"))
    assert {"loss", "error", "kl", "psnr"} == {key.removeprefix("val/") for key in rows(run.folder)[0] if "val/" in key}


def test_a_run_classifies_images_as_its_record_says(run: Run) -> None:
    store = open_data(run.config).store("test")
    for name in ("mlp", "linear"):
        probabilities = run.classify(np.asarray(store.images), name)
        assert probabilities.sum(1) == pytest.approx(np.ones(60), abs=1e-5)
        right = (probabilities.argmax(1) == store.labels).astype(float)
        assert np.array_equal(right, run.scores[f"model/probe_{name}_accuracy"])
    with (run.folder / "probes" / "mlp_classes.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [int(row["images"]) for row in table] == np.bincount(store.labels, minlength=3).tolist()


def test_a_trained_probe_is_scored_again_and_not_trained_again(tmp_path: Path, cache: Path, run: Run) -> None:
    before = fingerprint(run.folder)
    job(tmp_path / "again", cache, "mode=evaluate", f"run={run.folder}")
    assert fingerprint(run.folder) == before
    assert metrics(tmp_path / "again")["scores"] == run.metrics["scores"]
    again = fingerprint(tmp_path / "again" / "probes")
    assert again["mlp.pt"] == before["probes/mlp.pt"]
    longer = [*PROBE, "evaluation=probe", "evaluation.puzzles=20", "evaluation.probe.epochs=5"]
    job(tmp_path / "longer", cache, "mode=evaluate", f"run={run.folder}", *longer)
    assert fingerprint(tmp_path / "longer" / "probes")["mlp.pt"] != again["mlp.pt"]


def test_of_a_model_of_fragments_the_mean_stands_for_an_image(tmp_path: Path, cache: Path) -> None:
    job(
        tmp_path / "run",
        cache,
        *SMALL,
        *PROBE,
        "model=pca",
        "data.epochs=1",
        "data.reader.num_classes=3",
        "evaluation=probe",
        "evaluation.clustering=true",
        "evaluation.puzzles=3",
        "evaluation.probe.classifiers=[linear]",
    )
    run = load_run(tmp_path / "run")
    assert run.metrics["protocol"]["probe_embedding"] == "mean of 16 fragments"
    found = run.metrics["scores"]["model"]
    assert (found["kmeans_ari"]["n"], found["probe_linear_accuracy"]["n"]) == (3, 60)
    store = open_data(run.config).store("test")
    right = run.classify(np.asarray(store.images), "linear").argmax(1) == store.labels
    assert right.mean() == pytest.approx(found["probe_linear_accuracy"]["mean"])


def test_images_without_classes_are_refused_before_training(tmp_path: Path, cache: Path) -> None:
    layouts.folder(tmp_path / "flat", train=12, test=6, classes=1)
    data = ("data=folder", f"data.root={tmp_path / 'flat'}")
    whole = [text for text in WHOLE if "reader" not in text]
    with pytest.raises((ConfigError, DataError), match=r"evaluation\.probe=null"):
        job(tmp_path / "run", cache, *whole, *data, "model=conv", "data.puzzles_per_batch=2")
    assert not (tmp_path / "run" / "checkpoints").exists()
