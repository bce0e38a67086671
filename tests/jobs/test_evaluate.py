from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import adjusted_rand_score

from fragrecon import files
from fragrecon.errors import ConfigError, RunError
from fragrecon.evaluation.statistics import paired, summary
from fragrecon.runs import sweeps
from fragrecon.runs.read import load_run
from fragrecon.runs.sweeps import job_folder
from tests import layouts
from tests.cli import SMALL, Cli, Result, fingerprint, job, metrics, names, status

pytestmark = pytest.mark.timeout(180)
METHODS = ["random", "raw_pixels", "colour_histogram", "exact_pca", "whitened_pca", "model"]
PLAIN = ["evaluation.puzzles=6", "evaluation.restarts=2"]
""" for a plain evaluation of six puzzles."""
COUNT = ["evaluation.estimate_count=true"]  # as with evaluation=robustness
AXES = ("images", "fragment_size", "noise", "rotation", "jitter", "gap", "missing", "jpeg_quality")
NOTHING = [f"evaluation.robustness.{axis}=[]" for axis in AXES]
HARDER = ["evaluation=robustness", *PLAIN, "evaluation.robustness.puzzles=4"]
"""One of the whole section takes the run's own place, so all that differs from its defaults is said anew."""
FEW = [
    "evaluation.robustness.images=[2,10,100]",
    "evaluation.robustness.fragment_size=[16,32,48]",
    "evaluation.robustness.noise=[0.2]",
    "evaluation.robustness.rotation=[1]",
    "evaluation.robustness.jitter=[0.4]",
    "evaluation.robustness.gap=[3]",
    "evaluation.robustness.missing=[0.2]",
    "evaluation.robustness.jpeg_quality=[75]",
]
HARD = (
    *(("images", 2), ("noise", 0.2), ("rotation", 1), ("jitter", 0.4), ("gap", 3)),
    *(("missing", 0.2), ("jpeg_quality", 75)),
)


def test_a_run_is_scored_again_exactly_and_left_as_it_was(cli: Cli, finished: Path) -> None:
    before = fingerprint(finished)
    result = cli.run("mode=evaluate", f"run={finished}", f"data.cache_dir={cli.cache}", "report.figures=false").ok()
    (folder,) = (cli.home / "outputs").glob("*/*")
    assert folder.name.endswith("-evaluate")
    for words in ("KMeans", "ConvAutoencoder on 5 test puzzles", "raw pixels", "exact PCA", "model minus"):
        assert words in result.stdout
    again, own = metrics(folder), metrics(finished)
    for part in ("scores", "model_minus", "protocol", "data"):
        assert again[part] == own[part]
    assert fingerprint(finished) == before
    assert status(folder)["status"] == "done"
    assert not names(folder, "*.ckpt")
    saved = load_run(folder).config
    assert (saved.mode, saved.run) == ("evaluate", str(finished))
    assert saved.model == load_run(finished).config.model


def test_a_run_can_be_scored_on_other_puzzles_of_other_data(tmp_path: Path, cache: Path, finished: Path) -> None:
    layouts.imagenet64(tmp_path / "source", train=12, test=30)
    before = fingerprint(finished)
    other = ["data=imagenet64", f"data.root={tmp_path / 'source'}", f"data.cache_dir={cache}"]
    job(tmp_path / "run", cache, "mode=evaluate", f"run={finished}", *other, "evaluation.puzzles=3")
    found = metrics(tmp_path / "run")
    assert (found["data"]["name"], found["data"]["images"]) == ("imagenet64", 30)
    assert found["scores"]["model"]["kmeans_ari"]["n"] == 3
    assert found["model"]["checkpoint"] == metrics(finished)["model"]["checkpoint"]
    assert fingerprint(finished) == before


@pytest.mark.fault("mode=evaluate on images that changed since training")
def test_changed_images_are_warned_about(tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    root, other = tmp_path / "images", tmp_path / "other"
    for folder in (root, other):
        layouts.folder(folder, train=120, test=12)
    few = ["data.images_per_puzzle=2", "data.batches_per_epoch=1", "data.epochs=1"]
    job(tmp_path / "run", cache, *SMALL[2:3], *SMALL[4:], *few, "model=pca", "data=folder", f"data.root={root}")

    def warned(name: str, *overrides: str) -> bool:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "fragrecon"):
            job(tmp_path / name, cache, "mode=evaluate", f"run={tmp_path / 'run'}", *PLAIN, *overrides)
        return any(str(root) in record.getMessage() for record in caplog.records)

    assert not warned("same")
    Image.new("RGB", (64, 64), "white").save(next((root / "val").rglob("*.png")))
    assert warned("changed")
    assert not warned("other", f"data.root={other}")


def test_more_test_puzzles_begin_with_the_same_ones(tmp_path: Path, cache: Path, finished: Path) -> None:
    job(tmp_path / "run", cache, "mode=evaluate", f"run={finished}", "evaluation.puzzles=7")
    more, own = (files.read_arrays(folder / "scores.npz") for folder in (tmp_path / "run", finished))
    for name in ("random/kmeans_ari", "raw_pixels/kmeans_ari", "raw_pixels/kmedoids_nmi"):
        np.testing.assert_allclose(more[name][:5], own[name], atol=1e-6)


def test_a_run_that_is_half_written_or_damaged_is_refused(tmp_path: Path, cache: Path, finished: Path) -> None:
    for name in ("checkpoints", "config.yaml", "status.json"):
        half = tmp_path / f"without {name}"
        shutil.copytree(finished, half)
        shutil.rmtree(half / name) if (half / name).is_dir() else (half / name).unlink()
        with pytest.raises(RunError, match="checkpoint" if name == "checkpoints" else re.escape(name)):
            job(tmp_path / f"run {name}", cache, "mode=evaluate", f"run={half}")
        assert status(tmp_path / f"run {name}")["status"] == "failed"
    best = load_run(finished).checkpoint.relative_to(finished)
    for number, path in enumerate((Path("config.yaml"), Path("status.json"), best)):
        half = tmp_path / f"damaged {number}"
        shutil.copytree(finished, half)
        contents = (half / path).read_bytes()
        (half / path).write_bytes(contents[: len(contents) // 2] + b"\n: [")
        with pytest.raises((RunError, ConfigError), match=re.escape(path.name)):
            job(tmp_path / f"scored {number}", cache, "mode=evaluate", f"run={half}")


def test_all_baselines_stand_beside_the_model(finished: Path) -> None:
    found = metrics(finished)
    assert list(found["scores"]) == METHODS
    assert list(found["model_minus"]) == METHODS[:-1]
    assert found["scores"]["exact_pca"]["kmeans_ari"] != found["scores"]["raw_pixels"]["kmeans_ari"]


def test_the_scores_of_baselines_are_computed_once_for_all_runs(tmp_path: Path, cache: Path, finished: Path) -> None:
    own = tmp_path / "cache"  # others write to the one that all share
    line = ["mode=evaluate", f"run={finished}", f"data.cache_dir={own}"]
    job(tmp_path / "first", cache, *line)
    kept = {path: path.stat().st_mtime_ns for path in (own / "scores").iterdir()}
    assert {path.name.rpartition("-")[0] for path in kept} == set(METHODS[:-1])
    job(tmp_path / "run", cache, *line)
    assert set((own / "scores").iterdir()) == set(kept)
    for path, time in kept.items():
        assert path.stat().st_mtime_ns == time
    assert metrics(tmp_path / "run")["scores"] == metrics(finished)["scores"]


def test_both_back_ends_give_much_the_same_scores(tmp_path: Path, cache: Path, finished: Path) -> None:
    found = {}
    for backend in ("sklearn", "batched"):
        given = [f"evaluation.backend={backend}", "evaluation.puzzles=10", "evaluation.restarts=10"]
        job(tmp_path / backend, cache, "mode=evaluate", f"run={finished}", *given)
        assert metrics(tmp_path / backend)["protocol"]["backend"] == backend
        found[backend] = metrics(tmp_path / backend)["scores"]
    for method in METHODS:
        for metric in ("kmeans_ari", "kmeans_nmi", "kmedoids_ari", "kmedoids_nmi"):
            one, other = (scores[method][metric]["mean"] for scores in found.values())
            assert one == pytest.approx(other, abs=0.02), (method, metric)
    assert found["sklearn"]["random"] == found["batched"]["random"]


def test_a_job_of_a_sweep_is_given_by_its_folder_without_quotes(cli: Cli, finished: Path) -> None:
    overrides = ["data.augment={hue: 0.1}", "model.encoder_channels=[16,32]", "model.latent_dim=64", "seed=1"]
    folder = Path("multirun") / "2025-01-02_03-04-05" / job_folder(overrides)
    shutil.copytree(finished, cli.home / folder)
    cli.here("mode=evaluate", f"run={folder}", f"data.cache_dir={cli.cache}", "hydra.run.dir=scored").ok()
    assert metrics(cli.home / "scored")["scores"] == metrics(finished)["scores"]


# Figures and examples -------------------------------------------------------------------------------------------------

EXAMPLE = ["confusion.png", "embedding.png", "puzzle.png"]
"""Figures of one puzzle, of any model."""


def figures_of(folder: Path) -> list[str]:
    """Names of the figures, each of which can be looked at."""
    for path in (folder / "figures").iterdir():
        with Image.open(path) as picture:
            picture.load()
            assert picture.format == "PNG"
            assert min(picture.size) > 60, path.name
            assert len(set(picture.convert("L").tobytes())) > 20, path.name
    return list(names(folder / "figures"))


def test_every_scored_run_leaves_its_figures(tmp_path: Path, cache: Path, finished: Path) -> None:
    assert figures_of(finished) == sorted([*EXAMPLE, "curves.png", "reconstructions.png", "scores.png"])
    job(tmp_path / "run", cache, "mode=evaluate", f"run={finished}", figures=True)
    # The record has no epochs of its own; all else is the same.
    assert figures_of(tmp_path / "run") == sorted([*EXAMPLE, "reconstructions.png", "scores.png"])
    own, again = fingerprint(finished / "figures"), fingerprint(tmp_path / "run" / "figures")
    assert {name: own[name] for name in again} == again


def test_a_sweep_draws_what_its_page_shows_unless_told_otherwise(
    tmp_path: Path, cache: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweeps.begin(tmp_path / "sweep", "name", 2, [], [])
    given = "mode=evaluate", f"run={finished}"
    job(tmp_path / "sweep" / "job", cache, *given, figures=True)
    assert not (tmp_path / "sweep" / "job" / "figures").exists()
    assert not capsys.readouterr().out, "the leaderboard has the scores"
    job(tmp_path / "sweep" / "all", cache, *given, "report.figures=true", figures=True)
    assert figures_of(tmp_path / "sweep" / "all") == sorted([*EXAMPLE, "reconstructions.png", "scores.png"])
    job(tmp_path / "none", cache, *given, "report.figures=false", figures=True)
    assert not (tmp_path / "none" / "figures").exists()
    assert "raw pixels" in capsys.readouterr().out


def test_examples_are_the_first_puzzles_with_the_groups_that_are_scored(
    tmp_path: Path, cache: Path, finished: Path
) -> None:
    job(tmp_path / "run", cache, "mode=evaluate", f"run={finished}", "evaluation.puzzles=9")
    few, many = (files.read_arrays(folder / "examples.npz") for folder in (finished, tmp_path / "run"))
    assert len(few["groups"]) == 5
    assert len(many["groups"]) == 8
    assert few["images"].shape == (5, 10, 3, 64, 64)
    assert few["images"].dtype == np.uint8
    assert few["grid"].tolist() == [4, 4]
    for name in ("images", "source_ids", "positions", "groups"):
        np.testing.assert_array_equal(many[name][:5], few[name])
    scores = files.read_arrays(tmp_path / "run" / "scores.npz")["model/kmeans_ari"]
    for sources, groups, score in zip(many["source_ids"], many["groups"], scores, strict=False):
        assert adjusted_rand_score(sources, groups) == pytest.approx(score, abs=1e-9)
    assert load_run(finished).examples.keys() == few.keys()


@pytest.mark.parametrize(
    ("model", "data"),
    [
        ("conv", ["data.image_size=[16,32]", "data.fragment_size=16"]),
        ("mosaic", ["data.image_size=[16,32]", "data.fragment_size=16", "model.width=16", "model.depth=1"]),
        ("pca", ["data.image_size=[32,32]", "data.fragment_size=[16,32]", "data.channels=1"]),
    ],
)
def test_the_smallest_puzzle_can_be_drawn_too(tmp_path: Path, cache: Path, model: str, data: list[str]) -> None:
    """Of two images in two fragments each, scored once."""
    size = ["data.images_per_puzzle=2", "evaluation.puzzles=1", "evaluation.validation_puzzles=2"]
    few = ["data.batches_per_epoch=1", "data.epochs=1", "model.latent_dim=1"]
    job(tmp_path, cache, *SMALL, f"model={model}", *data, *size, *few, figures=True)
    decoded = [] if model == "mosaic" else ["reconstructions.png"]
    assert figures_of(tmp_path) == sorted([*EXAMPLE, *decoded, "scores.png"])  # there are no curves of one epoch
    examples = files.read_arrays(tmp_path / "examples.npz")
    assert examples["source_ids"].shape == (1, 4)
    assert ("rebuilt_cells" in examples) == (model == "mosaic")


def test_a_run_without_validation_has_curves_of_its_training_alone(tmp_path: Path, cache: Path) -> None:
    job(tmp_path, cache, *SMALL, "model=pca", "trainer.limit_val_batches=0", figures=True)
    assert "curves.png" in figures_of(tmp_path)


# Harder conditions ----------------------------------------------------------------------------------------------------


class Harder(NamedTuple):
    """An evaluation under harder conditions, and a plain one."""

    folder: Path
    plain: Path
    result: Result

    def rows(self, axis: str, value: float, method: str) -> dict[str, dict[str, str]]:
        """Rows of a condition and a method, by metric."""
        found = files.read_csv(self.folder / "robustness.csv")
        return {
            row.get("metric", ""): row
            for row in found
            if (row["axis"], float(row["value"]), row["method"]) == (axis, value, method)
        }


@pytest.fixture(scope="module")
def harder(tmp_path_factory: pytest.TempPathFactory, cache: Path, finished: Path) -> Harder:
    cli = Cli(tmp_path_factory.mktemp("harder"), cache)
    given = ["mode=evaluate", f"run={finished}", f"data.cache_dir={cache}"]
    result = cli.run(*given, *HARDER, *FEW, "hydra.run.dir=harder").ok()
    job(cli.home / "plain", cache, "mode=evaluate", f"run={finished}", *PLAIN, *COUNT, figures=True)
    return Harder(cli.home / "harder", cli.home / "plain", result)


def test_harder_conditions_are_scored_beside_the_usual_which_stay_as_they_are(harder: Harder) -> None:
    assert status(harder.folder)["status"] == "done"
    found, plain = metrics(harder.folder), metrics(harder.plain)
    for part in ("scores", "model_minus", "protocol", "data", "model"):
        assert found[part] == plain[part]
    assert set(names(harder.folder)) - set(names(harder.plain)) == {
        "robustness.csv",
        "run.log",  # as is the page, of the command line alone
        "report.html",
        str(Path("figures") / "robustness.png"),
    }
    assert not names(harder.folder, "*.part")
    assert not (harder.plain / "robustness.csv").exists()


def test_each_condition_has_rows_of_all_methods_and_of_the_differences(harder: Harder) -> None:
    for axis, value in HARD:
        for method in METHODS:
            found = harder.rows(axis, value, method)
            assert set(found) >= {"kmeans_ari", "kmedoids_accuracy"}
            assert ("unknown_k_error" in found) == (method != "random")
            assert ("balanced_ari" in found) == (method != "random" and axis != "missing")
            for row in found.values():
                assert row["n"] == "4"
                assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
            if method != "model":
                differences = harder.rows(axis, value, f"model_minus_{method}")
                assert set(differences) == set(found)
                own = harder.rows(axis, value, "model")
                for metric, row in differences.items():
                    expected = float(own[metric]["mean"]) - float(found[metric]["mean"])
                    assert float(row["mean"]) == pytest.approx(expected, abs=1e-12)
        usual = harder.rows("images", 10, "model")["kmeans_ari"]
        assert harder.rows(axis, value, "model")["kmeans_ari"]["mean"] != usual["mean"]


def test_the_usual_conditions_have_the_scores_that_are_there_already(harder: Harder) -> None:
    arrays = files.read_arrays(harder.folder / "scores.npz")
    for axis, value in (("images", 10), ("fragment_size", 16)):
        for method in METHODS:
            for metric, row in harder.rows(axis, value, method).items():
                expected = summary(arrays[f"{method}/{metric}"][:4])
                assert float(row["mean"]) == expected["mean"]
                assert [float(row["low"]), float(row["high"])] == expected["ci95"]
        row = harder.rows(axis, value, "model_minus_exact_pca")["kmeans_nmi"]
        expected = paired(arrays["model/kmeans_nmi"][:4], arrays["exact_pca/kmeans_nmi"][:4])
        assert float(row["mean"]) == expected["mean"]


def test_what_cannot_be_scored_says_why(harder: Harder) -> None:
    for axis, value, method, words in (
        ("images", 100, "all", ["100 images", "test split has 60"]),
        ("fragment_size", 48, "all", ["48 does not divide"]),
        ("fragment_size", 32, "model", ["takes fragments of 16x16 pixels, not 32x32"]),
    ):
        ((metric, row),) = harder.rows(axis, value, method).items()
        assert metric == ""
        assert set(row) == {"axis", "value", "method", "not_applicable"}
        (line,) = (line for line in harder.result.stdout.splitlines() if line.startswith(f"n/a: {axis}={value}, "))
        for word in words:
            assert word in row["not_applicable"]
            assert word in line
    assert harder.rows("fragment_size", 32, "raw_pixels")["kmeans_ari"]["n"] == "4"
    assert not harder.rows("fragment_size", 32, "model_minus_raw_pixels")


def test_tables_fit_80_columns_and_name_every_condition(harder: Harder) -> None:
    lines = [line.rstrip() for line in harder.result.stdout.splitlines()]
    tables = [line for line in lines if not line.startswith(("n/a: ", "record: ")) and " INFO " not in line]
    assert max(map(len, tables)) <= 80
    assert not any("…" in line for line in tables)
    for condition in ("images=100", "fragment_size=48", *(f"{axis}={value}" for axis, value in HARD)):
        assert sum(line.startswith(f"{condition} ") for line in tables) == 2, condition
    for method in ("random", "raw pixels", "colour histogram", "exact PCA", "whitened PCA", "model"):
        assert any(line.startswith(method) for line in tables), method


def test_the_figure_of_harder_conditions_can_be_looked_at(harder: Harder) -> None:
    with Image.open(harder.folder / "figures" / "robustness.png") as picture:
        picture.load()
        assert picture.format == "PNG"
        width, height = picture.size
        assert 600 < width < 2400
        assert 400 < height < 1600
        assert len(set(picture.convert("L").resize((200, 120)).tobytes())) > 20


def test_an_axis_without_values_is_left_out(tmp_path: Path, cache: Path, finished: Path) -> None:
    given = [*HARDER, *NOTHING, "evaluation.robustness.gap=[1]", "evaluation.robustness.puzzles=1"]
    job(tmp_path / "run", cache, "mode=evaluate", f"run={finished}", *given)
    found = files.read_csv(tmp_path / "run" / "robustness.csv")
    assert {(row["axis"], row["value"]) for row in found} == {("gap", "1")}
    assert {row["n"] for row in found} == {"1"}
    assert not any({"std", "low", "high"} & set(row) for row in found)


# Refused at once ------------------------------------------------------------------------------------------------------

MAE = ("model=mae", "model.patch=4", "evaluation=reconstruction")
WHOLE = ("evaluation=reconstruction", "data.images_per_puzzle=1", "data.fragment_size=64")
ROBUST = ("evaluation=robustness", *PLAIN, "evaluation.robustness.puzzles=4")
CHOICES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("evaluation.backend", ("evaluation.backend=abc",)),
    ("evaluation.memory_mb=0", ("evaluation.memory_mb=0",)),
    ("evaluation.probe.classifiers", ("evaluation=probe", "evaluation.probe.classifiers=[forest]")),
    ("evaluation.probe.projections", ("evaluation=probe", "evaluation.probe.projections=[lda]")),
    ("evaluation.probe.scaling", ("evaluation=probe", "evaluation.probe.scaling=none")),
    ("'features'", ("evaluation=reconstruction", "evaluation.reconstruction.perceptual=[feature]")),
    ("evaluation.reconstruction.ratio", ("evaluation=reconstruction", "evaluation.reconstruction.ratio=0.0")),
    ("evaluation.reconstruction.ratio", ("evaluation=reconstruction", "evaluation.reconstruction.ratio=1.0")),
    ("evaluation.puzzles=1", (*WHOLE, "evaluation.puzzles=1", "evaluation.reconstruction.perceptual=[features]")),
    ("evaluation.generation.perceptual", ("evaluation=generation", "evaluation.generation.perceptual=[lpips]")),
    ("robustness.noise", (*ROBUST, "evaluation.robustness.noise=[0.1,0]")),
    ("robustness.images", (*ROBUST, "evaluation.robustness.images=[-2]")),
    ("robustness.images=5", (*ROBUST, "evaluation.robustness.images=5")),
    ("robustness.gap", (*ROBUST, "evaluation.robustness.gap=[0.5]")),
    ("robustness.puzzles=0", (*ROBUST, "evaluation.robustness.puzzles=0")),
    ("robustness.puzzles=7", (*ROBUST, "evaluation.robustness.puzzles=7")),
    ("evaluation.robustness", (*ROBUST, *NOTHING)),
)
"""What no training and no scoring accepts."""
TRAINED = (
    ("data.images_per_puzzle", (*WHOLE, "evaluation.clustering=true")),
    ("objective.normalize=true", (*MAE, "objective.normalize=true")),
    ("evaluation=reconstruction", ("evaluation=reconstruction", "model=supervised")),
    ("evaluation=generation", ("evaluation=generation", "model=supervised")),
)
"""What no training accepts."""
SCORED = (
    ("evaluation.puzzles=0", ("evaluation.puzzles=0",)),
    ("model=pca", ("model=pca",)),
    ("model.latent_dim=7", ("model.latent_dim=7",)),
    ("data.fragment_size", ("data.fragment_size=8",)),
    ("data.channels", ("data.channels=1",)),
)
"""What no scoring of a run accepts."""


def test_an_evaluation_that_is_refused_converts_no_data(tmp_path: Path, finished: Path) -> None:
    own = tmp_path / "cache"
    evaluate = ("mode=evaluate", f"run={finished}", f"data.cache_dir={own}")
    refused = [(key, (*SMALL, *given)) for key, given in (*CHOICES, *TRAINED)]
    refused += [(key, (*evaluate, *given)) for key, given in (*SCORED, CHOICES[0], CHOICES[-1])]
    for number, (key, given) in enumerate(refused):
        with pytest.raises(ConfigError, match=re.escape(key)):
            job(tmp_path / str(number), own, *given)
        assert status(tmp_path / str(number))["status"] == "failed"
    assert not own.exists()
