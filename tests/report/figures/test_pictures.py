from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from fragrecon.report.figures.pictures import PAPER, colours, framed, save, sheet


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


def nearest(count: int) -> float:
    """The distance of the two colours that are most alike."""
    found = np.array(colours(count))
    assert found.shape == (count, 3)
    assert found.min() >= 0
    assert found.max() <= 1
    return min(float(abs(one - other).max()) for one, other in itertools.combinations(found, 2))


@pytest.mark.parametrize("count", [2, 3, 10, 12, 13, 24])
def test_colours_differ(count: int) -> None:
    assert nearest(count) > 0.1


@pytest.mark.parametrize("count", [25, 36, 60])
def test_colours_differ_also_of_many(count: int) -> None:
    assert nearest(count) > 0.01


def test_few_colours_are_far_apart_and_none_is_none() -> None:
    assert nearest(3) > 0.8
    assert colours(0) == []
    assert len(colours(1)) == 1


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_saved_picture_comes_back_pixel_by_pixel(tmp_path: Path, channels: int, mode: str) -> None:
    own = picture((channels, 5, 7))
    save(own, tmp_path / "new" / "picture.png")
    with Image.open(tmp_path / "new" / "picture.png") as file:
        assert (file.format, file.mode, file.size) == ("PNG", mode, (7, 5))
        pixels = torch.from_numpy(np.array(file))
    assert torch.equal(pixels.view(5, 7, channels).movedim(-1, 0), own)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["picture.png"]


def test_nothing_lies_on_white_paper() -> None:
    assert PAPER == 255
    assert sheet([picture((3, 2, 2))] * 3, 2, 1)[:, 4:, 4:].min() == 255
