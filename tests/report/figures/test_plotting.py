"""What plots share: colours, and curves over epochs."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.colors import to_rgb
from skimage.color import deltaE_ciede2000, rgb2lab

from fragrecon.report.figures.plotting import Points, colours, epochs_figure, save
from fragrecon.report.figures.training import curves_figure

MONITOR = "val_mean_clustering_score"
TRAINING: Points = [(0, 3), (1, 2), (2, 1)]
VALIDATION: Points = [(0, 4), (1, 3.5), (2, 3.7)]
SCORES: Points = [(0, 0.1), (1, 0.4), (2, 0.3)]
PANELS = {"loss": {"training": TRAINING, "validation": VALIDATION}, "score": {"validation": SCORES}}


@pytest.mark.parametrize("count", [2, 20, 24])
def test_colours_recur_after_twenty(count: int) -> None:
    found = np.array(colours(count))
    assert found.shape == (count, 3)
    assert 0 <= found.min() <= found.max() <= 1
    assert len(np.unique(found, axis=0)) == min(count, 20)


def as_dichromats_see(colours: npt.NDArray[np.float64], missing: str) -> npt.NDArray[np.float64]:
    """Simulated colours (n, 3), sRGB, by Vienot, Brettel and Mollon (Color Research and Application, 1999)."""
    to_lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    reduced = {
        "none": np.eye(3),
        "L": np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]]),
        "M": np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]]),
    }[missing]
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ (np.linalg.inv(to_lms) @ reduced @ to_lms).T, 0, 1)
    encoded: npt.NDArray[np.float64] = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    return encoded


def least_difference(colours: npt.NDArray[np.float64], missing: str) -> float:
    lab = rgb2lab(as_dichromats_see(colours, missing))
    first, second = (np.array(ends) for ends in zip(*itertools.combinations(lab, 2), strict=True))
    return float(deltaE_ciede2000(first, second).min())  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("missing", ["none", "L", "M"])
def test_colours_differ_for_colour_blind_readers(missing: str) -> None:
    # A difference of 2 is just noticeable side by side.
    assert least_difference(np.array(colours(20)), missing) > 10
    usual = np.array([to_rgb(f"C{number}") for number in range(10)])
    assert missing == "none" or least_difference(usual, missing) < 5  # the usual colours of Matplotlib would not do


def test_one_colour_is_one_and_none_is_none() -> None:
    assert (len(colours(1)), colours(0)) == (1, [])


def lines(axes: Any) -> list[list[tuple[float, float]]]:
    return [[(float(x), float(y)) for x, y in line.get_xydata()] for line in axes.lines]


def words(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_curves_are_named_and_the_selected_epoch_is_marked() -> None:
    figure = epochs_figure(PANELS, 1, "title")
    upper, lower = figure.axes
    assert lines(upper) == [TRAINING, VALIDATION, [(1, 0), (1, 1)], [(1, 3.5)]]
    assert lines(lower) == [SCORES, [(1, 0), (1, 1)], [(1, 0.4)]]
    assert words(upper) == ["training", "validation", "epoch 1 selected"]
    assert not words(lower)
    assert (upper.get_ylabel(), lower.get_ylabel(), lower.get_xlabel()) == ("loss", "score", "epoch")
    assert figure.get_suptitle() == "title"


def test_without_a_selected_epoch_there_are_only_curves() -> None:
    upper, lower = epochs_figure(PANELS, None).axes
    assert (lines(upper), lines(lower)) == ([TRAINING, VALIDATION], [SCORES])
    assert words(upper) == ["training", "validation"]


@pytest.mark.parametrize("ends", [(2.0, 1.0), (1.0, 2.0), (1.0, 1.0 + 1e-6), (1.0 + 1e-6, 1.0), (1.0, 1.0)])
def test_the_names_of_curves_do_not_overlap(ends: tuple[float, float]) -> None:
    panel = {name: [(0.0, 3.0), (1.0, end)] for name, end in zip(("training", "validation"), ends, strict=True)}
    figure = epochs_figure({"loss": panel}, 0)
    figure.draw_without_rendering()
    named = {text.get_text(): text.get_window_extent() for text in figure.axes[0].texts}
    train, validation = named["training"], named["validation"]
    assert not train.overlaps(validation) or ends[0] == ends[1]
    assert (train.y0 > validation.y0) == (ends[0] >= ends[1])
    for extent in named.values():
        assert 0 <= extent.x0 < extent.x1 <= figure.bbox.width
        assert 0 <= extent.y0 < extent.y1 <= figure.bbox.height


# Training -------------------------------------------------------------------------------------------------------------


def history(*rows: tuple[float | None, float | None, float | None]) -> list[dict[str, float]]:
    """Rows of ``metrics.csv``: training loss, validation loss and score, which may be missing."""
    names = ("train/loss", "val/loss", MONITOR)
    return [
        {"epoch": float(epoch), **{name: value for name, value in zip(names, row, strict=True) if value is not None}}
        for epoch, row in enumerate(rows)
    ]


HISTORY = history((3, 4, 0.1), (2, 3.5, 0.4), (1, 3.7, 0.3))


def test_losses_and_the_monitored_metric_have_a_panel_each() -> None:
    upper, lower = curves_figure(HISTORY, MONITOR, 1).axes
    assert lines(upper)[:2] == [TRAINING, VALIDATION]
    assert lines(lower)[0] == SCORES
    assert lower.get_ylabel() == "validation mean clustering score"
    (panel,) = curves_figure(HISTORY, "val/loss", 1).axes
    assert lines(panel) == [TRAINING, VALIDATION, [(1, 0), (1, 1)], [(1, 3.5)]]


def test_a_single_epoch_stands_in_the_middle() -> None:
    for axes in curves_figure(HISTORY[:1], MONITOR, 0).axes:
        assert axes.get_xlim() == (-0.5, 0.5)


@pytest.mark.parametrize(
    "epochs",
    [
        history((1, None, None), (0.5, None, None)),
        history((None, 2, 0.5), (1, 3, 0.7)),
        history((1, 1, 1), (1, None, None), (1, 1, 1)),
        history((None, None, None)),
        history((float("nan"), 1, 1), (float("nan"), 1, 1)),
    ],
)
def test_missing_values_are_left_out(tmp_path: Path, epochs: list[dict[str, float]]) -> None:
    figure = curves_figure(epochs, MONITOR, 0)
    for axes, name in zip(figure.axes, ("val/loss", MONITOR), strict=True):
        expected = [(row["epoch"], row[name]) for row in epochs if name in row]
        assert not expected or expected in lines(axes)
    save(figure, tmp_path / "curves.png")
