from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import pytest
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from fragrecon.run import compose
from fragrecon.runs.checkpoints import load_checkpoint
from fragrecon.runs.write import Record
from fragrecon.training.averaging import TRAINED
from fragrecon.training.callbacks import training_callbacks
from tests.training.test_learner import CONV, TINY, Trainable, quiet_trainer

Weights = dict[str, npt.NDArray[Any]]
DECAY = 0.6
AVERAGED = f"trainer.ema={DECAY}"
EVERY_EPOCH: dict[str, Any] = {}
WITHIN_EPOCHS = {"val_check_interval": 2}
ACCUMULATED = {"accumulate_grad_batches": 2}


def copied(weights: dict[str, Tensor]) -> Weights:
    return {name: value.numpy().copy() for name, value in weights.items() if not name.startswith("means.")}


class Watch(Callback):
    """Keeps the weights before training, after each step and in each validation, by the number of steps."""

    def __init__(self) -> None:
        self.trained: dict[int, Weights] = {}
        self.validated: dict[int, Weights] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.trained[0] = copied(pl_module.state_dict())

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.trained.setdefault(trainer.global_step, copied(pl_module.state_dict()))

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.validated[trainer.global_step] = copied(pl_module.state_dict())

    def average(self, steps: int) -> Weights:
        """The average after some steps, in double precision, from the definition."""
        found = dict(self.trained[0])
        for step in range(steps):
            decay = min(DECAY, (1 + step) / (10 + step))
            for name, value in self.trained[step + 1].items():
                is_float = np.issubdtype(value.dtype, np.floating)
                found[name] = decay * found[name].astype(float) + (1 - decay) * value if is_float else value
        return found


def assert_close(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def assert_equal(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


Train = Callable[..., tuple[Watch, Trainable]]


@pytest.fixture
def train(tmp_path: Path, cache: Path) -> Train:
    return partial(trained, tmp_path, cache)


def trained(folder: Path, cache: Path, *overrides: str, **settings: Any) -> tuple[Watch, Trainable]:
    """Train as a job does; its checkpoints lie in the folder."""
    config, watch = compose([*TINY, *CONV, f"data.cache_dir={cache}", *overrides]), Watch()
    given = Trainable(config)
    callbacks = [*training_callbacks(config, Record(folder)), watch]
    given.fit(quiet_trainer(folder, callbacks, max_epochs=3, **settings))
    return watch, given


@pytest.mark.parametrize("settings", [EVERY_EPOCH, WITHIN_EPOCHS, ACCUMULATED, {"num_sanity_val_steps": 1}])
def test_validation_and_checkpoints_have_the_average(settings: dict[str, Any], train: Train, tmp_path: Path) -> None:
    watch, given = train(AVERAGED, **settings)
    steps = max(watch.trained)
    assert sorted(watch.trained) == list(range(steps + 1))
    for step, weights in watch.validated.items():
        assert_close(weights, watch.average(step))
    (path,) = (tmp_path / "checkpoints").glob("best-*.ckpt")
    best, last = load_checkpoint(path), load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert_equal(copied(best["state_dict"]), watch.validated[best["global_step"]])
    assert_close(copied(last["state_dict"]), watch.average(steps))
    assert_equal(copied(last[TRAINED]), watch.trained[steps])
    assert_equal(copied(given.learner.state_dict()), copied(last["state_dict"]))


def test_an_average_without_validation_is_in_the_last_checkpoint(train: Train, tmp_path: Path) -> None:
    watch, _ = train(AVERAGED, "trainer.limit_val_batches=0", limit_val_batches=0)
    last = load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert_close(copied(last["state_dict"]), watch.average(9))
    assert_equal(copied(last[TRAINED]), watch.trained[9])


@pytest.mark.parametrize("settings", [EVERY_EPOCH, WITHIN_EPOCHS])
def test_the_trained_weights_are_those_without_an_average(settings: dict[str, Any], train: Train) -> None:
    (plain, _), (averaged, _) = train(**settings), train(AVERAGED, **settings)
    assert plain.trained.keys() == averaged.trained.keys()
    for step, weights in plain.trained.items():
        assert_equal(averaged.trained[step], weights)
    for step, weights in plain.validated.items():
        assert any((value != averaged.validated[step][name]).any() for name, value in weights.items())
