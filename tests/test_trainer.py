"""The training job as a Python call."""

from __future__ import annotations

from pathlib import Path

import pytest

from fragrecon.errors import ConfigError, DataError, RunError
from fragrecon.runs.read import load_run
from fragrecon.trainer import FragmentAutoencoderTrainer
from tests import layouts

SMALL = ["data.batches_per_epoch=3", "evaluation.puzzles=3", "evaluation.validation_puzzles=2", "evaluation.restarts=1"]


@pytest.mark.slow
def test_it_trains_scores_and_leaves_a_record(tmp_path: Path) -> None:
    layouts.imagenet64(tmp_path / "data", train=300, test=30)
    trainer = FragmentAutoencoderTrainer(
        model_type="linear",
        data_path=tmp_path / "data",
        images_per_batch=5,
        batch_size=2,
        epochs=2,
        latent_dim=24,
        early_stopping_patience=7,
        folder=tmp_path / "run",
        overrides=[*SMALL, f"data.cache_dir={tmp_path / 'cache'}"],
    )
    metrics = trainer.train()
    assert metrics is not None
    run = load_run(trainer.folder)
    assert run.metrics == metrics
    assert run.status["status"] == "done"
    assert run.config.data.name == "imagenet64"
    assert (run.config.data.images_per_puzzle, run.config.data.puzzles_per_batch) == (5, 2)
    assert (run.config.selection.patience, run.config.max_epochs) == (7, 2)
    assert metrics["model"]["latent_dim"] == 24
    assert run.load_model().latent_dim == 24


def test_its_defaults_are_those_of_the_study() -> None:
    config = FragmentAutoencoderTrainer().config
    assert config.model["_target_"].endswith("ConvAutoencoder")
    assert config.model["latent_dim"] == 128
    assert config.data.root == str(Path("data").absolute())
    assert (config.data.images_per_puzzle, config.data.puzzles_per_batch) == (10, 8)
    assert (config.max_epochs, config.selection.patience) == (100, 15)


def test_a_value_that_cannot_be_meant_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="images_per_puzzle"):
        FragmentAutoencoderTrainer(images_per_batch=0)


def test_a_failure_is_noted_and_a_folder_is_not_used_twice(tmp_path: Path) -> None:
    trainer = FragmentAutoencoderTrainer(data_path=tmp_path / "nowhere", folder=tmp_path / "run")
    with pytest.raises(DataError, match="nowhere"):
        trainer.train()
    status = load_run(trainer.folder).status
    assert status["status"] == "failed"
    assert "nowhere" in status["error"]
    with pytest.raises(RunError, match="already holds a run"):
        trainer.train()
