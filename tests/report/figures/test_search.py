"""Figures of a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from fragrecon.report.figures.search import draw, history_figure, importance_figure, parameters_figure
from fragrecon.runs.studies import Search, Trial

VALUES = [0.3, None, 0.1, 0.5, 0.2, 0.4]
PRUNED = [False, False, False, False, True, False]


def made(maximise: bool) -> Search:
    trials = [
        Trial(number, value, pruned, {"optimizer.lr": 10.0**-number, "model": "pca" if number % 2 else "conv"})
        for number, (value, pruned) in enumerate(zip(VALUES, PRUNED, strict=True))
    ]
    return Search(trials, maximise, {"optimizer.lr": 0.75, "model": 0.25})


@pytest.mark.parametrize(("maximise", "leading"), [(True, [0.3, 0.3, 0.5, 0.5]), (False, [0.3, 0.1, 0.1, 0.1])])
def test_the_history_has_all_trials_and_the_best_so_far(maximise: bool, leading: list[float]) -> None:
    (axes,) = history_figure(made(maximise)).axes
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_xydata(), list(zip([0, 2, 3, 5], leading, strict=True)))
    complete, pruned = (np.asarray(points.get_offsets()) for points in axes.collections)
    np.testing.assert_array_equal(complete, [(0, 0.3), (2, 0.1), (3, 0.5), (5, 0.4)])
    np.testing.assert_array_equal(pruned, [(4, 0.2)])


def test_a_parameter_is_a_panel_logarithmic_if_it_is_wide() -> None:
    rates, models = parameters_figure(made(True)).axes
    assert [axes.get_xlabel() for axes in (rates, models)] == ["optimizer.lr", "model"]
    assert [axes.get_xscale() for axes in (rates, models)] == ["log", "linear"]
    np.testing.assert_allclose(np.asarray(rates.collections[0].get_offsets())[:, 0], [1, 1e-2, 1e-3, 1e-5])
    assert [label.get_text() for label in models.get_xticklabels()] == ["conv", "pca"]


def test_importances_are_bars_with_the_largest_on_top() -> None:
    (axes,) = importance_figure({"a": 0.75, "b": 0.25}).axes
    assert [cast(Any, bar).get_width() for bar in axes.patches] == [0.75, 0.25]
    assert axes.yaxis_inverted()


def test_a_search_without_scores_has_no_figures(tmp_path: Path) -> None:
    draw(Search([Trial(0, None, False, {"a": 1})], True, {}), tmp_path)
    assert not list(tmp_path.iterdir())
    draw(made(True), tmp_path)
    names = ["search_history.png", "search_importance.png", "search_parameters.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
