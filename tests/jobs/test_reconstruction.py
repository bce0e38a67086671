"""Models that fill in masked images go the way of all models, from the command line's config to the record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from fragrecon.errors import ConfigError
from fragrecon.run import compose
from fragrecon.runs.read import load_run
from tests import layouts
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


@pytest.fixture(scope="module", params=TINY)
def masked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The folder of a finished run of a masked model; only to be read."""
    folder: Path = tmp_path_factory.mktemp("masked") / request.param
    job(folder, cache, *TINY[request.param], *WHOLE, figures=True)
    return folder


def test_whole_images_are_trained_on_and_scored(masked: Path) -> None:
    folder, name = masked, masked.name
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
    drawn = {"masked", "curves", "scores", "attention", *(["descent"] if name == "energy_transformer" else [])}
    assert {f"figures/{figure}.png" for figure in drawn} == set(names(folder, "figures/*.png"))
    run = load_run(folder)
    assert run.checkpoint.name.startswith(f"best-epoch={int(np.argmin(losses))}-val_loss=")
    minus = run.scores["model/masked_psnr"] - run.scores["bilinear/masked_psnr"]
    assert found["model_minus"]["bilinear"]["masked_psnr"]["mean"] == pytest.approx(minus.mean())


def test_scoring_again_gives_the_same_and_takes_the_cached_baselines(tmp_path: Path, cache: Path, masked: Path) -> None:
    kept = {path: path.stat().st_mtime_ns for path in (cache / "scores").glob("linear_prediction-*")}
    assert kept
    job(tmp_path / "again", cache, "mode=evaluate", f"run={masked}", "evaluation.batch_size=7")
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    first, second = (metrics(folder)["scores"] for folder in (masked, tmp_path / "again"))
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


# Drawn ----------------------------------------------------------------------------------------------------------------


def drawn(folder: Path, cache: Path, run: Path, *given: object) -> float:
    found = job(folder, cache, "mode=draw", f"run={run}", *given)
    assert found is not None
    return float(found["masked_psnr"])


def test_a_run_is_drawn_again_to_the_byte(tmp_path: Path, cache: Path, masked: Path) -> None:
    ratio = drawn(tmp_path / "again", cache, masked)
    pictures = set(names(masked, "figures/*.png"))
    assert pictures == set(names(tmp_path / "again", "figures/*.png"))
    for picture in pictures:
        assert (masked / picture).read_bytes() == (tmp_path / "again" / picture).read_bytes()
    first = load_run(masked).scores["model/masked_psnr"][:8]
    assert ratio == pytest.approx(first.mean(), rel=1e-5)


def test_photographs_are_filled_in_whole_or_fragment_by_fragment(tmp_path: Path, cache: Path) -> None:
    given = [f"input=[{','.join(load_sample_images().filenames)}]"]
    model = [*TINY["energy_transformer"], "model.patch=4"]
    job(tmp_path / "whole", cache, *model, *WHOLE, "model.patch=16", "evaluation.puzzles=0")
    whole = drawn(tmp_path / "drawn whole", cache, tmp_path / "whole", *given)
    job(tmp_path / "cut", cache, *SMALL, *model, "evaluation.puzzles=0")
    cut = drawn(tmp_path / "drawn cut", cache, tmp_path / "cut", *given, "evaluation.clustering=false")
    assert 3 < whole < 40
    assert 3 < cut < 40
    own = "figures/attention.png"  # of an image with each of its patches; not of fragments put together
    assert set(names(tmp_path / "drawn whole", "figures/*.png")) == {"figures/masked.png", "figures/descent.png", own}
    assert set(names(tmp_path / "drawn cut", "figures/*.png")) == {"figures/masked.png", "figures/descent.png"}
    widths = {}
    for folder in ("drawn whole", "drawn cut"):
        with Image.open(tmp_path / folder / "figures" / "masked.png") as picture:
            widths[folder] = picture.size
    assert widths["drawn whole"] == widths["drawn cut"]  # two columns, not one for each fragment


def test_where_nothing_is_grouped_filled_in_or_decoded_there_is_nothing_to_draw(tmp_path: Path, cache: Path) -> None:
    job(tmp_path / "run", cache, *SMALL, "model=supervised", "model.latent_dim=8", "evaluation.puzzles=0")
    with pytest.raises(ConfigError, match=r"evaluation\.clustering=false"):
        job(tmp_path / "drawn", cache, "mode=draw", f"run={tmp_path / 'run'}", "evaluation.clustering=false")


# The recipes ----------------------------------------------------------------------------------------------------------

RECIPES = {"energy_cifar10": "cifar10", "energy_cifar100": "cifar100", "mae_cifar10": "cifar10"}
RECIPES["energy_imagenet64"] = "imagenet64"
CUT = ("data.puzzles_per_batch=4", "data.batches_per_epoch=2", "data.epochs=1", "evaluation.puzzles=3")


@pytest.mark.parametrize("seed", ["", "_seed"])
@pytest.mark.parametrize("name", RECIPES)
def test_recipes_run_on_images_as_they_are_given_out(tmp_path: Path, name: str, seed: str) -> None:
    written = {"cifar10": layouts.cifar10, "cifar100": layouts.cifar100, "imagenet64": layouts.imagenet64}
    written[RECIPES[name]](tmp_path / "data", 40, 6)
    given = (f"experiment={name}{seed}", f"data.root={tmp_path / 'data'}", *CUT, "evaluation.validation_puzzles=2")
    job(tmp_path / "run", tmp_path / "cache", *given)
    run = load_run(tmp_path / "run")
    assert run.config.data.name == RECIPES[name]
    assert set(run.metrics["scores"]) == {*BASELINES, "model"}
    assert run.metrics["protocol"]["fragments_per_image"] == 1
    assert run.metrics["scores"]["model"]["masked_psnr"]["n"] == 3
    assert run.model.patches.count == 64  # type: ignore[union-attr]
    settings = run.config.optimizer
    if seed:
        assert (settings["lr"], settings["weight_decay"], settings["betas"]) == (5e-5, 1e-4, [0.9, 0.999])
    assert run.config.trainer.gradient_clip_val == 1.0


@pytest.mark.parametrize("name", ["mae_fragments", "energy_fragments"])
def test_recipes_of_masked_fragments_are_clustered_with_nothing_hidden(tmp_path: Path, name: str) -> None:
    layouts.imagenet64(tmp_path / "data", 260, 20)
    cut = ("data.batches_per_epoch=2", "data.epochs=1", "evaluation.puzzles=2", "evaluation.validation_puzzles=1")
    job(tmp_path / "run", tmp_path / "cache", f"experiment={name}", f"data.root={tmp_path / 'data'}", *cut)
    run = load_run(tmp_path / "run")
    assert run.model.patches.count == 16  # type: ignore[union-attr]
    assert {"kmeans_ari", "mean_clustering_score", "masked_psnr"} <= set(run.metrics["scores"]["model"])
    assert run.checkpoint.name.startswith("best-epoch=0-val_mean_clustering_score=")


def test_the_published_recipe_says_what_was_published() -> None:
    for name in RECIPES:
        config = compose([f"experiment={name}_seed", "data.root=somewhere"])
        assert config.data.puzzles_per_batch == 128
        assert config.data.epochs == 1000
        assert config.scheduler["floor"] * config.optimizer["lr"] == pytest.approx(1e-6)
        assert config.objective["ratio"] == 0.85
        if name != "mae_cifar10":
            expected = {"latent_dim": 256, "heads": 12, "head_width": 64, "memory_ratio": 4.0, "layers": 1}
            expected |= {"steps": 12, "alpha": 10.0, "patch": 8 if "imagenet64" in name else 4}
            assert {key: config.model[key] for key in expected} == expected
            assert 1 / config.model["head_width"] ** 0.5 == 0.125  # beta, by default
            assert config.model["beta"] is None
