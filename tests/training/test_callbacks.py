"""Pictures while a model trains; checkpoints and the other callbacks are tested where what they do shows."""

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

from fragrecon.errors import ConfigError
from fragrecon.report.figures.monitoring import Embedded, PictureLogger, pictures_of
from fragrecon.run import compose
from fragrecon.training.callbacks import Pictures
from tests.training.test_learner import CONV, TINY, Trainable


class Shelf:
    """A logger that keeps what it is shown."""

    def __init__(self, pictures_every_n_epochs: int) -> None:
        self.pictures_every_n_epochs = pictures_every_n_epochs
        self.pictures: list[tuple[int, str, Tensor]] = []

    def show(self, name: str, picture: Tensor, step: int) -> None:
        self.pictures.append((step, name, picture))

    def show_embeddings(self, embedded: Embedded, step: int) -> None:
        raise AssertionError("not while it trains")


class Dice(Callback):
    """Notes the next random numbers, and whether the model trains, where an epoch ends."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        states = torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
        self.seen.append((*states, [module.training for module in pl_module.modules()]))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def trained(folder: Path, cache: Path, *callbacks: Callback, epochs: int = 3, stop: int | None = None) -> Trainable:
    class Stop(Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            trainer.should_stop = trainer.current_epoch == stop

    pl.seed_everything(0, verbose=False)
    given = Trainable(compose([*TINY, f"data.cache_dir={cache}", *CONV]))
    given.fit(
        pl.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            num_sanity_val_steps=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=[*callbacks, Stop()],
        )
    )
    return given


@pytest.mark.parametrize(
    ("every", "stop", "steps"),
    [(1, None, [3, 6, 9, 12, 15]), (2, None, [6, 12, 15]), (5, None, [15]), (9, 1, [6]), (2, 1, [6]), (0, None, [])],
)
def test_pictures_come_every_so_many_epochs_and_when_training_ends(
    every: int, stop: int | None, steps: list[int], tmp_path: Path, cache: Path
) -> None:
    shelf = Shelf(every)
    trained(tmp_path, cache, Pictures(shelf), epochs=5, stop=stop)
    assert [(step, name) for step, name, _ in shelf.pictures] == [
        (step, name) for step in steps for name in ("puzzle", "reconstructions", "samples")
    ]


def test_pictures_are_of_the_first_validation_puzzle_as_the_model_is_then(tmp_path: Path, cache: Path) -> None:
    shelf = Shelf(1)
    given = trained(tmp_path, cache, Pictures(shelf))
    batch = given.data.validation_set().read(slice(0, 1)).as_float()
    expected = pictures_of(given.model.eval(), batch, given.data.grid, given.protocol)
    for _, name, picture in shelf.pictures[-3:]:
        assert torch.equal(picture, expected[name])
    first, last = shelf.pictures[1][2], shelf.pictures[-2][2]
    assert not torch.equal(first, last)


def test_training_goes_on_as_without_pictures_whatever_a_view_draws(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fragrecon.models.conv import ConvAutoencoder

    def views(self: ConvAutoencoder, fragments: Tensor) -> dict[str, Tensor]:
        assert not self.training
        assert not torch.is_grad_enabled()
        np.random.rand()  # noqa: NPY002
        random.random()
        return {"noise": torch.rand(2, 3, 8, 8)}

    plain, dice = Dice(), Dice()
    without = trained(tmp_path, cache, plain)
    monkeypatch.setattr(ConvAutoencoder, "views", views, raising=False)
    shelf = Shelf(1)
    given = trained(tmp_path, cache, Pictures(shelf), dice)
    assert [name for _, name, _ in shelf.pictures] == ["puzzle", "reconstructions", "samples", "noise"] * 3
    for name, value in without.weights().items():
        assert torch.equal(value, given.weights()[name]), name
    assert dice.seen == plain.seen


def test_a_negative_number_of_epochs_is_refused() -> None:
    shelf = Shelf(-1)
    assert isinstance(shelf, PictureLogger)
    with pytest.raises(ConfigError, match="pictures_every_n_epochs=-1"):
        Pictures(shelf)
