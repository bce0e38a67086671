"""Parts of the evaluation that the user writes, and their optimizer, schedule and logger."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from fragrecon.data.puzzles import FragmentBatch, cut
from fragrecon.errors import ConfigError
from fragrecon.evaluation.probes.base import Advance, FittedProbe, Predictions, Probe, Samples
from fragrecon.runs.read import load_run
from tests.cli import SMALL, job, metrics


class Norms:
    """A metric: the mean norm of embeddings, and for raw pixels the same from the batch."""

    def __init__(self, power: float = 1.0) -> None:
        self.power = power

    def score(self, embeddings: Tensor, batch: FragmentBatch) -> dict[str, Tensor]:
        return {"norm": embeddings.norm(dim=-1).pow(self.power).mean(1), "count_error": torch.zeros(len(batch))}


class Total:
    """A metric that returns one value for all puzzles."""

    def score(self, embeddings: Tensor, batch: FragmentBatch) -> dict[str, Tensor]:
        return {"norm": embeddings.norm()}


@dataclass(frozen=True)
class MostFrequent:
    """Predicts one class."""

    chosen: int

    def predict(self, embeddings: Tensor) -> Predictions:
        return Predictions(torch.full((len(embeddings),), self.chosen))


@dataclass(frozen=True)
class MostFrequentProbe(Probe):
    """Knows only how frequent the classes are, less a number of the first."""

    skip: int = 0
    tried: ClassVar[str] = "classes"

    def fit(self, train: Samples, validation: Samples, classes: int, advance: Advance) -> FittedProbe:
        counts = torch.bincount(train.labels, minlength=classes)
        counts[: self.skip] = 0
        advance(1)
        return FittedProbe(MostFrequent(int(counts.argmax())), [{"classes": float(classes)}], 0)


class Halving(LambdaLR):
    """Halves the rate after every step."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer, lambda step: 0.5**step)


class Descent(torch.optim.SGD):
    """Notes its rate."""

    rates: ClassVar[list[float]] = []

    def step(self, closure: Any = None) -> Any:
        self.rates.append(self.param_groups[0]["lr"])
        return super().step(closure)


class Notes(CSVLogger):
    """Lightning's own, in the folder of the run."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, name="notes", version="")


def test_metrics_and_probes_of_the_user_are_scored(tmp_path: Path, cache: Path) -> None:
    Descent.rates.clear()
    line = [
        *(*SMALL, "model=pca", "evaluation=probe", "evaluation.puzzles=5", "evaluation.probe.projections=[]"),
        f"+evaluation.own.size={{_target_: {__name__}.Norms, power: 2}}",
        f"evaluation.probe.classifiers=[linear,{{_target_: {__name__}.MostFrequentProbe, skip: 2}}]",
        *(f"optimizer._target_={__name__}.Descent", "optimizer.lr=0.01", f"scheduler._target_={__name__}.Halving"),
        f"+logger.notes._target_={__name__}.Notes",
        *("data.batches_per_epoch=3", "data.epochs=1", "evaluation.probe.epochs=1", "selection.monitor=val/loss"),
    ]
    job(tmp_path / "run", cache, *line, "selection.mode=min")
    scores = metrics(tmp_path / "run")["scores"]
    for method in ("model", "raw_pixels"):
        assert scores[method]["own_size_norm"]["n"] == 5
        assert scores[method]["own_size_count_error"]["mean"] == 0
        accuracy = scores[method]["probe_most_frequent_accuracy"]
        assert 0 <= accuracy["mean"] <= 1
        assert "probe_linear_accuracy" in scores[method]
    assert scores["raw_pixels"]["own_size_norm"]["mean"] > 1
    assert (tmp_path / "run" / "probes" / "most_frequent_classes.csv").is_file()
    assert Descent.rates == [0.01, 0.005, 0.0025]
    assert "train/loss" in (tmp_path / "run" / "notes" / "metrics.csv").read_text()


def test_a_network_of_timm_is_trained_scored_and_loaded(tmp_path: Path, cache: Path) -> None:
    timm = pytest.importorskip("timm", reason="the extra timm is not installed")
    line = ["model=timm", "model.name=resnet10t", "data.batches_per_epoch=2", "data.epochs=1", "data.fragment_size=32"]
    job(tmp_path / "run", cache, *SMALL, *line)
    assert metrics(tmp_path / "run")["model"]["latent_dim"] == timm.create_model("resnet10t").num_features
    run = load_run(tmp_path / "run")
    network = timm.create_model("resnet10t", num_classes=0).eval()
    network.load_state_dict(run.model.get_submodule("network").state_dict())
    images = torch.rand(2, *run.config.data.image_shape)
    fragments = cut(images[None], run.config.data.fragment_shape[1:])
    with torch.inference_mode():
        expected = network(fragments.flatten(0, 2)).unflatten(0, (2, -1))
    torch.testing.assert_close(torch.from_numpy(run.embed(images)), expected, rtol=1e-4, atol=1e-4)
    job(tmp_path / "again", cache, "mode=evaluate", f"run={tmp_path / 'run'}")
    assert metrics(tmp_path / "again")["scores"]["model"] == metrics(tmp_path / "run")["scores"]["model"]


def test_a_metric_without_a_score_for_each_puzzle_is_refused(tmp_path: Path, cache: Path) -> None:
    line = [*SMALL, "model=pca", "data.batches_per_epoch=1", "data.epochs=1", "evaluation.clustering=false"]
    line += ["selection.monitor=val/loss", "selection.mode=min"]
    with pytest.raises(ConfigError, match=r"^evaluation\.own\.all: .*'norm'"):
        job(tmp_path / "total", cache, *line, f"+evaluation.own.all={{_target_: {__name__}.Total}}")
    with pytest.raises(ConfigError, match=r"^evaluation\.own\.all\._target_=.*score"):
        job(tmp_path / "none", cache, *line, f"+evaluation.own.all={{_target_: {__name__}.MostFrequent}}")
    with pytest.raises(ConfigError, match=r"evaluation\.own"):
        job(tmp_path / "name", cache, *line, f"+evaluation.own.A-b={{_target_: {__name__}.Norms}}")
