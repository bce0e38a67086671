"""Pictures of a puzzle, looked at by their pixels, their words and where these are."""

from __future__ import annotations

import itertools
import math
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from fragrecon.data.puzzles import make_batch
from fragrecon.evaluation.examples import Example
from fragrecon.report.figures import clustering
from fragrecon.report.figures.plotting import save
from fragrecon.report.figures.projections import tsne
from fragrecon.report.figures.tiles import fit


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


def page_of(figure: Any) -> npt.NDArray[np.uint8]:
    """The pixels that a figure is made of."""
    (image,) = figure.images
    return np.asarray(image.get_array())


def texts_of(figure: Any) -> list[tuple[str, float, float]]:
    """The words of a figure, each with the pixel it lies at."""
    height, width = page_of(figure).shape[:2]
    return [(text.get_text(), x * width, (1 - y) * height) for text in figure.texts for x, y in [text.get_position()]]


def places_of(page: npt.NDArray[np.uint8], picture: npt.NDArray[np.uint8]) -> list[tuple[int, int]]:
    """The top left corners at which a picture lies on a page, pixel by pixel."""
    windows = np.lib.stride_tricks.sliding_window_view(page, picture.shape)[:, :, 0]
    first = (windows[..., 0, 0, :] == picture[0, 0]).all(-1)
    found = np.argwhere(first)
    return [(int(y), int(x)) for y, x in found if (windows[y, x] == picture).all()]


def fragments_of(own: Example) -> list[npt.NDArray[np.uint8]]:
    """The fragments in the size at which they are drawn: 4x6 pixels, each repeated 5 times."""
    return [tile.movedim(0, -1).numpy() for tile in fit(own.batch.fragments[0], clustering.FRAGMENT)]


# Puzzle ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_every_fragment_lies_among_the_shuffled_and_in_its_group_and_every_image_once(channels: int) -> None:
    own = example(5, channels=channels)
    figure = clustering.puzzle_figure(own, "perfect")
    page = page_of(figure)
    tiles = fragments_of(own)
    assert tiles[0].shape == (20, 30, 3)
    corners = set()
    for tile in tiles:
        places = places_of(page, tile)
        assert len(places) == 3  # images are drawn at the scale of the fragments here
        corners |= set(places)
    assert len(corners) == 3 * len(tiles)
    for image in own.images:
        pixels = (image * 255).round().to(torch.uint8).expand(3, -1, -1).movedim(0, -1).numpy()
        assert len(places_of(page, pixels.repeat(5, 0).repeat(5, 1))) == 1
    letters = [text for text, *_ in texts_of(figure) if len(text) == 1]
    assert sorted(letters) == sorted(2 * "ABCDE"), "no fragment is marked"


def test_fragments_of_another_image_bear_its_name_and_are_darker() -> None:
    own = example(4)
    groups = own.groups.clone()
    stranger = int(torch.nonzero(groups[0] == 1)[0])
    groups[0, stranger] = 2
    figure = clustering.puzzle_figure(replace(own, groups=groups), "one wrong")
    tile = fragments_of(own)[stranger]
    assert len(places_of(page_of(figure), tile)) == 2
    ((top, left),) = places_of(page_of(figure), tile // 2)
    letters = [text for text in texts_of(figure) if len(text[0]) == 1]
    assert len(letters) == 9
    assert ("B", left + 15, top + 10) in [(text, round(x), round(y)) for text, x, y in letters]


@pytest.mark.fault("names of groups in puzzle.png")
def test_groups_stand_in_the_order_of_their_names_which_are_given_one_to_one() -> None:
    own = example(4)
    turned = torch.tensor([3, 0, 2, 1])[own.batch.source_ids]
    moved = torch.nonzero(own.batch.source_ids[0] == 0).flatten()[:3]  # most of A joins C, whose group is named after C
    turned[0, moved] = 2
    figure = clustering.puzzle_figure(replace(own, groups=turned), "turned")
    page, tiles = page_of(figure), fragments_of(own)
    upright = [(text, x, y) for text, x, y in texts_of(figure) if len(text) == 1]
    rightmost = max(x for text, x, y in upright if text == "D" and y > 0)
    names = sorted(((y, text) for text, x, y in upright if abs(x - rightmost) < 1))
    assert [text for _, text in names] == ["A", "B", "C", "D"]
    tops = [max(places_of(page, tile), key=lambda place: place[1])[0] for tile in tiles]
    for (y, _), image in zip(names, range(4), strict=True):
        own_tops = [
            top
            for top, source, group in zip(tops, own.batch.source_ids[0].tolist(), turned[0].tolist(), strict=True)
            if (source == image and group != 2) or (image == source == 2)
        ]
        assert all(top < y < top + 20 for top in own_tops) or image == 2


@pytest.mark.fault("names of groups in puzzle.png")
def test_a_group_is_named_after_no_image_that_it_has_no_fragment_of() -> None:
    own = example(3)
    groups = own.batch.source_ids.clone()
    groups[groups == 2] = 1  # that of B has all of C; a fragment of A alone is the third group
    groups[0, int(torch.nonzero(own.batch.source_ids[0] == 0)[0])] = 2
    given = replace(own, groups=groups)
    assert sorted(given.names, key=str) == [0, 1, None]
    figure = clustering.puzzle_figure(given, "merged")
    assert [text for text, *_ in texts_of(figure)].count(clustering.UNNAMED) == 1
    (axes,) = clustering.confusion_figure(given).axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["A", "B", clustering.UNNAMED]
    assert words(axes) == {(0, 0): "3", (2, 0): "1", (1, 1): "4", (1, 2): "4"}


def test_the_rows_of_a_long_group_are_joined_by_a_line(tmp_path: Path) -> None:
    own = example(6)
    for groups, rows in ((torch.zeros_like(own.groups), [3]), (torch.arange(24).unsqueeze(0) % 2, [2, 2])):
        figure = clustering.puzzle_figure(replace(own, groups=groups), "odd")
        page = page_of(figure)
        black = (page == 0).all(-1)
        column = int(black.sum(0).argmax())
        edges = np.flatnonzero(np.diff(np.concatenate([[0], black[:, column], [0]])))
        step = 20 + clustering.SPACE
        heights = sorted(high - low + clustering.SPACE for low, high in edges.reshape(-1, 2).tolist())
        assert heights == [n * step for n in rows]
        save(figure, tmp_path / "puzzle.png")


def pictures_of(axes: Any) -> list[tuple[np.ndarray, tuple[float, ...]]]:
    """What lies where: pixels, and their left, right, bottom and top."""
    return [(np.asarray(image.get_array()), tuple(map(float, image.get_extent()))) for image in axes.images]


@pytest.mark.parametrize("size", [(4, 2), (1, 8), (80, 160)])
def test_fragments_keep_their_form_and_are_never_too_large(size: tuple[int, int]) -> None:
    tile = fit(torch.rand(1, 3, *size), clustering.FRAGMENT)
    height, width = tile.shape[-2:]
    assert height / width == pytest.approx(size[0] / size[1])
    assert clustering.FRAGMENT / 2 < max(height, width) <= clustering.FRAGMENT


# Confusion and embeddings ---------------------------------------------------------------------------------------------


def words(axes: Any) -> dict[tuple[float, float], str]:
    return {(float(x), float(y)): text.get_text() for text in axes.texts for x, y in [text.get_position()]}


@pytest.mark.fault("names of groups in confusion.png")
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
    matrix, (column, (left, right, bottom, top)) = pictures_of(axes)
    np.testing.assert_array_equal(matrix[0], [[4, 0, 0, 0], [1, 1, 0, 2], [0, 0, 4, 0], [0, 0, 0, 4]])
    assert (right, bottom, top) == (-0.5, 3.5, -0.5)
    step = (len(column) - 1) // 4  # eight rows of pixels of an image, and one of space
    assert step == 9
    assert (right - left) * step == pytest.approx(column.shape[1])
    for row, image in enumerate(own.images):
        pixels = (image * 255).round().to(torch.uint8).movedim(0, -1).numpy()
        np.testing.assert_array_equal(column[1 + row * step :][:8, 1:-1], pixels)


def test_counts_are_read_on_light_and_on_dark() -> None:
    (axes,) = clustering.confusion_figure(example(4, torch.zeros(1, 16, dtype=torch.int64))).axes
    assert {text.get_color() for text in axes.texts} == {"white"}
    (axes,) = clustering.confusion_figure(example(4, torch.arange(16).unsqueeze(0) % 4)).axes
    light = {text.get_text() for text in axes.texts if text.get_color() == "black"}
    dark = {text.get_text() for text in axes.texts if text.get_color() == "white"}
    assert light <= {"1", "2"}
    assert dark <= {"3", "4"}


def laid_out(own: Example) -> tuple[list[tuple[int, int]], list[str], list[tuple[int, ...]]]:
    """Of each fragment in the embedding figure the corner, and the name and the colour beside."""
    figure = clustering.embedding_figure(own)
    page, (*names, first, second) = page_of(figure), texts_of(figure)
    step = round(second[1] - first[1])
    side = math.ceil(clustering.ROOM * math.sqrt(len(names)))
    tiles = fit(own.batch.fragments[0], max(8, 640 // side - clustering.SPACE))
    height, width = tiles.shape[-2:]
    corners, hues = [], []
    for tile, (_, x, y) in zip(tiles, names, strict=True):
        top, left = round(y - height / 2), round(x - width / 2)
        np.testing.assert_array_equal(page[top : top + height, left - step :][:, :width], tile.movedim(0, -1))
        corners.append((top, left))
        hues.append(tuple(page[top, left].tolist()))
    return corners, [name for name, *_ in names], hues


@pytest.mark.parametrize("images", [2, 27])
def test_every_fragment_has_a_place_of_its_own_with_its_image_named_beside(images: int) -> None:
    own = example(images)
    corners, texts, hues = laid_out(own)
    names = string.ascii_uppercase if images <= 26 else [str(number + 1) for number in range(images)]
    assert texts == [names[source] for source in own.batch.source_ids[0].tolist()]
    assert len(set(corners)) == 4 * images
    by_name = dict(zip(texts, hues, strict=True))
    assert len(set(by_name.values())) == min(images, 20)  # colours recur
    assert [by_name[text] for text in texts] == hues
    for red, green, blue in hues:
        assert 0.299 * red + 0.587 * green + 0.114 * blue > 127  # black letters are read on it, in grey too


def test_fragments_of_one_image_lie_together_where_embeddings_do() -> None:
    own = example(8)
    middles = np.array(laid_out(own)[0], dtype=np.float64)
    distances = np.linalg.norm(middles[:, None] - middles[None], axis=-1)
    sources = own.batch.source_ids[0].numpy()

    def closeness(sources: npt.NDArray[Any]) -> float:
        same = sources[:, None] == sources[None]
        np.fill_diagonal(same, False)
        return float(distances[same].mean() / distances[sources[:, None] != sources[None]].mean())

    assert closeness(sources) < 0.5
    assert closeness(np.random.default_rng(0).permutation(sources)) > 0.8


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


def test_of_very_many_fragments_some_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "POINTS", 10)
    texts = [text for text, *_ in texts_of(clustering.embedding_figure(example(5))) if len(text) == 1]
    assert len(texts) == 10


@pytest.mark.parametrize(("images", "channels"), [(2, 3), (27, 1)])
def test_all_pictures_of_a_puzzle_can_be_written(images: int, channels: int, tmp_path: Path) -> None:
    own = example(images, channels=channels)
    drawn = clustering.confusion_figure(own), clustering.embedding_figure(own), clustering.puzzle_figure(own, "title")
    for figure in drawn:
        save(figure, tmp_path / "figure.png")
        with Image.open(tmp_path / "figure.png") as picture:
            assert min(picture.size) > 60
            assert len(set(picture.convert("L").tobytes())) > 20


def test_images_are_named_by_letters_as_long_as_there_are_enough() -> None:
    assert clustering.names_of(26) == list(string.ascii_uppercase)
    assert clustering.names_of(27) == [str(number) for number in range(1, 28)]
