"""Plots of numbers, looked at by what is drawn: points, bars and words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from matplotlib.text import Annotation

from fragrecon.evaluation.clustering.robustness import Condition, Outcome
from fragrecon.evaluation.statistics import Scores, summary
from fragrecon.report.figures.plotting import save
from fragrecon.report.figures.scores import AXES, robustness_figure, scores_figure
from fragrecon.report.metrics import label
from tests.report.figures.words import assert_words_apart

METHODS = ("random", "raw_pixels", "model")


def words(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def lines(axes: Any) -> list[list[tuple[float, float]]]:
    return [[(float(x), float(y)) for x, y in line.get_xydata()] for line in axes.lines]


# Scores ---------------------------------------------------------------------------------------------------------------


def strips(figure: Any) -> dict[str, Any]:
    """The bars of each method, by its name beside them, from the bottom up."""
    (axes,) = figure.axes
    names = [text.get_text() for text in axes.get_yticklabels()]
    return dict(zip(names, [patch.get_data() for patch in axes.patches], strict=True))


@pytest.mark.parametrize("puzzles", [1, 20, 1000])
def test_each_strip_has_the_shape_of_its_scores(puzzles: int) -> None:
    random = np.random.default_rng(0)
    scores = {
        "model": random.normal(0.6, 0.1, puzzles),
        "raw_pixels": random.normal(0.2, 0.05, puzzles),
        "random": random.normal(0, 0.01, puzzles),
    }
    found = strips(scores_figure(scores, "kmeans_ari", "Mosaic"))
    assert list(found) == ["random", "raw pixels", "Mosaic"]
    for place, (bars, method) in enumerate(zip(found.values(), ("random", "raw_pixels", "model"), strict=True)):
        heights = bars.values - place
        assert heights.max() == pytest.approx(0.8)
        for low, high, height in zip(bars.edges[:-1], bars.edges[1:], heights, strict=True):
            inside = (scores[method] >= low) & ((scores[method] < high) | (high == bars.edges[-1]))
            # As many to the tallest bar as to this one, in the same measure.
            tallest = max(np.histogram(scores[method], bars.edges)[0])
            assert height / 0.8 == pytest.approx(inside.sum() / tallest, abs=1e-9)


def test_methods_are_ordered_by_their_mean_which_stands_beside_them_with_how_often_the_model_wins() -> None:
    scores = {
        "model": np.array([0.5, 0.5, 0.5, 0.1]),
        "raw_pixels": np.array([0.4, 0.5, 0.2, 0.2]),
        "whitened_pca": np.array([0.9, 0.9, 0.9, 0.9]),
        "random": np.zeros(4),
    }
    figure = scores_figure(scores, "kmeans_ari", "Mosaic")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["random", "raw pixels", "Mosaic", "whitened PCA"]
    beside = [(text.get_text(), text.xy) for text in cast(list[Annotation], axes.texts) if text.get_text()]
    shares = {place[1]: text for text, place in beside if text.endswith("%")}
    means = {place[1]: text for text, place in beside if text.startswith("0.")}
    assert [means[y] for y in sorted(means)] == ["0.0000", "0.3250", "0.4000", "0.9000"]
    assert [shares[y] for y in sorted(shares)] == ["100%", "50%", "0%"]  # a draw is no win
    assert set(means) - set(shares) == {axes.get_yticks()[2]}
    assert [line[0][0] for line in lines(axes)] == pytest.approx([0, 0.325, 0.4, 0.9])
    assert axes.get_xlabel() == "KMeans ARI per puzzle (4 puzzles)"


def test_of_errors_the_least_is_best() -> None:
    scores = {
        "model": np.array([0.1, 0.2, 0.3]),
        "bilinear": np.array([0.2, 0.1, 0.4]),
        "linear_prediction": np.array([0.1, 0.1, 0.1]),
    }
    (axes,) = scores_figure(scores, "masked_mse", "MAE").axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["bilinear", "MAE", "linear prediction"]
    assert [word for word in words(axes) if word.endswith("%")] == ["67%", "0%"]
    assert axes.get_xlabel() == "masked MSE per puzzle (3 puzzles)"


def test_scores_that_are_all_alike_can_be_drawn(tmp_path: Path) -> None:
    figure = scores_figure({"random": np.ones(1), "model": np.ones(1)}, "kmeans_ari", "conv")
    assert figure.axes[0].get_xlabel().endswith("(1 puzzle)")
    save(figure, tmp_path / "scores.png")


def test_all_words_beside_the_strips_are_inside_of_the_picture_and_apart() -> None:
    methods = ("model", "random", "raw_pixels", "colour_histogram", "exact_pca", "whitened_pca")
    figure = scores_figure({m: np.linspace(0, n / 6, 9) for n, m in enumerate(methods)}, "kmeans_ari", "L" * 20)
    assert_words_apart(figure)


# Harder conditions ----------------------------------------------------------------------------------------------------


def scored(seed: int, methods: Sequence[str] = METHODS, puzzles: int = 6) -> dict[str, dict[str, Scores]]:
    random = np.random.default_rng(seed)
    return {method: {metric: random.random(puzzles) for metric in ("kmeans_ari", "mean_nmi")} for method in methods}


USUAL = scored(0, puzzles=9)
OUTCOMES = [
    Outcome(Condition("images", 2), scored(1), {}),
    Outcome(Condition("images", 10), scored(2), {}),
    Outcome(Condition("images", 100), {}, {"all": "too many"}),
    Outcome(Condition("fragment_size", 8), scored(3, METHODS[:-1]), {"model": "another size"}),
    Outcome(Condition("noise", 0.1), scored(4), {}),
    Outcome(Condition("noise", 0.2), scored(5), {}),
    Outcome(Condition("gap", 9), {}, {"all": "nothing is left"}),
]


def panels_of(figure: Any) -> dict[str, Any]:
    """Axes that are drawn in, by the name below."""
    return {axes.get_xlabel(): axes for axes in figure.axes if axes.axison}


def curves(axes: Any) -> dict[str, list[tuple[float, float]]]:
    return {bars.get_label(): [(float(x), float(y)) for x, y in bars.lines[0].get_xydata()] for bars in axes.containers}


def places(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_xticklabels()]


@pytest.mark.parametrize("metric", ["kmeans_ari", "mean_nmi"])
def test_each_kind_of_which_the_model_has_several_values_has_a_panel(metric: str) -> None:
    panels = panels_of(robustness_figure(OUTCOMES, USUAL, metric))
    assert list(panels) == [AXES[axis] for axis in ("images", "noise")]
    assert panels["images per puzzle"].get_ylabel() == label(metric)
    for axis, axes in zip(("images", "noise"), panels.values(), strict=True):
        found = curves(axes)
        assert found.keys() == {label(method) for method in METHODS}
        for method in METHODS:
            points = [
                (float(outcome.condition.value), float(outcome.scores[method][metric].mean()))
                for outcome in OUTCOMES
                if outcome.condition.axis == axis and method in outcome.scores
            ]
            if axis == "noise":  # which begins with no noise at all, on as many puzzles
                points.insert(0, (0.0, float(USUAL[method][metric][:6].mean())))
            assert found[label(method)] == points


def test_kinds_with_one_value_share_a_panel_beside_the_usual_condition() -> None:
    same = {method: {metric: own[:6] for metric, own in found.items()} for method, found in USUAL.items()}
    single = [Outcome(Condition(axis, 0.5), scored(seed), {}) for seed, axis in enumerate(("gap", "missing"), 7)]
    figure = robustness_figure([*OUTCOMES[:2], *single, Outcome(Condition("fragment_size", 16), same, {})], USUAL)
    _, axes = panels_of(figure).values()
    assert places(axes) == ["usual", "gap 0.5", "missing 0.5"]  # 16 pixels are the usual size
    for method in METHODS:
        means = [found[method]["kmeans_ari"][:6].mean() for found in (USUAL, *(outcome.scores for outcome in single))]
        at, found = zip(*curves(axes)[label(method)], strict=True)
        assert found == pytest.approx(means)
        assert np.round(at).tolist() == [0, 1, 2]
    (axes,) = panels_of(robustness_figure([OUTCOMES[3]], USUAL)).values()
    assert places(axes) == ["usual"]


def test_the_best_baselines_are_drawn_beside_the_model() -> None:
    usual = {f"method {n}": {"kmeans_ari": np.full(4, n / 10)} for n in (3, 1, 5, 2)} | {
        "model": {"kmeans_ari": np.zeros(4)}
    }
    figure = robustness_figure([Outcome(Condition("gap", value), usual, {}) for value in (1, 2)], usual)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["model", "method 5", "method 3"]


def test_images_without_compression_are_drawn_beside_the_best_quality() -> None:
    outcomes = [Outcome(Condition("jpeg_quality", quality), scored(quality), {}) for quality in (95, 75)]
    (axes,) = panels_of(robustness_figure(outcomes, USUAL)).values()
    assert axes.get_xlabel() == AXES["jpeg_quality"]
    means = [USUAL["model"]["kmeans_ari"][:6].mean(), *(o.scores["model"]["kmeans_ari"].mean() for o in outcomes)]
    (place, *qualities), found = zip(*curves(axes)["model"], strict=True)
    assert qualities == [95, 75]
    assert found == pytest.approx(means)
    assert place > 100
    assert dict(zip(axes.get_xticks().tolist(), places(axes), strict=True)) == {95: "95", 75: "75", place: "none"}


def test_intervals_are_drawn_around_the_means() -> None:
    (axes,) = panels_of(robustness_figure(OUTCOMES[4:6], USUAL)).values()
    drawn = {bars.get_label(): bars.lines[2][0].get_segments() for bars in axes.containers}
    for method in METHODS:
        _, *intervals = drawn[label(method)]
        for outcome, (low, high) in zip(OUTCOMES[4:6], intervals, strict=True):
            assert (low[0], high[0]) == (outcome.condition.value, outcome.condition.value)
            assert (low[1], high[1]) == pytest.approx(summary(outcome.scores[method]["kmeans_ari"])["ci95"])


def test_methods_differ_by_colour_marker_and_dash_and_look_alike_in_all_panels() -> None:
    figure = robustness_figure(OUTCOMES, USUAL)
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {label(method) for method in METHODS}
    looks: dict[str, set[Any]] = {}
    for axes in figure.axes:
        for bars in cast(list[Any], axes.containers):
            line = bars.lines[0]
            looks.setdefault(bars.get_label(), set()).add((line.get_color(), line.get_marker(), line.get_linestyle()))
    assert all(len(found) == 1 for found in looks.values())
    for part in zip(*(look for (look,) in looks.values()), strict=True):
        assert len(set(part)) == len(METHODS)


@pytest.mark.parametrize("values", [1, 2])
@pytest.mark.parametrize("axes", [1, 3, 4, 8])
def test_no_words_overlap_or_leave_the_picture(axes: int, values: int) -> None:
    methods = ("random", "raw_pixels", "colour_histogram", "exact_pca", "whitened_pca", "model")
    conditions = [Condition(name, 0.001 + value) for name in list(AXES)[:axes] for value in range(values)]
    outcomes = [Outcome(condition, scored(number, methods), {}) for number, condition in enumerate(conditions)]
    assert_words_apart(robustness_figure(outcomes, scored(1, methods)))


def test_axes_of_sizes_are_marked_at_their_values() -> None:
    axes = panels_of(robustness_figure(OUTCOMES, USUAL))["images per puzzle"]
    assert axes.get_xscale() == "log"
    assert places(axes) == ["2", "10"]
    assert axes.get_xticks().tolist() == [2, 10]
    assert not axes.get_xticks(minor=True).tolist()


def test_a_condition_on_a_single_puzzle_is_drawn_without_an_interval(tmp_path: Path) -> None:
    outcome = Outcome(Condition("gap", 1), scored(1, puzzles=1), {})
    figure = robustness_figure([outcome], scored(0, puzzles=1))
    (axes,) = panels_of(figure).values()
    assert curves(axes)["model"][1][1] == outcome.scores["model"]["kmeans_ari"][0]
    save(figure, tmp_path / "robustness.png")
