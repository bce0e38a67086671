"""The picture of a puzzle, looked at by its pixels, and the curves of harder conditions, by their points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fragrecon.data.puzzles import FragmentBatch, make_batch
from fragrecon.evaluation.robustness import Condition, Outcome
from fragrecon.evaluation.statistics import Scores, summary
from fragrecon.report import figures
from fragrecon.report.labels import label

METHODS = ("random", "raw_pixels", "model")


def puzzle(images: int, channels: int = 3) -> FragmentBatch:
    """Images of one plain colour each, cut into 2x2 and shuffled."""
    levels = torch.linspace(20, 235, images).to(torch.uint8)
    pixels = levels.view(1, images, 1, 1, 1).expand(1, images, channels, 8, 8).contiguous()
    order = torch.randperm(images * 4, generator=torch.Generator().manual_seed(0)).unsqueeze(0)
    ids = torch.arange(images).unsqueeze(0)
    return make_batch(pixels, torch.zeros_like(ids), ids, order, (4, 4))


@pytest.mark.parametrize("channels", [1, 3])
def test_each_panel_shows_every_fragment_in_its_colour(tmp_path: Path, channels: int) -> None:
    batch = puzzle(5, channels)
    figure = figures.puzzle_figure(batch, batch.source_ids, (2, 2), "perfect")
    figures.save(figure, tmp_path / "puzzle.png")
    shown = np.asarray(Image.open(tmp_path / "puzzle.png").convert("L"))
    for level in np.linspace(20, 235, 5).astype(np.uint8):
        assert (np.abs(shown.astype(int) - int(level)) <= 1).sum() > 500


def test_a_perfect_grouping_marks_no_fragment_and_a_wrong_one_marks_the_strangers() -> None:
    batch = puzzle(4)
    perfect = figures.puzzle_figure(batch, batch.source_ids, (2, 2), "perfect")
    one_wrong = batch.source_ids.clone()
    stranger = int(torch.nonzero(one_wrong[0] == 1)[0])
    one_wrong[0, stranger] = 2
    wrong = figures.puzzle_figure(batch, one_wrong, (2, 2), "one wrong")
    boxed = [[text.get_text() for text in f.axes[2].texts if text.get_bbox_patch()] for f in (perfect, wrong)]
    assert boxed == [[], ["B"]]


def test_more_or_fewer_groups_than_images_can_be_drawn(tmp_path: Path) -> None:
    batch = puzzle(30)
    for groups in (torch.zeros_like(batch.source_ids), torch.arange(120).unsqueeze(0) % 30):
        figures.save(figures.puzzle_figure(batch, groups, (2, 2), "odd"), tmp_path / "puzzle.png")
        with Image.open(tmp_path / "puzzle.png") as picture:
            assert min(picture.size) > 100


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
    return {line.get_label(): [(float(x), float(y)) for x, y in line.get_xydata()] for line in axes.lines}


@pytest.mark.parametrize("metric", ["kmeans_ari", "mean_nmi"])
def test_each_axis_has_a_panel_with_the_means_of_every_method(metric: str) -> None:
    panels = panels_of(figures.robustness_figure(OUTCOMES, USUAL, metric))
    assert list(panels) == [figures.AXES[axis] for axis in ("images", "fragment_size", "noise", "gap")]
    assert panels["images a puzzle"].get_ylabel() == label(metric)
    for axis in ("images", "fragment_size", "noise"):
        found = curves(panels[figures.AXES[axis]])
        expected: dict[str, list[tuple[float, float]]] = {}
        for method in METHODS:
            points = [
                (float(outcome.condition.value), float(outcome.scores[method][metric].mean()))
                for outcome in OUTCOMES
                if outcome.condition.axis == axis and method in outcome.scores
            ]
            if axis == "noise":  # which begins with no noise at all, on as many puzzles
                points.insert(0, (0.0, float(USUAL[method][metric][:6].mean())))
            if points:
                expected[label(method)] = points
        assert found == expected
    assert curves(panels[figures.AXES["gap"]]) == {}


def test_intervals_are_drawn_around_the_means() -> None:
    (axes,) = panels_of(figures.robustness_figure(OUTCOMES[4:6], USUAL)).values()
    assert len(axes.collections) == len(METHODS)
    for band, method in zip(axes.collections, METHODS, strict=True):
        (path,) = band.get_paths()
        corners = {(round(float(x), 9), round(float(y), 9)) for x, y in path.vertices}
        for outcome in OUTCOMES[4:6]:
            low, high = summary(outcome.scores[method]["kmeans_ari"])["ci95"]
            assert {(outcome.condition.value, round(end, 9)) for end in (low, high)} <= corners


def test_where_the_model_has_no_score_the_panel_says_so() -> None:
    panels = panels_of(figures.robustness_figure(OUTCOMES, USUAL))
    marks = {name: [(text.get_text(), text.xy[0]) for text in axes.texts] for name, axes in panels.items()}
    assert list(marks.values()) == [[("model: n/a", 100)], [("model: n/a", 8)], [], [("model: n/a", 9)]]


def test_every_method_is_named_once_and_has_one_look_in_all_panels() -> None:
    figure = figures.robustness_figure(OUTCOMES, USUAL)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [label(method) for method in METHODS]
    looks: dict[str, set[Any]] = {}
    for axes in figure.axes:
        for line in axes.lines:
            looks.setdefault(str(line.get_label()), set()).add(line.get_color())
    assert all(len(colours) == 1 for colours in looks.values())
    assert len(set.union(*looks.values())) == len(METHODS)


def test_methods_are_named_though_the_first_panel_has_none() -> None:
    (legend,) = figures.robustness_figure(OUTCOMES[::-1], USUAL).legends
    assert [text.get_text() for text in legend.get_texts()] == [label(method) for method in METHODS]


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_names_of_all_methods_fit_into_the_picture(axes: int) -> None:
    methods = ("random", "raw_pixels", "colour_histogram", "exact_pca", "whitened_pca", "model")
    outcomes = [Outcome(Condition(name, 1), scored(0, methods), {}) for name in list(figures.AXES)[:axes]]
    figure = figures.robustness_figure(outcomes, scored(1, methods))
    figure.canvas.draw()
    (legend,) = figure.legends
    extent = legend.get_window_extent()
    assert 0 <= extent.x0 < extent.x1 <= figure.bbox.width


def test_axes_of_sizes_are_marked_at_their_values() -> None:
    axes = panels_of(figures.robustness_figure(OUTCOMES, USUAL))["images a puzzle"]
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.get_xticklabels()] == ["2", "10", "100"]
    assert axes.get_xticks().tolist() == [2, 10, 100]
    assert not axes.get_xticks(minor=True).tolist()


def test_a_condition_on_a_single_puzzle_is_drawn_without_an_interval(tmp_path: Path) -> None:
    outcome = Outcome(Condition("gap", 1), scored(1, puzzles=1), {})
    figure = figures.robustness_figure([outcome], scored(0, puzzles=1))
    (axes,) = panels_of(figure).values()
    assert curves(axes)["model"][1] == (1.0, float(outcome.scores["model"]["kmeans_ari"][0]))
    figures.save(figure, tmp_path / "robustness.png")


@pytest.mark.parametrize("axes", [1, 2, 3, 4, 6])
def test_any_number_of_axes_makes_a_picture_of_fitting_size(tmp_path: Path, axes: int) -> None:
    names = list(figures.AXES)[:axes]
    outcomes = [Outcome(Condition(name, value), scored(n), {}) for n, name in enumerate(names) for value in (1, 2)]
    figures.save(figures.robustness_figure(outcomes, USUAL), tmp_path / "robustness.png")
    with Image.open(tmp_path / "robustness.png") as picture:
        picture.load()
        assert picture.format == "PNG"
        columns, rows = min(3, axes), -(-axes // 3)
        assert picture.size == pytest.approx((3.4 * columns * 160, (2.7 * rows + 0.5) * 160), abs=2)
        assert len(set(picture.convert("L").tobytes())) > 50
