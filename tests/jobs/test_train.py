from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Timer
from PIL import Image

from fragrecon.errors import ConfigError, DataError, RunError, TrainingError
from fragrecon.models.base import Solver
from fragrecon.objectives.reconstruction import Reconstruction
from fragrecon.run import compose
from fragrecon.runs.read import load_run
from tests import layouts
from tests.cli import (
    SMALL,
    Cli,
    assert_same_run,
    assert_same_weights,
    best,
    checkpoint,
    fingerprint,
    job,
    metrics,
    names,
    rows,
    status,
    weights,
)

pytestmark = pytest.mark.timeout(180)
QUICK = (*SMALL, "model=pca", "data.batches_per_epoch=4")


def model_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of the best checkpoint, without the running statistics of normalisation, which move at any rate."""
    return {name: value.detach() for name, value in load_run(folder).load_model().named_parameters()}


@pytest.mark.parametrize("model", ["conv", "linear", "pca", "supervised", "siamese", "simclr", "mosaic"])
def test_every_model_trains_and_is_scored(tmp_path: Path, cache: Path, model: str) -> None:
    folder = tmp_path / "run"
    found = job(folder, cache, *SMALL, f"model={model}", "data.batches_per_epoch=8", "evaluation.puzzles=2")
    assert found == metrics(folder)
    assert status(folder)["status"] == "done"
    first, last = (float(row["train/loss"]) for row in rows(folder))
    assert last < first
    trained = load_run(folder).load_model()
    size = {"siamese": 256}.get(model, 128)
    assert trained.encode(torch.rand(1, 3, 3, 16, 16)).shape == (1, 3, size)


def test_a_job_on_images_compressed_as_they_are_cut_warns_once(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Training of both splits, and each later job of the one that it opens."""
    pictures = layouts.pictures(110).transpose(0, 2, 3, 1)
    for number, picture in enumerate(pictures):
        path = tmp_path / "images" / ("val" if number < 10 else "train") / "a" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    data = ["data=folder", f"data.root={tmp_path / 'images'}", "data.images_per_puzzle=2", "data.image_size=[64,64]"]
    read = [f"run={tmp_path / 'run'}"]
    for mode, line, counts in (
        ("run", [*SMALL[2:], *data, "model=pca", "data.epochs=1"], "10 of 10 test and 100 of 100 train"),
        ("evaluate", ["mode=evaluate", *read], "10 of 10 test"),
        ("draw", ["mode=draw", *read], "10 of 10 test"),
        ("embed", ["mode=embed", *read], "10 of 10 test"),
    ):
        caplog.clear()
        job(tmp_path / mode, cache, *line)
        assert [record.args for record in caplog.records if record.module == "module"] == [(counts, "folder")], mode
    caplog.clear()
    load_run(tmp_path / "run").evaluate()
    assert [record.args for record in caplog.records] == [("10 of 10 test", "folder")]


TINY = ("model=mosaic", "model.width=32", "model.depth=2", "model.heads=2", "model.latent_dim=16")
CORRUPTION = ("share=0.5", "gap=3", "noise=0.1", "jitter=0.3", "rotation=0.5")
ANY = (
    *SMALL,
    *TINY,
    "data.images_range=[2,20]",
    *(f"data.corruption.{kind}" for kind in CORRUPTION),
    "data.batches_per_epoch=6",
)


def test_a_model_of_corrupted_puzzles_of_any_size_trains_from_the_command_line(tmp_path: Path, cache: Path) -> None:
    Cli(tmp_path, cache).here(*ANY, "hydra.run.dir=run").ok()
    folder = tmp_path / "run"
    assert status(folder)["status"] == "done"
    assert [row["step"] for row in rows(folder)] == ["6", "12"]
    for row in rows(folder):
        for stage in ("train", "val"):
            loss, *parts = (float(row[f"{stage}/{name}"]) for name in ("loss", "contrast", "cells", "sides"))
            assert loss == pytest.approx(sum(parts), rel=1e-4)
            assert all(math.isfinite(part) and part > 0 for part in parts)
            assert all(0 <= float(row[f"{stage}/{name}_accuracy"]) <= 1 for name in ("cell", "side"))
    config = load_run(folder).config
    assert config.data.images_range == [2, 20]
    assert config.data.corruption is not None
    assert list(config.data.corruption.values()) == [0.5, 3.0, 0.1, 0.3, 0.5, 0.0, 0.0]
    found = metrics(folder)
    assert found["protocol"]["images_per_puzzle"] == 10, "what is scored is as usual"
    model = load_run(folder).load_model()
    assert isinstance(model, Solver)
    for count in (2, 9):
        assert model.solve(torch.rand(1, count, 3, 16, 16)).sides.shape == (1, count, 4, count + 1)
    job(tmp_path / "again", cache, *ANY)
    assert_same_run(folder, tmp_path / "again")


def test_validation_is_the_same_whatever_training_puzzles_are_like(tmp_path: Path, cache: Path) -> None:
    """Of a model that learns nothing, all figures of validation stay, and those of training do not."""
    still = (*ANY, "data.epochs=1", "optimizer.lr=0", "optimizer.weight_decay=0", "evaluation.puzzles=0")
    job(tmp_path / "any", cache, *still)
    job(tmp_path / "usual", cache, *still, "data.images_range=null", "data.corruption.share=0")
    (found,), (usual,) = (rows(tmp_path / name) for name in ("any", "usual"))
    for name in usual:
        if name.startswith("val"):
            assert found[name] == usual[name], name
    assert found["train/loss"] != usual["train/loss"]


TOO_MUCH: dict[str, tuple[str, ...]] = {
    "gap": ("data.corruption.gap=8",),
    "turned fragments that are not square": ("data.corruption.rotation=0.5", "data.fragment_size=[16,32]"),
}


@pytest.mark.parametrize("case", TOO_MUCH)
def test_corruption_that_fragments_cannot_bear_is_refused_before_training(
    tmp_path: Path, cache: Path, case: str
) -> None:
    with pytest.raises(ConfigError):
        job(tmp_path / "run", cache, *QUICK, "data.corruption.share=1", *TOO_MUCH[case])
    assert status(tmp_path / "run")["stage"] != "training"


def test_a_range_too_large_for_a_process_is_refused_before_they_are_started() -> None:
    from fragrecon.data.batches import check_share

    data = compose(["data.puzzles_per_batch=4", "data.images_range=[2,30]"]).data
    check_share(data, 1)
    with pytest.raises(ConfigError, match=r"data\.images_range"):
        check_share(data, 2)


@pytest.mark.parametrize(
    ("layout", "options"),
    [
        ("imagenet64", {"files": 2}),
        ("cifar10", {}),
        ("cifar100", {}),
        ("folder", {"classes": 3}),
        ("parquet", {"shards": 2}),
    ],
)
def test_every_layout_of_files_can_be_trained_on(
    tmp_path: Path, cache: Path, layout: str, options: dict[str, Any]
) -> None:
    if layout == "parquet":
        pytest.importorskip("pyarrow")
    source = tmp_path / "source"
    write: Callable[..., object] = getattr(layouts, layout)
    write(source, train=120, test=12, **options)
    before = fingerprint(source)
    small = [line for line in SMALL if "reader" not in line]
    folder = tmp_path / "run"
    job(folder, cache, *small, "data.images_per_puzzle=3", f"data={layout}", f"data.root={source}", "model=conv")
    found = metrics(folder)
    assert found["data"]["images"] == 12
    assert found["data"]["name"] == layout
    assert found["protocol"]["puzzles"] == 5
    assert fingerprint(source) == before


def test_the_same_command_twice_gives_bit_identical_weights_and_figures(
    tmp_path: Path, cache: Path, finished: Path
) -> None:
    job(tmp_path / "again", cache, *SMALL, "model=conv")
    assert_same_run(finished, tmp_path / "again")


def test_another_seed_gives_other_weights_but_the_same_puzzles_to_be_scored_on(
    tmp_path: Path, cache: Path, finished: Path
) -> None:
    job(tmp_path / "other", cache, *SMALL, "model=conv", "seed=1")
    assert not torch.equal(*(next(iter(weights(folder).values())) for folder in (finished, tmp_path / "other")))
    for baseline in ("random", "raw_pixels"):
        assert metrics(finished)["scores"][baseline] == metrics(tmp_path / "other")["scores"][baseline]


def test_init_from_starts_from_the_best_weights_of_the_other_run(tmp_path: Path, cache: Path, finished: Path) -> None:
    before = fingerprint(finished)
    folder = tmp_path / "run"
    still = ["optimizer.lr=0", "optimizer.weight_decay=0", "seed=5", "trainer.limit_train_batches=2"]
    job(folder, cache, *SMALL, "model=conv", f"init_from={finished}", *still)
    assert_same_weights(model_weights(folder), model_weights(finished))
    assert fingerprint(finished) == before
    assert load_run(folder).config.init_from == str(finished)


def test_init_from_a_model_of_another_size_is_refused(tmp_path: Path, cache: Path, finished: Path) -> None:
    with pytest.raises(RunError, match=r"do not fit ConvAutoencoder.*size mismatch"):
        job(tmp_path / "run", cache, *SMALL, "model=conv", "model.latent_dim=16", f"init_from={finished}")
    assert status(tmp_path / "run")["status"] == "failed"


def test_without_test_puzzles_the_test_split_stays_untouched(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fragrecon.data.module import FragmentData

    opened: list[str] = []
    real = FragmentData.store

    def store(self: FragmentData, split: Any) -> Any:
        opened.append(split)
        return real(self, split)

    monkeypatch.setattr(FragmentData, "store", store)
    assert job(tmp_path / "run", cache, *QUICK, "evaluation.puzzles=0") is None
    assert set(opened) == {"train"}
    assert status(tmp_path / "run")["status"] == "done"
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert len(rows(tmp_path / "run")) == 2


@pytest.mark.parametrize("model", ["conv", "linear"])
def test_grey_images_can_be_trained_on(tmp_path: Path, cache: Path, model: str) -> None:
    job(tmp_path / "run", cache, *SMALL, f"model={model}", "data.channels=1", "data.batches_per_epoch=4", figures=True)
    assert metrics(tmp_path / "run")["protocol"]["fragment_shape"] == [1, 16, 16]


def test_images_and_fragments_need_not_be_square(tmp_path: Path, cache: Path) -> None:
    sizes = ["data.image_size=[32,64]", "data.fragment_size=[16,8]"]
    job(tmp_path / "run", cache, *SMALL, "model=conv", "data.batches_per_epoch=4", *sizes, figures=True)
    protocol = metrics(tmp_path / "run")["protocol"]
    assert protocol["fragment_shape"] == [3, 16, 8]
    assert protocol["fragments_per_image"] == 16


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        (("trainer.max_epochs=8", "selection.patience=1", "selection.min_delta=1"), ["4", "8"]),
        (("trainer.limit_train_batches=3",), ["3", "6"]),
        (("trainer.fast_dev_run=true",), ["1"]),
    ],
    ids=["early stopping", "limit_train_batches", "fast_dev_run"],
)
def test_training_ends_where_it_is_to_end(
    tmp_path: Path, cache: Path, settings: tuple[str, ...], steps: list[str]
) -> None:
    job(tmp_path / "run", cache, *QUICK, *settings)
    assert [row["step"] for row in rows(tmp_path / "run")] == steps
    assert status(tmp_path / "run")["status"] == "done"


def test_training_can_be_selected_and_stopped_on_a_loss(tmp_path: Path, cache: Path) -> None:
    monitor = ["selection.monitor=val/loss", "selection.mode=min"]
    job(tmp_path / "run", cache, *QUICK, "data.epochs=3", *monitor)
    losses = [float(row["val/loss"]) for row in rows(tmp_path / "run")]
    assert best(tmp_path / "run").name == f"best-epoch={losses.index(min(losses))}-val_loss={min(losses):.4f}.ckpt"


def test_the_time_ends_training_at_the_lowest_rate_with_a_validation(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "run"
    timed = ["trainer.max_time=00:00:00:02", "scheduler=cosine", "scheduler.floor=0.1", "data.batches_per_epoch=100000"]
    job(folder, cache, *QUICK, *timed, "data.epochs=1000", "trainer.check_val_every_n_epoch=3")
    assert status(folder)["status"] == "done"
    (row,), last = rows(folder), checkpoint(folder)
    assert float(row["lr"]) == pytest.approx(1e-4, abs=5e-5)
    assert math.isfinite(float(row["val_mean_clustering_score"]))
    assert last["callbacks"]["TimeLimit"]["time_elapsed"]["train"] >= 2
    assert 0 < int(row["step"]) == last["global_step"] == checkpoint(folder, best(folder).name)["global_step"] < 100000


def test_a_run_whose_time_ended_goes_on_with_more_time(
    tmp_path: Path, cache: Path, seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes a tenth of a second on the clock of this test, and an epoch has four."""
    monkeypatch.setattr(Timer, "time_elapsed", lambda *_: len(seen) / 10)
    folder, limits = tmp_path / "run", ["evaluation.puzzles=0", "data.epochs=1000", "scheduler=cosine"]
    job(folder, cache, *QUICK, *limits, "trainer.max_time=00:00:00:01")
    assert seen == list(range(10))
    job(folder, cache, f"resume={folder}", "trainer.max_time=00:00:00:02")
    assert seen[10:] == list(range(12, 22))  # the third epoch, which the time ended, counts as one
    found = rows(folder)
    assert [row["epoch"] for row in found] == list("012345")
    assert [row["step"] for row in found] == ["4", "8", "10", "14", "18", "20"]
    assert all(math.isfinite(float(row["val_mean_clustering_score"])) for row in found)
    falling = [0.5e-3 * (1 + math.cos(math.pi * (share - 0.05) / 0.95)) for share in (0.4, 0.8, 1, 0.7, 0.9, 1)]
    assert [float(row["lr"]) for row in found] == pytest.approx(falling, rel=1e-3, abs=1e-9)


def test_the_epochs_end_training_before_the_time(tmp_path: Path, cache: Path) -> None:
    limits = [*QUICK, "scheduler=cosine", "evaluation.puzzles=0"]
    job(tmp_path / "plain", cache, *limits)
    job(tmp_path / "timed", cache, *limits, "trainer.max_time=30:00:00:00")
    assert_same_run(tmp_path / "plain", tmp_path / "timed")


def test_a_schedule_of_steps_is_refused_with_a_time(tmp_path: Path, cache: Path) -> None:
    line = ["scheduler._target_=torch.optim.lr_scheduler.OneCycleLR", "+scheduler.max_lr=0.01"]
    with pytest.raises(ConfigError, match=r"scheduler\._target_.*trainer\.max_time"):
        job(tmp_path / "run", cache, *QUICK, *line, "trainer.max_time=00:00:30:00")


def test_without_validation_the_last_weights_are_scored_and_nothing_else_is_kept(tmp_path: Path, cache: Path) -> None:
    job(tmp_path / "run", cache, *QUICK, "trainer.limit_val_batches=0")
    assert names(tmp_path / "run" / "checkpoints") == ["last.ckpt"]
    assert metrics(tmp_path / "run")["model"]["checkpoint"] == "last.ckpt"


def test_a_validation_part_smaller_than_a_puzzle_is_refused(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(DataError, match=r"a puzzle needs 10 images, but the validation split has \d"):
        job(tmp_path / "run", cache, *QUICK, "data.reader.train_images=50")


def test_a_setting_that_lightning_does_not_know_is_refused(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key trainer\.max_epoch; did you mean 'max_epochs'"):
        job(tmp_path / "run", cache, *QUICK, "+trainer.max_epoch=3")


@pytest.mark.parametrize("train_puzzles", [0, 2])
def test_a_rate_that_bursts_the_weights_ends_the_run_with_advice(
    tmp_path: Path, cache: Path, train_puzzles: int
) -> None:
    with pytest.raises(TrainingError, match="finite"):
        job(tmp_path / "run", cache, *QUICK, "optimizer.lr=1e30", f"evaluation.train_puzzles={train_puzzles}")
    noted = status(tmp_path / "run")
    assert noted["status"] == "failed"
    assert "finite" in noted["error"]


def test_a_step_that_overflows_ends_the_run_with_advice(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(TrainingError, match=r"optimizer\.lr"):
        job(tmp_path / "run", cache, *QUICK, "optimizer.lr=3e38")
    assert "optimizer.lr" in status(tmp_path / "run")["error"]


@pytest.mark.fault("NaN in the loss")
def test_a_nan_in_the_loss_leaves_good_checkpoints_behind(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Reconstruction.forward
    calls = 0

    def forward(self: Reconstruction, model: Any, batch: Any, generator: Any) -> Any:
        nonlocal calls
        losses = real(self, model, batch, generator)
        calls += model.training
        return {name: value * (math.nan if calls >= 6 else 1) for name, value in losses.items()}

    monkeypatch.setattr(Reconstruction, "forward", forward)
    folder = tmp_path / "run"
    with pytest.raises(TrainingError, match=r"epoch 1, step 5; .*optimizer\.lr"):
        job(folder, cache, *QUICK)
    assert status(folder)["status"] == "failed"
    assert checkpoint(folder)["global_step"] == 4
    for name in ("last.ckpt", best(folder).name):
        assert all(torch.isfinite(value).all() for value in weights(folder, name).values())
    monkeypatch.undo()
    job(tmp_path / "whole", cache, *QUICK)
    job(folder, cache, f"resume={folder}")
    assert_same_run(tmp_path / "whole", folder)


@pytest.mark.real
def test_the_main_job_runs_on_real_imagenet64(tmp_path: Path, cache: Path, real_data: Path) -> None:
    source = layouts.real(real_data, "imagenet64")
    short = ["data.batches_per_epoch=20", "data.epochs=1", "evaluation.puzzles=100", "evaluation.validation_puzzles=8"]
    line = [*short, "model=pca", "data=imagenet64", f"data.root={source}"]
    job(tmp_path / "run", cache, *line, f"data.cache_dir={tmp_path / 'stores'}")
    scores = metrics(tmp_path / "run")["scores"]
    assert abs(scores["random"]["kmeans_ari"]["mean"]) < 0.01
    assert 0.13 < scores["raw_pixels"]["kmeans_ari"]["mean"] < 0.18
    assert scores["model"]["kmeans_ari"]["mean"] > 0.1
    assert status(tmp_path / "run")["status"] == "done"
