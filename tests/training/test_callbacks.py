"""Pictures during training; test_checkpoints and test_learner test the other callbacks."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from fragrecon.report.figures.monitoring import LabelledEmbeddings, pictures_of
from fragrecon.run import compose
from fragrecon.training.callbacks import Pictures
from tests.training.test_learner import CONV, LINEAR, TINY, Trainable, quiet_trainer

VIEWS = ["puzzle", "reconstructions", "samples"]


class Shelf:
    """A logger that keeps what it is shown."""

    def __init__(self, pictures_every_n_epochs: int) -> None:
        self.pictures_every_n_epochs = pictures_every_n_epochs
        self.pictures: list[tuple[int, str, Tensor]] = []

    def show(self, name: str, picture: Tensor, step: int) -> None:
        self.pictures.append((step, name, picture))

    def show_embeddings(self, embedded: LabelledEmbeddings, step: int) -> None:
        raise AssertionError("not during training")


class Dice(Callback):
    """Keeps the state of all random generators, and of training mode, at the end of each epoch."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        states = torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
        self.seen.append((*states, [module.training for module in pl_module.modules()]))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def trained(
    folder: Path, cache: Path, *callbacks: Callback, model: tuple[str, ...] = CONV, epochs: int = 2, stop: int = -1
) -> Trainable:
    class Stop(Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            trainer.should_stop = trainer.current_epoch == stop

    pl.seed_everything(0, verbose=False)
    given = Trainable(compose([*TINY, f"data.cache_dir={cache}", *model]))
    limits = {"max_epochs": epochs, "limit_val_batches": 0}
    given.fit(quiet_trainer(folder, [*callbacks, Stop()], **limits, enable_checkpointing=False))
    return given


@pytest.mark.parametrize(
    ("every", "stop", "steps"),
    [(1, -1, [3, 6, 9]), (2, -1, [6, 9]), (3, -1, [9]), (9, 1, [6]), (2, 1, [6]), (0, -1, [])],
)
def test_pictures_are_shown_every_few_epochs_and_at_the_end_of_training(
    every: int, stop: int, steps: list[int], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fragrecon.training.callbacks.pictures_of", lambda *_: {"puzzle": torch.zeros(1)})
    shelf = Shelf(every)
    trained(tmp_path, cache, Pictures(shelf), model=LINEAR, epochs=3, stop=stop)
    assert [step for step, _, _ in shelf.pictures] == steps


def test_pictures_show_the_first_validation_puzzle_with_the_current_model(tmp_path: Path, cache: Path) -> None:
    shelf = Shelf(1)
    given = trained(tmp_path, cache, Pictures(shelf))
    batch = given.data.validation_set().read(slice(0, 1)).as_float()
    expected = pictures_of(given.model.eval(), batch, given.data.grid, given.learner.protocol)
    assert [(step, name) for step, name, _ in shelf.pictures] == [(step, name) for step in (3, 6) for name in VIEWS]
    for _, name, picture in shelf.pictures[-3:]:
        assert torch.equal(picture, expected[name])
    assert not torch.equal(shelf.pictures[1][2], shelf.pictures[-2][2])


def test_pictures_do_not_change_training_even_if_a_view_draws_random_numbers(tmp_path: Path, cache: Path) -> None:
    class Views(Callback):
        def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            def views(fragments: Tensor) -> dict[str, Tensor]:
                assert not model.training
                assert not torch.is_grad_enabled()
                np.random.rand()  # noqa: NPY002
                random.random()
                return {"noise": torch.rand(2, 3, 8, 8)}

            # Of this model alone: that its class has views would be remembered by later tests of the protocol.
            model: Any = pl_module.model
            model.views = views

    plain, dice = Dice(), Dice()
    without = trained(tmp_path, cache, plain)
    shelf = Shelf(1)
    given = trained(tmp_path, cache, Views(), Pictures(shelf), dice)
    assert [name for _, name, _ in shelf.pictures] == [*VIEWS, "noise"] * 2
    for name, value in without.weights().items():
        assert torch.equal(value, given.weights()[name]), name
    assert dice.seen == plain.seen
