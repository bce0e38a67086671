"""The training job as a Python call."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

from fragrecon.data.readers.datasets import Labelled
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


class Net(nn.Module):
    """A network of the user."""

    def __init__(self, fragment_shape: tuple[int, int, int], width: int = 9) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(fragment_shape), width))

    def forward(self, fragments: Tensor) -> Tensor:
        found: Tensor = self.layers(fragments)
        return found


@pytest.mark.slow
def test_it_trains_a_network_of_the_user_on_an_array(tmp_path: Path) -> None:
    images = layouts.pictures(260, (3, 32, 32)).transpose(0, 2, 3, 1)
    trainer = FragmentAutoencoderTrainer(
        Net,
        data=Labelled(images, np.arange(260) % 3),
        test_data=images[:20],
        images_per_batch=4,
        batch_size=2,
        epochs=1,
        folder=tmp_path / "run",
        overrides=[*SMALL, f"data.cache_dir={tmp_path / 'cache'}"],
    )
    metrics = trainer.train()
    assert metrics is not None
    assert metrics["data"]["images"] == 20
    assert metrics["model"]["latent_dim"] == 9
    run = load_run(tmp_path / "run")
    assert (run.model_name, run.config.data.image_size) == ("encoder", [32, 32])
    assert run.embed(images[:2].transpose(0, 3, 1, 2)).shape == (2, 4, 9)


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
