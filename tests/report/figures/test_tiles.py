from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from fragrecon.report.figures.tiles import (
    CAPTION,
    GAP,
    LINE,
    enlarge,
    flow,
    frame_cell,
    framed,
    rows_figure,
    save,
    sheet,
    tiles,
)
from tests.report.figures.pixels import drawn
from tests.report.figures.words import assert_words_apart


def picture(shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def slow_sheet(pictures: list[Tensor], columns: int, gap: int) -> list[list[list[int]]]:
    """Pixel by pixel, for each the picture that lies there."""
    channels, height, width = pictures[0].shape
    rows = (len(pictures) - 1) // columns + 1
    page = []
    for channel in range(channels):
        lines = []
        for y in range(rows * (height + gap) + gap):
            line = []
            for x in range(columns * (width + gap) + gap):
                (row, down), (column, across) = divmod(y - gap, height + gap), divmod(x - gap, width + gap)
                number = row * columns + column
                inside = y >= gap and x >= gap and down < height and across < width and number < len(pictures)
                line.append(int(pictures[number][channel, down, across]) if inside else 255)
            lines.append(line)
        page.append(lines)
    return page


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 7), st.integers(1, 4), st.integers(0, 2), st.sampled_from([(3, 2, 4), (1, 3, 2), (3, 1, 1)]))
def test_a_sheet_is_that_of_a_slow_loop(count: int, columns: int, gap: int, shape: tuple[int, int, int]) -> None:
    pictures = [picture(shape, number) for number in range(count)]
    found = sheet(pictures, columns, gap)
    assert found.dtype == torch.uint8
    assert found.tolist() == slow_sheet(pictures, columns, gap)


@pytest.mark.parametrize("thickness", [1, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_frame_lies_around_the_whole_picture(thickness: int, channels: int) -> None:
    own = picture((channels, 4, 5))
    before = own.clone()
    found = framed(own, (1.0, 0.2, 0.0), thickness)
    assert found.shape == (3, 4 + 2 * thickness, 5 + 2 * thickness)
    assert torch.equal(own, before)
    for y in range(found.shape[1]):
        for x in range(found.shape[2]):
            top, left = y - thickness, x - thickness
            if 0 <= top < 4 and 0 <= left < 5:
                assert found[:, y, x].tolist() == own[:, top, left].expand(3).tolist()
            else:
                assert found[:, y, x].tolist() == [255, 51, 0]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_saved_picture_comes_back_pixel_by_pixel(tmp_path: Path, channels: int, mode: str) -> None:
    own = picture((channels, 5, 7))
    save(own, tmp_path / "new" / "picture.png")
    with Image.open(tmp_path / "new" / "picture.png") as file:
        assert (file.format, file.mode, file.size) == ("PNG", mode, (7, 5))
        pixels = torch.from_numpy(np.array(file))
    assert torch.equal(pixels.view(5, 7, channels).movedim(-1, 0), own)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["picture.png"]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "times"), [(16, 6), (48, 2), (65, 1), (300, 1)])
def test_images_are_enlarged_by_whole_pixels_to_about_one_height(channels: int, height: int, times: int) -> None:
    images = torch.linspace(-0.5, 1.5, 2 * channels * height * 3).view(2, channels, height, 3)
    found = tiles(images)
    assert found.shape == (2, 3, times * height, 3 * times)
    assert torch.equal(
        found[..., ::times, ::times], (images.clamp(0, 1) * 255).round().to(torch.uint8).expand(2, 3, -1, -1)
    )
    assert torch.equal(enlarge(found[..., ::times, ::times], times), found)


@pytest.mark.parametrize("cell", [0, 4, 5])
def test_a_framed_cell_keeps_its_inside_and_all_other_cells(cell: int) -> None:
    own, top, left = picture((3, 8, 15)), cell // 3 * 4, cell % 3 * 5
    found = frame_cell(own, cell, (2, 3), (1.0, 0.2, 0.0), 1)
    frame = torch.zeros(8, 15, dtype=torch.bool)
    frame[top : top + 4, left : left + 5] = True
    frame[top + 1 : top + 3, left + 1 : left + 4] = False
    assert torch.equal(found[:, ~frame], own[:, ~frame])
    assert (torch.tensor([255, 51, 0]) == found[:, frame].T).all()


def test_rows_are_named_captioned_and_continued_below(tmp_path: Path) -> None:
    """Columns of three widths, the third of which no longer fits; the second row lacks it."""
    upper = [picture((3, 40, width), width) for width in (100, 30, 10)]
    lower = [picture((3, 40, width), width + 1) for width in (100, 30)]
    figure = rows_figure([("upper", upper), ("two\nlines", lower)], ("caption", ["a", "b", "c"]), across=180, below=40)
    page = drawn(figure, tmp_path)
    margin, band = 7 * len("caption") + 2 * GAP, 2 * (40 + GAP) + LINE
    assert page.shape == (GAP + 2 * band + 40, margin + GAP + 100 + GAP + CAPTION, 3)
    for row, (pictures, step) in enumerate(((upper, 0), (lower, 40 + GAP))):
        places = [(0, 0), (0, 100 + GAP), (band, 0)]
        for tile, (top, left) in zip(pictures, places, strict=False):
            found = page[GAP + step + top :, margin + left :][:40, : tile.shape[2]]
            np.testing.assert_array_equal(found, tile.movedim(0, -1), err_msg=str(row))
    assert (page[-40:] == 255).all()
    assert [text.get_text() for text in figure.texts] == ["a", "b", "c", *["upper", "two\nlines", "caption"] * 2]
    assert_words_apart(figure)


def test_a_line_holds_the_columns_that_fit_and_one_at_least() -> None:
    assert flow([100, 50], 200) == [(0, 0), (0, 100 + GAP)]
    assert flow([201, 10, 190 - GAP, 1], 200) == [(0, 0), (1, 0), (1, 10 + GAP), (2, 0)]
    assert flow([200], 200) == [(0, 0)]
