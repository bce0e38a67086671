"""What is decoded of latents, as figures: which pixels lie where, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from fragrecon.data.puzzles import cut, make_batch
from fragrecon.evaluation.examples import Example
from fragrecon.evaluation.pixels.generation import Generated
from fragrecon.report.figures import gallery
from fragrecon.report.figures import puzzles as figures
from fragrecon.report.figures.generated import generated_figure, interpolations_figure
from tests.cli import fingerprint, names


def pictures(count: int, shape: tuple[int, int, int], seed: int) -> Tensor:
    """Of random pixels, whole steps of 1/255."""
    return torch.randint(0, 256, (count, *shape), generator=torch.Generator().manual_seed(seed)).float() / 255


def generated(images: int = 10, channels: int = 3, side: int = 16, fragment: int = 16) -> Generated:
    """Of pixels that are all their own; images in shuffled order, as the batches of puzzles have them."""
    given = (pictures(images, (channels, side, side), 0) * 255).to(torch.uint8).unsqueeze(0)
    ids, cells = torch.arange(images).unsqueeze(0), (side // fragment) ** 2
    order = torch.randperm(images * cells, generator=torch.Generator().manual_seed(1)).unsqueeze(0)
    batch = make_batch(given, ids, ids, order, (fragment, fragment)).as_float()
    decoded = 1 - batch.fragments
    example = Example(batch, (side // fragment,) * 2, torch.rand(1, images * cells, 3), batch.source_ids, decoded)
    pairs = -(-images // 2)
    between = (
        pictures(pairs * 9, (channels, side, side), 2).view(pairs, 9, channels, side, side) if images > 1 else None
    )
    samples, fitted = (pictures(20, (channels, fragment, fragment), seed) for seed in (3, 4))
    return Generated(example, between, samples, fitted)


def drawn(figure: Figure, folder: Path) -> npt.NDArray[np.uint8]:
    """Pixels (H, W, 3) of the file."""
    figures.save(figure, folder / "figure.png")
    with Image.open(folder / "figure.png") as picture:
        return np.asarray(picture.convert("RGB"))


def tiles(page: npt.NDArray[np.uint8], count: int, left: int) -> npt.NDArray[np.bool_]:
    """Rows of pixels in which ``count`` tiles of 96 pixels lie, each 6 from the next."""
    inked = (page[:, left:] != 255).any(-1)
    gaps = [inked[:, column * 102 : column * 102 + 6].any(1) for column in range(count + 1)]
    found: npt.NDArray[np.bool_] = inked.any(1) & ~np.any(gaps, 0)
    return found


def rows_of(page: npt.NDArray[np.uint8], left: int, columns: int, side: int) -> list[npt.NDArray[np.uint8]]:
    """The pictures (columns, side, side, 3) of each row of tiles of 96 pixels, brought to their own size again."""
    lines = tiles(page, columns, left)
    starts = np.flatnonzero(lines & ~np.roll(lines, 1))
    found, times = [], 96 // side
    for top in starts:
        row = page[top : top + 96, left:]
        assert lines[top : top + 96].all()
        parts = np.stack([row[:, 6 + 102 * column : 102 * column + 102] for column in range(columns)])
        small = parts[:, ::times, ::times]
        # Every pixel is enlarged by a whole number, and nothing is blurred.
        np.testing.assert_array_equal(small.repeat(times, 1).repeat(times, 2), parts)
        found.append(small)
    return found


def inked(images: Tensor) -> npt.NDArray[np.uint8]:
    """Pictures (M, H, W, 3) uint8 of images (M, C, H, W)."""
    return (images * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).movedim(1, -1).numpy()


def assert_all_is_inside(figure: Figure) -> None:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in figure.texts]
    width, height = figure.get_size_inches() * figure.dpi
    for box in boxes:
        assert 0 <= box.x0 < box.x1 <= width
        assert 0 <= box.y0 < box.y1 <= height
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:number])


LEFT = 160


@pytest.mark.parametrize(("channels", "side"), [(3, 16), (1, 16), (3, 32), (1, 8)])
def test_images_reconstructions_and_samples_lie_under_each_other(tmp_path: Path, channels: int, side: int) -> None:
    shown = generated(channels=channels, side=side, fragment=side)
    figure = generated_figure(shown)
    rows = rows_of(drawn(figure, tmp_path), LEFT, 10, side)
    assert len(rows) == 6
    images = shown.example.images
    assert shown.samples is not None
    assert shown.fitted is not None
    for row, expected in zip(
        rows,
        [images, 1 - images, shown.samples[:10], shown.samples[10:], shown.fitted[:10], shown.fitted[10:]],
        strict=True,
    ):
        np.testing.assert_array_equal(row, inked(expected))
    assert [text.get_text().replace("\n", " ") for text in figure.texts] == [
        "test images",
        "reconstructions",
        "samples of the standard normal",
        "samples of a normal fitted to embeddings",
    ]
    heights = [text.get_position()[1] for text in figure.texts]
    assert heights == sorted(heights, reverse=True)
    assert_all_is_inside(figure)


def test_of_images_in_fragments_one_of_each_is_shown_with_what_became_of_it(tmp_path: Path) -> None:
    shown = generated(images=4, side=32, fragment=8)
    figure = generated_figure(shown)
    page = drawn(figure, tmp_path)
    fragments = cut(shown.example.images, (8, 8))[:, 10]  # row 2, column 2 of 4
    first = page[6:102, LEFT:]
    for column, fragment in enumerate(inked(fragments)):
        np.testing.assert_array_equal(first[::12, 6 + 102 * column : 102 * column + 102 : 12], fragment)
        below = page[6 + 118 : 102 + 118 : 12, LEFT + 6 + 102 * column : LEFT + 102 * column + 102 : 12]
        np.testing.assert_array_equal(below, 255 - fragment)
    assert (first[:, 4 * 102 + 6 :] == 255).all()  # of four images
    assert figure.texts[0].get_text() == "test fragments"


def test_without_a_fitted_normal_its_rows_are_left_out(tmp_path: Path) -> None:
    shown = generated()
    bare = generated_figure(Generated(shown.example, None, shown.samples))
    assert len(bare.texts) == 3
    page, whole = drawn(bare, tmp_path), drawn(generated_figure(shown), tmp_path)
    np.testing.assert_array_equal(page, whole[: len(page)])
    assert len(rows_of(page, LEFT, 10, 16)) == 4


@pytest.mark.parametrize(("images", "ends"), [(10, [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]), (3, [(0, 1), (2, 0)])])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_way_from_one_image_to_another_lies_between_them(
    tmp_path: Path, images: int, ends: list[tuple[int, int]], channels: int
) -> None:
    shown = generated(images=images, channels=channels)
    figure = interpolations_figure(shown)
    page = drawn(figure, tmp_path)
    assert shown.between is not None
    step = 9 * 102 + 6 + 10
    one, other = (rows_of(page[24:, left : left + 108], 0, 1, 16) for left in (0, 118 + step))
    middle = rows_of(page[24:, 118 : 118 + step - 10], 0, 9, 16)
    assert len(one) == len(other) == len(middle) == len(ends)
    for number, (first, second) in enumerate(ends):
        np.testing.assert_array_equal(one[number][0], inked(shown.example.images)[first])
        np.testing.assert_array_equal(other[number][0], inked(shown.example.images)[second])
        np.testing.assert_array_equal(middle[number], inked(shown.between[number]))
    assert [text.get_text() for text in figure.texts][::2] == ["image", "image"]
    assert_all_is_inside(figure)


def test_what_there_is_to_show_is_drawn(tmp_path: Path) -> None:
    shown = generated()
    gallery.draw_generated(shown, tmp_path / "all", clustered=False)
    assert names(tmp_path / "all") == ["generated.png", "interpolations.png", "reconstructions.png"]
    gallery.draw_generated(shown, tmp_path / "clustered", clustered=True)
    assert names(tmp_path / "clustered") == ["generated.png", "interpolations.png"]
    gallery.draw_generated(Generated(shown.example, shown.between), tmp_path / "photographs", clustered=False)
    assert names(tmp_path / "photographs") == ["interpolations.png", "reconstructions.png"]
    gallery.draw_generated(Generated(generated(images=1).example, None), tmp_path / "one", clustered=False)
    assert names(tmp_path / "one") == ["reconstructions.png"]
    gallery.draw_generated(generated(), tmp_path / "again", clustered=False)
    assert fingerprint(tmp_path / "again") == fingerprint(tmp_path / "all")
