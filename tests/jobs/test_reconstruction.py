"""Models that fill in masked images go the way of all models, from the command line's config to the record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fragrecon.errors import ConfigError
from fragrecon.runs import load_run
from tests.cli import SMALL, job, metrics, names, rows, status

pytestmark = pytest.mark.timeout(180)

WHOLE = (
    "data.reader.train_images=300",
    "data.reader.test_images=40",
    "data.reader.num_classes=3",
    "data.fragment_size=64",
    "data.images_per_puzzle=1",
    "data.puzzles_per_batch=20",
    "data.epochs=2",
    "evaluation=reconstruction",
    "evaluation.puzzles=24",
    "evaluation.validation_puzzles=10",
    "selection.monitor=val/loss",
    "selection.mode=min",
    "model.patch=16",
)
TINY = {
    "mae": ["model=mae", "model.latent_dim=12", "model.depth=1", "model.decoder_width=6", "model.decoder_depth=1"],
    "energy_transformer": [
        "model=energy_transformer",
        "model.latent_dim=12",
        "model.heads=2",
        "model.head_width=6",
        "model.steps=3",
        "model.alpha=0.5",
    ],
}
BASELINES = ["mean_colour", "bilinear", "linear_prediction"]
MASKED = {f"{part}_{name}" for part in ("masked", "composite") for name in ("mse", "psnr", "ssim")}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")  # of its own: others look at which scores are kept


@pytest.mark.parametrize("name", TINY)
def test_whole_images_are_trained_on_and_scored(tmp_path: Path, cache: Path, name: str) -> None:
    folder = tmp_path / "run"
    job(folder, cache, *TINY[name], *WHOLE)
    assert status(folder)["status"] == "done"
    found = metrics(folder)
    assert list(found["scores"]) == [*BASELINES, "model"]
    for scores in found["scores"].values():
        assert set(scores) == MASKED
        assert all(summary["n"] == 24 for summary in scores.values())
    assert list(found["model_minus"]) == BASELINES
    assert found["protocol"]["mask_ratio"] == 0.85
    losses = [float(row["val/loss"]) for row in rows(folder)]
    assert losses[1] < losses[0]
    assert {"figures/masked.png", "figures/curves.png"} == set(names(folder, "figures/*.png"))
    run = load_run(folder)
    assert run.best_checkpoint.name.startswith(f"best-epoch={int(np.argmin(losses))}-val_loss=")
    minus = run.scores["model/masked_psnr"] - run.scores["bilinear/masked_psnr"]
    assert found["model_minus"]["bilinear"]["masked_psnr"]["mean"] == pytest.approx(minus.mean())


def test_scoring_again_gives_the_same_and_takes_the_baselines_that_were_kept(tmp_path: Path, cache: Path) -> None:
    job(tmp_path / "run", cache, *TINY["mae"], *WHOLE)
    kept = {path: path.stat().st_mtime_ns for path in (cache / "scores").glob("linear_prediction-*")}
    assert kept
    job(tmp_path / "again", cache, "mode=evaluate", f"run={tmp_path / 'run'}", "evaluation.batch_size=7")
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    first, second = (metrics(tmp_path / name)["scores"] for name in ("run", "again"))
    for metric in MASKED:
        assert second["model"][metric]["mean"] == pytest.approx(first["model"][metric]["mean"], rel=1e-4)
        assert second["bilinear"][metric] == first["bilinear"][metric]


@pytest.mark.parametrize("line", [[*TINY["mae"], "model.patch=4"], ["model=pca", "model.latent_dim=8"]])
def test_on_fragments_both_clustering_and_reconstruction_are_scored(
    tmp_path: Path, cache: Path, line: list[str]
) -> None:
    job(tmp_path / "run", cache, *SMALL, *line, "evaluation=reconstruction", "evaluation.clustering=true")
    scores = metrics(tmp_path / "run")["scores"]
    assert {"kmeans_ari", "mean_clustering_score"} <= set(scores["model"])
    assert "kmeans_ari" in scores["raw_pixels"]
    if "model=mae" in line:
        assert set(scores["model"]) >= MASKED
        assert set(scores["linear_prediction"]) == MASKED
    else:
        assert {"reconstruction_mse", "reconstruction_psnr", "reconstruction_ssim"} <= set(scores["model"])


def test_what_is_no_puzzle_is_still_refused_where_fragments_are_to_be_clustered(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ConfigError, match="at least 2 images a puzzle and 2 fragments an image"):
        job(tmp_path / "run", cache, *TINY["mae"], *WHOLE, "evaluation.clustering=true")


@pytest.mark.parametrize("ratio", ["0.0", "1.0"])
def test_a_ratio_that_hides_nothing_or_all_is_refused(tmp_path: Path, cache: Path, ratio: str) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.reconstruction\.ratio"):
        job(tmp_path / "run", cache, *TINY["mae"], *WHOLE, f"evaluation.reconstruction.ratio={ratio}")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["model=supervised"], "needs a model that fills in or decodes.*SupervisedClassifier does neither"),
        ([*TINY["mae"], "model.patch=4", "objective.normalize=true"], r"objective\.normalize=true"),
    ],
)
def test_what_makes_no_pixels_is_refused_before_it_is_trained(
    tmp_path: Path, cache: Path, line: list[str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        job(tmp_path / "run", cache, *SMALL, *line, "evaluation=reconstruction")
    assert not (tmp_path / "run" / "metrics.csv").exists()
