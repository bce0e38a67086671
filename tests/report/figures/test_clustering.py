"""Pictures of a puzzle, looked at by their pixels, their words and where these are."""

from __future__ import annotations

import itertools
import string
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from matplotlib.patches import Circle
from PIL import Image

from fragrecon.data.puzzles import FragmentBatch, make_batch
from fragrecon.evaluation.examples import Example
from fragrecon.report.figures import clustering
from fragrecon.report.figures.plotting import save
from fragrecon.report.figures.projections import tsne


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
    figure = clustering.puzzle_figure(batch, batch.source_ids, (2, 2), "perfect")
    save(figure, tmp_path / "puzzle.png")
    shown = np.asarray(Image.open(tmp_path / "puzzle.png").convert("L"))
    for level in np.linspace(20, 235, 5).astype(np.uint8):
        assert (np.abs(shown.astype(int) - int(level)) <= 1).sum() > 500


def test_a_perfect_grouping_marks_no_fragment_and_a_wrong_one_marks_the_strangers() -> None:
    batch = puzzle(4)
    perfect = clustering.puzzle_figure(batch, batch.source_ids, (2, 2), "perfect")
    one_wrong = batch.source_ids.clone()
    stranger = int(torch.nonzero(one_wrong[0] == 1)[0])
    one_wrong[0, stranger] = 2
    wrong = clustering.puzzle_figure(batch, one_wrong, (2, 2), "one wrong")
    boxed = [[text.get_text() for text in f.axes[2].texts if text.get_bbox_patch()] for f in (perfect, wrong)]
    assert boxed == [[], ["B"]]


def test_more_or_fewer_groups_than_images_can_be_drawn(tmp_path: Path) -> None:
    batch = puzzle(6)
    for groups in (torch.zeros_like(batch.source_ids), torch.arange(24).unsqueeze(0) % 9):
        save(clustering.puzzle_figure(batch, groups, (2, 2), "odd"), tmp_path / "puzzle.png")
        with Image.open(tmp_path / "puzzle.png") as picture:
            assert min(picture.size) > 100


def test_groups_stand_in_the_order_of_their_main_images() -> None:
    batch = puzzle(4)
    turned = torch.tensor([3, 0, 2, 1])[batch.source_ids]
    figure = clustering.puzzle_figure(batch, turned, (2, 2), "turned")
    assert [text.get_text() for text in figure.axes[2].texts] == ["A", "B", "C", "D"]
    heights = [text.get_position()[1] for text in figure.axes[2].texts]
    assert heights == sorted(heights)


def pictures_of(axes: Any) -> list[tuple[np.ndarray, tuple[float, ...]]]:
    """What lies where: pixels, and their left, right, bottom and top."""
    return [(np.asarray(image.get_array()), tuple(map(float, image.get_extent()))) for image in axes.images]


@pytest.mark.parametrize("size", [(4, 2), (1, 8)])
def test_fragments_keep_their_form(size: tuple[int, int]) -> None:
    images = torch.randint(0, 256, (1, 3, 3, 8, 8), dtype=torch.uint8)
    ids, cells = torch.arange(3).unsqueeze(0), 64 // (size[0] * size[1])
    batch = make_batch(images, ids, ids, torch.arange(3 * cells).unsqueeze(0), size)
    figure = clustering.puzzle_figure(batch, batch.source_ids, (8 // size[0], 8 // size[1]), "title")
    for axes in (figure.axes[0], figure.axes[2]):
        assert len(axes.images) == 3 * cells
        for _, (left, right, bottom, top) in pictures_of(axes):
            assert (bottom - top) / (right - left) == pytest.approx(size[0] / size[1])
            assert max(bottom - top, right - left) == pytest.approx(1 - clustering.GAP)
            assert axes.get_aspect() == 1


# What a model made of a puzzle ----------------------------------------------------------------------------------------


def example(images: int, groups: torch.Tensor | None = None, channels: int = 3, dimensions: int = 5) -> Example:
    """Images of noise in 2x2 fragments, with embeddings that lie around a place for each image."""
    random = torch.Generator().manual_seed(images)
    pixels = torch.randint(0, 256, (1, images, channels, 8, 12), generator=random, dtype=torch.uint8)
    order = torch.randperm(images * 4, generator=random).unsqueeze(0)
    ids = torch.arange(images).unsqueeze(0)
    batch = make_batch(pixels, torch.zeros_like(ids), ids, order, (4, 6)).as_float()
    places = 10 * torch.randn(images, dimensions, generator=random)
    embeddings = places[batch.source_ids] + torch.randn(1, images * 4, dimensions, generator=random)
    decoded = (batch.fragments + 0.1).clamp(max=1)
    return Example(batch, (2, 2), embeddings, batch.source_ids if groups is None else groups, decoded)


def words(axes: Any) -> dict[tuple[float, float], str]:
    return {(float(x), float(y)): text.get_text() for text in axes.texts for x, y in [text.get_position()]}


def test_the_confusion_counts_fragments_by_image_and_group() -> None:
    own = example(4)
    groups = torch.tensor([2, 0, 3, 1])[own.batch.source_ids]  # the same under other names
    moved = torch.nonzero(own.batch.source_ids[0] == 1).flatten()[:3]
    groups[0, moved[:2]] = 1  # that of image 3
    groups[0, moved[2]] = 2  # that of image 0
    figure = clustering.confusion_figure(example(4, groups))
    (axes,) = figure.axes
    assert words(axes) == {(0, 0): "4", (0, 1): "1", (1, 1): "1", (3, 1): "2", (2, 2): "4", (3, 3): "4"}
    assert [text.get_text() for text in axes.get_xticklabels()] == list("ABCD")
    assert [text.get_text() for text in axes.get_yticklabels()] == list("ABCD")
    assert axes.get_title() == "81% of the fragments in the group of their image"
    matrix, *images = pictures_of(axes)
    np.testing.assert_array_equal(matrix[0], [[4, 0, 0, 0], [1, 1, 0, 2], [0, 0, 4, 0], [0, 0, 0, 4]])
    for row, (pixels, (left, right, bottom, top)) in enumerate(images):
        np.testing.assert_allclose(pixels, own.images[row].movedim(0, -1))
        assert left < -1 < right < -0.5
        assert top < row < bottom


def test_counts_are_read_on_light_and_on_dark() -> None:
    (axes,) = clustering.confusion_figure(example(4, torch.zeros(1, 16, dtype=torch.int64))).axes
    assert {text.get_color() for text in axes.texts} == {"white"}
    (axes,) = clustering.confusion_figure(example(4, torch.arange(16).unsqueeze(0) % 4)).axes
    light = {text.get_text() for text in axes.texts if text.get_color() == "black"}
    dark = {text.get_text() for text in axes.texts if text.get_color() == "white"}
    assert light <= {"1", "2"}
    assert dark <= {"3", "4"}


@pytest.mark.parametrize("images", [2, 27])
def test_every_fragment_has_a_place_of_its_own_with_its_image_named_beside(images: int) -> None:
    own = example(images)
    left, right = clustering.embedding_figure(own).axes
    shown, texts, circles = pictures_of(left), right.texts, cast(list[Circle], right.patches)
    names = string.ascii_uppercase if images <= 26 else [str(number + 1) for number in range(images)]
    corners = set()
    for number, ((pixels, extent), text, circle) in enumerate(zip(shown, texts, circles, strict=True)):
        np.testing.assert_allclose(pixels, own.batch.fragments[0, number].movedim(0, -1))
        assert text.get_text() == names[int(own.batch.source_ids[0, number])]
        middle = (extent[0] + extent[1]) / 2, (extent[2] + extent[3]) / 2
        assert circle.get_center() == pytest.approx(middle)
        assert text.get_position() == pytest.approx(middle, abs=0.1)
        corners.add((round(middle[0]), round(middle[1])))
    assert len(corners) == 4 * images
    hues = {text.get_text(): circle.get_facecolor() for text, circle in zip(texts, circles, strict=True)}
    assert len(set(hues.values())) == images
    for red, green, blue, _ in hues.values():
        assert 0.299 * red + 0.587 * green + 0.114 * blue > 0.5  # black letters are read on it, in grey too


def test_fragments_of_one_image_lie_together_where_embeddings_do() -> None:
    own = example(8)
    left, _ = clustering.embedding_figure(own).axes
    middles = np.array([[(e[0] + e[1]) / 2, (e[2] + e[3]) / 2] for _, e in pictures_of(left)])
    distances = np.linalg.norm(middles[:, None] - middles[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    sources = own.batch.source_ids[0].numpy()
    assert (sources[distances.argmin(1)] == sources).mean() > 0.8  # 0.1 by chance


@pytest.mark.parametrize(("images", "dimensions"), [(2, 1), (12, 1), (2, 40), (12, 2)])
def test_embeddings_of_few_dimensions_or_points_are_spread_out(images: int, dimensions: int) -> None:
    own = example(images, dimensions=dimensions)
    places = tsne(own.embeddings[0], 4)
    assert torch.isfinite(places).all()
    assert torch.equal(places.amin(0), torch.zeros(2))
    torch.testing.assert_close(places.amax(0), torch.ones(2))
    assert torch.equal(places, tsne(own.embeddings[0], 4))


@pytest.mark.parametrize(("count", "value"), [(2, 3.0), (60, 0.0)])
def test_embeddings_that_are_all_alike_are_spread_out_too(count: int, value: float) -> None:
    places = tsne(torch.full((count, 5), value), 16)
    assert torch.isfinite(places).all()
    assert 0 <= float(places.min()) <= float(places.max()) <= 1


def test_a_grid_moves_places_as_little_as_can_be() -> None:
    random = torch.Generator().manual_seed(0)
    ticks = torch.linspace(0, 1, 3)
    for _ in range(3):
        places = torch.rand(4, 2, generator=random)

        def cost(cells: Any, places: torch.Tensor = places) -> float:
            moved = torch.stack([torch.stack([ticks[column], ticks[row]]) for row, column in cells])
            return float((moved - places).square().sum())

        found = clustering.on_grid(places, 3)
        assert len(set(found)) == 4
        every = itertools.permutations(itertools.product(range(3), range(3)), 4)
        assert cost(found) == pytest.approx(min(map(cost, every)), abs=1e-6)


def test_of_very_many_fragments_some_are_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(clustering, "POINTS", 10)
    left, right = clustering.embedding_figure(example(5)).axes
    assert len(left.images) == len(right.texts) == 10


@pytest.mark.parametrize(("images", "channels"), [(2, 3), (27, 1)])
def test_all_pictures_of_a_puzzle_can_be_written(images: int, channels: int, tmp_path: Path) -> None:
    own = example(images, channels=channels)
    for figure in (clustering.confusion_figure(own), clustering.embedding_figure(own)):
        save(figure, tmp_path / "figure.png")
        with Image.open(tmp_path / "figure.png") as picture:
            assert min(picture.size) > 300
            assert len(set(picture.convert("L").tobytes())) > 20


def test_images_are_named_by_letters_as_long_as_there_are_enough() -> None:
    assert clustering.names_of(26) == list(string.ascii_uppercase)
    assert clustering.names_of(27) == [str(number) for number in range(1, 28)]
