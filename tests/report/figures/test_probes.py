"""Figures of classifiers, looked at by what is drawn: points, shades and words."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from fragrecon.evaluation.probes.base import FittedProbe, Predictions, Samples, Scaling
from fragrecon.evaluation.probes.network import Network
from fragrecon.evaluation.probes.scoring import ProbeResults
from fragrecon.report.figures import probes
from fragrecon.report.figures.plotting import save


def learned(*rows: tuple[float, float, float, float]) -> FittedProbe:
    """A network whose epochs went so: cross-entropy and accuracy in training, and in validation."""
    names = ("train_cross_entropy", "train_accuracy", "validation_cross_entropy", "validation_accuracy")
    trials = [{"epoch": float(epoch), **dict(zip(names, row, strict=True))} for epoch, row in enumerate(rows)]
    network = Network(Scaling(torch.zeros(2), torch.ones(2)), nn.Sequential(nn.Linear(2, 3)))
    return FittedProbe(network, trials, 1)


MLP = learned((2.0, 0.2, 2.1, 0.3), (1.5, 0.5, 1.9, 0.4), (1.0, 0.7, 2.2, 0.35))


def words(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def lines(axes: Any) -> list[list[tuple[float, float]]]:
    return [[(float(x), float(y)) for x, y in line.get_xydata()] for line in axes.lines]


def shares(labels: Tensor, found: Tensor, classes: list[str]) -> tuple[Any, npt.NDArray[np.float64]]:
    axes: Any = probes.confusion_figure(labels, found, classes, "MLP on a model").axes[0]
    return axes, np.ma.filled(axes.images[0].get_array(), np.nan) / 100


def names(count: int) -> list[str]:
    return [f"class {number}" for number in range(count)]


def file_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Curves ---------------------------------------------------------------------------------------------------------------


def test_cross_entropy_and_accuracy_are_drawn_over_the_epochs_and_the_chosen_one_is_marked() -> None:
    figure = probes.curves_figure(MLP, "MLP on a model")
    upper, lower = figure.axes
    assert [(0, 2.0), (1, 1.5), (2, 1.0)] in lines(upper)
    assert [(0, 2.1), (1, 1.9), (2, 2.2)] in lines(upper)
    assert [(0, 0.2), (1, 0.5), (2, 0.7)] in lines(lower)
    assert [(0, 0.3), (1, 0.4), (2, 0.35)] in lines(lower)
    assert [(1, 1.9)] in lines(upper)
    assert [(1, 0.4)] in lines(lower)
    assert words(upper) == ["training", "validation", "epoch 1 selected"]
    assert (upper.get_ylabel(), lower.get_ylabel(), lower.get_xlabel()) == ("cross-entropy, nats", "accuracy", "epoch")
    assert figure.get_suptitle() == "MLP on a model"


# Confusion ------------------------------------------------------------------------------------------------------------


def test_rows_are_shares_of_the_images_of_a_class() -> None:
    labels, found = torch.tensor([0, 0, 0, 0, 1, 1, 2]), torch.tensor([0, 0, 0, 1, 1, 2, 2])
    axes, table = shares(labels, found, ["cat", "dog", "ship"])
    np.testing.assert_allclose(table, [[0.75, 0.25, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]])
    told = {tuple(int(p) for p in text.get_position()): text.get_text() for text in axes.texts}
    assert told == {(0, 0): "75", (1, 0): "25", (1, 1): "50", (2, 1): "50", (2, 2): "100"}  # by column and row
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["cat", "dog", "ship"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["cat", "dog", "ship"]
    assert "accuracy 71.4% on 7 test images" in axes.get_title()


def test_a_class_without_images_has_an_empty_row() -> None:
    labels, found = torch.tensor([0, 0, 2]), torch.tensor([0, 1, 2])
    axes, table = shares(labels, found, names(3))
    assert np.isnan(table).tolist() == [[False] * 3, [True] * 3, [False] * 3]
    assert [int(text.get_position()[1]) for text in axes.texts] == [0, 0, 2]


@pytest.mark.parametrize("count", [2, 20, 21, 100, 250])
def test_any_number_of_classes_can_be_read(tmp_path: Path, count: int) -> None:
    random = torch.Generator().manual_seed(0)
    labels, found = (torch.randint(count, (1000,), generator=random) for _ in range(2))
    figure = probes.confusion_figure(labels, found, names(count), "MLP on MaskedAutoencoder, mean of 16 fragments")
    save(figure, tmp_path / "confusion.png")
    axes = figure.axes[0]
    assert bool(axes.texts) == (len(figure.axes) == 1) == (count <= 20)  # numbers, or a scale of shades
    ticks = [tick for tick in axes.get_yticklabels() if tick.get_text().startswith("class")]
    assert len(ticks) == (count if count <= 200 else 0)
    boxes = [tick.get_window_extent() for tick in sorted(ticks, key=lambda tick: float(tick.get_position()[1]))]
    assert all(upper.y0 >= lower.y1 - 1 for upper, lower in itertools.pairwise(boxes))
    assert all(box.x0 >= 0 and box.height >= 4 for box in boxes)
    title = axes.title.get_window_extent()
    assert title.x0 >= 0
    assert title.x1 <= figure.bbox.width


# All of them ----------------------------------------------------------------------------------------------------------


def probed(fitted: dict[str, FittedProbe]) -> ProbeResults:
    test = Samples(torch.zeros(4, 2), torch.tensor([0, 1, 2, 2]))
    predictions = {name: Predictions(torch.tensor([0, 1, 2, number])) for number, name in enumerate(fitted)}
    return ProbeResults({}, fitted, predictions, test, names(3))


def test_the_first_classifier_is_drawn_and_curves_of_an_mlp_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[list[int], str]] = []
    real = probes.confusion_figure

    def confusion(labels: Tensor, found: Tensor, *given: Any) -> Any:
        drawn.append((found.tolist(), given[-1]))
        return real(labels, found, *given)

    monkeypatch.setattr(probes, "confusion_figure", confusion)
    probes.draw(probed({"knn": MLP, "mlp": MLP}), "a model", tmp_path / "both")
    assert sorted(path.name for path in (tmp_path / "both").iterdir()) == [
        "probe_confusion.png",
        "probe_mlp_curves.png",
    ]
    probes.draw(probed({"linear": MLP}), "a model", tmp_path / "one")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["probe_confusion.png"]
    assert drawn == [([0, 1, 2, 0], "kNN on a model"), ([0, 1, 2, 0], "linear on a model")]
