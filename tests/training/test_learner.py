from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torchmetrics import MeanMetric

from fragrecon.config.schema import Config
from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import TrainingError
from fragrecon.evaluation.clustering.protocol import METRICS, ClusteringProtocol
from fragrecon.evaluation.setup import open_data, protocol_of
from fragrecon.models.base import Decoder, FragmentModel
from fragrecon.objectives.base import Losses, Objective
from fragrecon.objectives.reconstruction import Reconstruction
from fragrecon.run import compose
from fragrecon.runs.checkpoints import AtomicCheckpointIO
from fragrecon.runs.modules import Facts, build_model
from fragrecon.runs.write import Record
from fragrecon.training.callbacks import EarlyStop, FiniteGuard
from fragrecon.training.learner import SELECTION, Learner, Mean, logged_name

TINY = (
    "data.reader.train_images=160",
    "data.reader.test_images=4",
    "data.image_size=[32,32]",
    "data.images_per_puzzle=3",
    "data.puzzles_per_batch=4",
    "data.batches_per_epoch=3",
    "data.epochs=3",
    "evaluation.validation_puzzles=6",
    "evaluation.restarts=2",
    "evaluation.train_puzzles=0",
    "optimizer=adam",
    "optimizer.weight_decay=0",
)
LINEAR = ("model=linear", "model.hidden=[16]", "model.latent_dim=8", "model.dropout=0.5")
CONV = ("model=conv", "model.encoder_channels=[4,8]", "model.latent_dim=8")
Given = Callable[..., "Trainable"]


class Trainable:
    """A learner with the data it learns from."""

    def __init__(self, config: Config, objective: Objective | None = None) -> None:
        self.data = open_data(config)
        facts = Facts(config.data.fragment_shape, self.data.grid, 10)
        self.model, own = build_model(config, facts)
        self.learner = Learner(config, self.data, self.model, objective or own, facts)

    def fit(self, trainer: pl.Trainer, checkpoint: Path | None = None) -> None:
        trainer.fit(self.learner, self.data, ckpt_path=checkpoint)

    def weights(self) -> dict[str, Tensor]:
        return {key: value.clone() for key, value in self.model.state_dict().items()}

    def validation(self) -> FragmentBatch:
        """All validation puzzles as one batch."""
        fixed = self.data.validation_set()
        return fixed.read(slice(0, len(fixed))).as_float()


def quiet_trainer(folder: Path, callbacks: Sequence[Callback] = (), **settings: Any) -> pl.Trainer:
    """A trainer on the CPU, which logs and shows nothing."""
    usual: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    usual |= {"accelerator": "cpu", "num_sanity_val_steps": 0, "default_root_dir": folder}
    return pl.Trainer(callbacks=list(callbacks), plugins=[AtomicCheckpointIO()], **usual | settings)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def given(cache: Path) -> Given:
    def make(*overrides: str, objective: Objective | None = None, scored_batches: int = 0) -> Trainable:
        line = [*TINY, f"data.cache_dir={cache}", f"evaluation.train_puzzles={4 * scored_batches}", *overrides]
        return Trainable(compose(line), objective)

    return make


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., pl.Trainer]:
    return partial(quiet_trainer, tmp_path, devices=1, enable_checkpointing=False)


def silence(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let steps be called without a trainer."""
    monkeypatch.setattr(learner, "log", lambda *_, **__: None)


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


# Steps ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [CONV, LINEAR, ("model=pca",), ("model=supervised",)], ids=lambda m: m[0])
def test_one_step_changes_every_parameter(
    model: tuple[str, ...], given: Given, trainer: Callable[..., pl.Trainer]
) -> None:
    trainable = given(*model)
    before = trainable.weights()
    trainable.fit(trainer(max_steps=1, limit_val_batches=0))
    for name, parameter in trainable.model.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_steps_lower_the_loss(given: Given, trainer: Callable[..., pl.Trainer]) -> None:
    trainable = given(*CONV, "optimizer.lr=0.01")
    fresh, batch = given(*CONV), trainable.validation()
    trainable.fit(trainer(max_steps=24, max_epochs=8, limit_val_batches=0))
    before, after = (
        t.learner.objective(t.model.eval(), batch, torch.Generator())["loss"].item() for t in (fresh, trainable)
    )
    assert after < 0.6 * before


def test_a_seed_gives_the_same_training_again_and_another_does_not(
    given: Given, trainer: Callable[..., pl.Trainer]
) -> None:
    results = []
    for seed, disturbance in ((3, 1), (3, 2), (4, 1)):
        trainable = given(*LINEAR, f"seed={seed}")
        torch.manual_seed(disturbance)
        trainable.fit(trainer(max_steps=3, limit_val_batches=0))
        results.append(trainable.weights())
    assert_same(results[0], results[1])
    assert not torch.equal(results[0]["encoder.0.weight"], results[2]["encoder.0.weight"])


def test_dropout_depends_on_seed_and_step_and_not_on_what_ran_before(
    given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(seed: int, step: int, disturbance: int) -> float:
        trainable = given(*LINEAR, f"seed={seed}")
        trainable.model.train()
        trainable.model.load_state_dict(start)
        silence(trainable.learner, monkeypatch)
        torch.manual_seed(disturbance)
        torch.rand(disturbance)
        batch = trainable.validation()
        batch.step = step
        return trainable.learner.training_step(batch, 0).item()

    start = given(*LINEAR).weights()
    assert loss(seed=1, step=5, disturbance=1) == loss(seed=1, step=5, disturbance=2)
    assert loss(seed=1, step=5, disturbance=1) != loss(seed=1, step=6, disturbance=1)
    assert loss(seed=1, step=5, disturbance=1) != loss(seed=2, step=5, disturbance=1)


def test_the_objective_gets_a_generator_keyed_on_stage_and_step(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[tuple[str, int, int], float] = {}

    class Noisy(Objective):
        def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
            return {"loss": torch.rand((), generator=generator)}

    for seed in (0, 1):
        trainable = given(*LINEAR, f"seed={seed}", objective=Noisy())
        silence(trainable.learner, monkeypatch)
        batch = trainable.validation()
        for batch.step in (0, 1):
            drawn["train", seed, batch.step] = trainable.learner.training_step(batch, 0).item()
            assert trainable.learner.training_step(batch, 0).item() == drawn["train", seed, batch.step]
            trainable.learner._reset_means("val")
            trainable.learner.validation_step(batch, 0)
            mean = cast(MeanMetric, trainable.learner.means["val/loss"])
            drawn["val", seed, batch.step] = mean.compute().item()
    assert len(set(drawn.values())) == 8


# Figures -------------------------------------------------------------------------------------------------------------


def test_the_selection_metric_has_a_name_of_its_own() -> None:
    assert SELECTION == "val_mean_clustering_score"
    assert logged_name("val", "mean_clustering_score") == SELECTION
    assert logged_name("train", "mean_clustering_score") == "train/mean_clustering_score"
    assert logged_name("val", "loss") == "val/loss"


@pytest.mark.parametrize(("model", "parts"), [("pca", {"loss", "psnr"}), ("supervised", {"loss", "accuracy"})])
def test_validation_logs_every_metric_by_its_name(
    model: str, parts: set[str], given: Given, trainer: Callable[..., pl.Trainer]
) -> None:
    trainable, runner = given(f"model={model}"), trainer()
    runner.validate(trainable.learner, trainable.data, verbose=False)
    others = {f"val/{metric}" for metric in METRICS if metric != "mean_clustering_score"}
    assert set(runner.callback_metrics) == {"val_mean_clustering_score"} | others | {f"val/{part}" for part in parts}


def test_means_weight_a_short_last_batch_by_its_puzzles(given: Given, trainer: Callable[..., pl.Trainer]) -> None:
    trainable, runner = given(*CONV), trainer()
    runner.validate(trainable.learner, trainable.data, verbose=False)
    puzzles, model = trainable.validation(), trainable.model.eval()
    assert len(puzzles) == 6  # in batches of 4 and 2
    assert isinstance(model, Decoder)
    with torch.no_grad():
        decoded = model.decode(model.encode(puzzles.fragments))
        errors = F.mse_loss(decoded, puzzles.fragments, reduction="none").flatten(1).mean(1)
        scores = protocol_of(trainable.learner.config).score(model.encode(puzzles.fragments), puzzles)
    found = runner.callback_metrics
    by_batch = (errors[:4].mean() + errors[4:].mean()) / 2
    assert abs(by_batch - errors.mean()).item() > 1e-4 * errors.mean().item()
    assert found["val/loss"].item() == pytest.approx(errors.mean().item(), rel=1e-6)
    for metric in METRICS:
        assert found[logged_name("val", metric)].item() == pytest.approx(scores[metric].mean().item(), abs=1e-6)


def test_an_empty_batch_adds_nothing_to_the_means(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    trainable = given(*CONV)
    silence(trainable.learner, monkeypatch)
    learner, fixed = trainable.learner.eval(), trainable.data.validation_set()
    results = []
    for parts in ([slice(0, 6)], [slice(0, 6), slice(6, 6)]):
        learner._reset_means("val")
        for part in parts:
            learner.validation_step(fixed.read(part).as_float(), 0)
        results.append(
            {name: cast(MeanMetric, mean).compute().item() for name, mean in learner.means.items() if "val" in name}
        )
    assert results[0] == results[1]


class Figures(pl.Callback):
    """Keeps the training figures of each epoch."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Learner)
        self.epochs.append(pl_module.training_means())


def test_the_first_training_batches_are_scored(
    given: Given, trainer: Callable[..., pl.Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    score = ClusteringProtocol.score

    def watched(self: ClusteringProtocol, embeddings: Tensor, batch: FragmentBatch) -> dict[str, Tensor]:
        seen.append(batch.step)
        return score(self, embeddings, batch)

    monkeypatch.setattr(ClusteringProtocol, "score", watched)
    scores = {f"train/{metric}" for metric in METRICS}
    parts = {"train/loss", "train/psnr"}
    for scored, steps, names in ((0, [], parts), (2, [0, 1, 3, 4], parts | scores)):
        seen.clear()
        figures = Figures()
        given(*CONV, scored_batches=scored).fit(trainer(max_epochs=2, limit_val_batches=0, callbacks=[figures]))
        assert seen == steps
        assert [set(epoch) for epoch in figures.epochs] == [names, names]


def test_the_mean_of_an_epoch_is_that_of_its_own_batches(given: Given, trainer: Callable[..., pl.Trainer]) -> None:
    class Step(Objective):
        def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
            loss = model.encode(batch.fragments).sum() * 0 + batch.step
            return {"loss": loss}

    figures = Figures()
    given(*LINEAR, objective=Step()).fit(trainer(max_epochs=3, limit_val_batches=0, callbacks=[figures]))
    assert [epoch["train/loss"] for epoch in figures.epochs] == pytest.approx([1, 4, 7])


def test_a_mean_equals_that_of_torchmetrics() -> None:
    own, expected = Mean(), MeanMetric()
    for number, weight in enumerate((3, 1, 7)):
        values = torch.randn(number or (), generator=torch.Generator().manual_seed(number), dtype=torch.bfloat16)
        own.update(values, weight)
        expected.update(values, weight)
    assert torch.equal(own.compute(), expected.compute())


def test_a_mean_includes_nan(given: Given, trainer: Callable[..., pl.Trainer]) -> None:
    class Lost(Reconstruction):
        def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
            loss = super().forward(model, batch, generator)["loss"]
            return {"loss": loss * float("nan") if batch.step else loss}

    trainable, runner = given(*LINEAR, objective=Lost()), trainer()
    runner.validate(trainable.learner, trainable.data, verbose=False)
    assert runner.callback_metrics["val/loss"].isnan()


# Validation changes nothing ------------------------------------------------------------------------------------------


def test_validation_leaves_weights_and_running_means_alone(given: Given, trainer: Callable[..., pl.Trainer]) -> None:
    trainable = given(*CONV)
    assert any("running_mean" in key for key in trainable.weights())
    before = trainable.weights()
    trainer().validate(trainable.learner, trainable.data, verbose=False)
    assert_same(trainable.weights(), before)


def test_scoring_during_training_does_not_change_it(given: Given, trainer: Callable[..., pl.Trainer]) -> None:
    results = []
    for scored, validated in ((0, 0), (3, 0), (0, 1.0)):
        trainable = given(*CONV, scored_batches=scored)
        trainable.fit(trainer(max_epochs=2, limit_val_batches=validated))
        results.append(trainable.weights())
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


def test_scoring_ends_in_training_mode(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    trainable = given(*CONV, scored_batches=1)
    silence(trainable.learner, monkeypatch)
    trainable.model.train()
    before, batch = trainable.weights(), trainable.validation()
    trainable.learner.on_train_batch_end(None, batch, 0)
    assert all(module.training for module in trainable.model.modules())
    assert_same(trainable.weights(), before)


# Guards and schedules ------------------------------------------------------------------------------------------------


class Broken(Reconstruction):
    """A loss or gradient that is not finite at training batch 2."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
        loss = super().forward(model, batch, generator)["loss"]
        if batch.step < 2:
            return {"loss": loss}
        if self.how == "finite loss, infinite gradient":
            return {"loss": loss + (loss - loss.detach()).sqrt()}
        return {"loss": loss * float(self.how)}


class Snapshots(pl.Callback):
    """Keeps the weights from the start of the latest batch."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.weights: dict[str, Tensor] = {}

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, Learner)
        self.steps.append(trainer.global_step)
        self.weights = {key: value.clone() for key, value in pl_module.model.state_dict().items()}


@pytest.mark.parametrize("how", ["nan", "inf", "-inf", "finite loss, infinite gradient"])
@pytest.mark.fault("NaN in training, with and without an earlier checkpoint")
def test_numbers_that_are_not_finite_stop_training_before_they_reach_the_weights(
    how: str, given: Given, trainer: Callable[..., pl.Trainer], tmp_path: Path
) -> None:
    trainable, snapshots = given(*LINEAR, objective=Broken(how)), Snapshots()
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    if how != "nan":
        last.parent.mkdir(parents=True)
        last.touch()
    guard = FiniteGuard(Record(tmp_path / "run"))
    with pytest.raises(TrainingError, match=r"epoch 0, step 2;.*optimizer\.lr") as stop:
        trainable.fit(trainer(max_epochs=1, limit_val_batches=0, callbacks=[guard, snapshots]))
    assert (str(last) in str(stop.value)) == (how != "nan")
    assert snapshots.steps == [0, 1, 2]
    assert_same(trainable.weights(), snapshots.weights)
    assert all(value.isfinite().all() for value in trainable.weights().values())
    unguarded = given(*LINEAR, objective=Broken(how))
    unguarded.fit(trainer(max_epochs=1, limit_val_batches=0))
    assert not all(value.isfinite().all() for value in unguarded.weights().values())


class Worse(Reconstruction):
    """A validation loss that never improves."""

    def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
        loss = super().forward(model, batch, generator)["loss"]
        return {"loss": loss if model.training else loss * 0 + 1}


@pytest.mark.parametrize(("patience", "stays"), [(1, True), (5, False)])
def test_a_run_that_stopped_early_stops_again_when_resumed(
    patience: int, stays: bool, given: Given, trainer: Callable[..., pl.Trainer], tmp_path: Path
) -> None:
    def stop() -> EarlyStop:
        return EarlyStop("val/loss", mode="min", patience=patience)

    first = trainer(max_epochs=3, callbacks=[stop()])
    given(*LINEAR, objective=Worse()).fit(first)
    assert first.current_epoch == (2 if stays else 3)
    first.save_checkpoint(tmp_path / "last.ckpt")

    again, trainable = trainer(max_epochs=5, callbacks=[stop()]), given(*LINEAR, objective=Worse())
    trainable.fit(again, tmp_path / "last.ckpt")
    assert again.global_step == (first.global_step if stays else 15)
    if stays:
        saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
        assert_same(
            {f"model.{key}": value for key, value in trainable.weights().items()},
            {key: value for key, value in saved.items() if key.startswith("model.")},
        )


def test_a_schedule_by_plateau_is_stepped_once_a_validation(given: Given, trainer: Callable[..., pl.Trainer]) -> None:
    rates = []

    class Watch(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    given(
        *LINEAR,
        "scheduler=plateau",
        "scheduler.patience=0",
        "optimizer.lr=0.001",
        "selection.monitor=val/loss",
        objective=Worse(),
    ).fit(trainer(max_epochs=4, callbacks=[Watch()]))
    assert rates == pytest.approx([0.001, 0.001, 0.0005, 0.00025])


def test_a_schedule_by_steps_is_stepped_with_each(given: Given, trainer: Callable[..., pl.Trainer]) -> None:
    rates = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    trainable = given(*LINEAR, "scheduler=cosine", "scheduler.warmup=0", "optimizer.lr=1e-3")
    trainable.fit(trainer(max_epochs=3, limit_val_batches=0, callbacks=[Watch()]))
    expected = [1e-3 * (1 + torch.cos(torch.tensor(torch.pi * step / 9)).item()) / 2 for step in range(9)]
    assert rates == pytest.approx(expected, abs=1e-9)


def test_frozen_parameters_are_not_in_the_optimizer(given: Given) -> None:
    trainable = given(*LINEAR)
    frozen = next(trainable.model.parameters()).requires_grad_(False)
    optimizer = trainable.learner.configure_optimizers()
    inside = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(inside) == len(list(trainable.model.parameters())) - 1
    assert all(parameter is not frozen for parameter in inside)
