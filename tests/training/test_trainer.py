"""What a user adds to a training run: callbacks, loggers, a profiler, a schedule of gradient accumulation."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import lightning.pytorch.callbacks
import numpy as np
import pytest
import yaml

from fragrecon.errors import ConfigError, RunError
from fragrecon.run import compose
from fragrecon.runs.read import load_run
from fragrecon.training.callbacks import REFUSED
from tests.cli import (
    SMALL,
    assert_same_run,
    assert_same_weights,
    best,
    job,
    metrics,
    names,
    rows,
    weights,
)

LINE = (*SMALL, "model=pca", "data.batches_per_epoch=5", "evaluation.puzzles=0", "evaluation.validation_puzzles=2")
OF_LIGHTNING = "lightning.pytorch.callbacks"
RATES = (f"+trainer.callbacks.rates._target_={OF_LIGHTNING}.LearningRateMonitor", "trainer.log_every_n_steps=1")
EACH = (
    f"+trainer.callbacks.each._target_={OF_LIGHTNING}.ModelCheckpoint",
    "+trainer.callbacks.each.save_top_k=-1",
    "+trainer.callbacks.each.filename='each-{epoch}'",
)


@pytest.fixture(scope="module")
def saving(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A run of three epochs with a callback of Lightning that saves a checkpoint after each."""
    folder = tmp_path_factory.mktemp("saving") / "run"
    job(folder, cache, *LINE, *EACH, "trainer.max_epochs=3", "evaluation.puzzles=2")
    return folder


def half_cosine(done: float, rate: float = 1e-3) -> float:
    return rate * (1 + math.cos(math.pi * done)) / 2


def test_a_callback_that_logs_is_a_column_of_metrics_csv(tmp_path: Path, cache: Path) -> None:
    job(tmp_path / "run", cache, *LINE, *RATES, "scheduler=cosine", "scheduler.warmup=0")
    found = [(float(row["lr-Adam"]), float(row["lr"])) for row in rows(tmp_path / "run")]
    # The rate of the last step of an epoch, and that of the step after it.
    np.testing.assert_allclose(found, [[half_cosine(0.4), half_cosine(0.5)], [half_cosine(0.9), 0]], atol=1e-12)
    assert load_run(tmp_path / "run").epochs[0]["lr-Adam"] == found[0][0]


def test_a_callback_does_not_change_training(tmp_path: Path, cache: Path, saving: Path) -> None:
    job(tmp_path / "plain", cache, *LINE, "trainer.max_epochs=3", "evaluation.puzzles=2")
    assert_same_run(tmp_path / "plain", saving)


def test_each_of_several_loggers_gets_all_values(tmp_path: Path, cache: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    job(tmp_path / "run", cache, *LINE, *RATES, "scheduler=cosine", "scheduler.warmup=0", "logger=[tensorboard,csv]")
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    shown = [event.value for event in events.Scalars("lr-Adam")]
    np.testing.assert_allclose(shown, [half_cosine(step / 10) for step in range(10)], rtol=1e-6)
    found = rows(tmp_path / "run")
    assert [float(row["lr-Adam"]) for row in found] == pytest.approx([shown[4], shown[9]])
    scores = [event.value for event in events.Scalars("val_mean_clustering_score")]
    assert scores == pytest.approx([float(row["val_mean_clustering_score"]) for row in found])


def test_loggers_and_callbacks_of_a_command_line_are_nodes_by_name() -> None:
    config = compose(["logger=[wandb,csv]", "logger.wandb.offline=true", *EACH])
    assert list(config.logger) == ["wandb", "csv"]
    assert config.logger["wandb"]["offline"] is True
    assert config.trainer.callbacks == {
        "each": {"_target_": f"{OF_LIGHTNING}.ModelCheckpoint", "save_top_k": -1, "filename": "each-{epoch}"}
    }
    assert compose(["logger=[]"]).logger == {}


@pytest.mark.parametrize("name", REFUSED)
def test_a_callback_that_cannot_be_had_is_refused_by_name(tmp_path: Path, cache: Path, name: str) -> None:
    assert hasattr(lightning.pytorch.callbacks, name)
    with pytest.raises(ConfigError, match=rf"trainer\.callbacks\.mine.*{name}"):
        job(tmp_path / "run", cache, *LINE, f"+trainer.callbacks.mine._target_={OF_LIGHTNING}.{name}")
    assert not names(tmp_path / "run", "*.ckpt")


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (("+trainer.callbacks.mine._target_=lightning.pytorch.loggers.CSVLogger", "+trainer.callbacks.mine.save_dir=a"),
         "trainer.callbacks.mine"),
        ((f"+logger.mine._target_={OF_LIGHTNING}.LearningRateMonitor",), "logger.mine"),
        ((f"+trainer.callbacks.mine._target_={OF_LIGHTNING}.LearningRateMonitr",), "LearningRateMonitr"),
        ((*RATES, "+trainer.callbacks.rates.log_momentums=true"), "trainer.callbacks.rates.log_momentums"),
        ((*RATES, "logger=[]"), "LearningRateMonitor"),  # it needs a logger
        ((*EACH, "+trainer.callbacks.two='${trainer.callbacks.each}'"), "ModelCheckpoint"),  # of equal state
    ],
)  # fmt: skip
def test_a_callback_or_logger_that_does_not_fit_is_an_error_of_the_config(
    tmp_path: Path, cache: Path, overrides: tuple[str, ...], key: str
) -> None:
    with pytest.raises(ConfigError, match=key):
        job(tmp_path / "run", cache, *LINE, *overrides)


@pytest.mark.parametrize(("name", "part"), [("simple", "run_training_batch"), ("advanced", "tottime")])
def test_a_profiler_prints(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, name: str, part: str
) -> None:
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "propagate", True)  # as on the command line
    job(tmp_path / "run", cache, *LINE, f"trainer.profiler={name}", "trainer.max_epochs=1")
    assert any(part in text for text in caplog.messages)


def test_gradients_accumulate_by_a_schedule(tmp_path: Path, cache: Path) -> None:
    given = ("trainer.accumulate_grad_batches={1: 3, 2: 5}", "trainer.max_epochs=4")
    job(tmp_path / "run", cache, *LINE, *given, "scheduler=cosine", "scheduler.warmup=0")
    found = rows(tmp_path / "run")
    assert [int(row["step"]) for row in found] == [5, 7, 8, 9]  # 5 of 1 batch, 2 of 3 and 2, 1 of 5
    assert [float(row["lr"]) for row in found] == pytest.approx([half_cosine(step / 9) for step in (5, 7, 8, 9)])


def test_a_schedule_of_one_number_is_that_number(tmp_path: Path, cache: Path) -> None:
    for name, value in (("number", "2"), ("schedule", "{0: 2}")):
        job(tmp_path / name, cache, *LINE, "scheduler=cosine", f"trainer.accumulate_grad_batches={value}")
    assert_same_run(tmp_path / "number", tmp_path / "schedule")


def test_a_development_run_is_short_to_its_end(tmp_path: Path, cache: Path) -> None:
    given = ("trainer.fast_dev_run=2", "evaluation.puzzles=1000", "evaluation.restarts=10", "logger=wandb", *RATES)
    job(tmp_path / "run", cache, *LINE, *given)
    found = metrics(tmp_path / "run")
    assert (found["protocol"]["puzzles"], found["protocol"]["restarts"]) == (4, 1)
    assert [int(row["step"]) for row in rows(tmp_path / "run")] == [2]
    assert not (tmp_path / "run" / "wandb").exists()
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["evaluation"]["puzzles"] == 4


# Which checkpoint -----------------------------------------------------------------------------------------------------


def test_a_run_opens_with_the_checkpoint_that_is_named(saving: Path) -> None:
    folder = saving / "checkpoints"
    last = weights(saving)
    assert_same_weights(last, weights(saving, "each-epoch=2.ckpt"))
    named = {"best": best(saving).name, "last": "last.ckpt", "each-epoch=0.ckpt": "each-epoch=0.ckpt"}
    for name, expected in (*named.items(), (str(folder / "each-epoch=1.ckpt"), "each-epoch=1.ckpt")):
        run = load_run(saving, checkpoint=name)
        assert run.checkpoint == folder / expected
        state = weights(saving, run.checkpoint.name)
        assert_same_weights(
            {f"model.{key}": value for key, value in run.model.state_dict().items()},
            {key: value for key, value in state.items() if key.startswith("model.")},
        )


@pytest.mark.parametrize("name", ["epoch-0.ckpt", "../config.yaml", "../../other/checkpoints/last.ckpt", "/tmp/x.ckpt"])
def test_a_checkpoint_elsewhere_or_unknown_is_refused(saving: Path, name: str) -> None:
    with pytest.raises(RunError, match=r"last\.ckpt"):  # one of those that can be named
        _ = load_run(saving, checkpoint=name).checkpoint


def test_a_mode_scores_or_embeds_with_the_checkpoint_that_is_named(tmp_path: Path, cache: Path, saving: Path) -> None:
    found: dict[str, Any] = {}
    for name in ("best", "last", "each-epoch=0.ckpt"):
        folder = tmp_path / name
        job(folder, cache, "mode=evaluate", f"run={saving}", f"checkpoint='{name}'")
        found[name] = metrics(folder)
        job(folder / "embed", cache, "mode=embed", f"run={saving}", f"checkpoint='{name}'")
    assert found["best"]["scores"] == metrics(saving)["scores"]
    assert [each["model"]["checkpoint"] for each in found.values()][1:] == ["last.ckpt", "each-epoch=0.ckpt"]
    assert found["each-epoch=0.ckpt"]["scores"]["model"] != found["last"]["scores"]["model"]
    embedded = {name: np.load(tmp_path / name / "embed" / "embeddings.npz")["embedding"] for name in found}
    assert not np.array_equal(embedded["each-epoch=0.ckpt"], embedded["last"])
    images = next(_reader(saving).blocks("test")).images[:4]
    expected = load_run(saving, checkpoint="each-epoch=0.ckpt").embed(images)
    np.testing.assert_allclose(embedded["each-epoch=0.ckpt"][:64], expected.reshape(64, -1), atol=1e-5)


def _reader(folder: Path) -> Any:
    from fragrecon.data.readers.synthetic import Synthetic

    config = load_run(folder).config.data
    return Synthetic(config.image_shape[1:], config.channels, train_images=300, test_images=60)
