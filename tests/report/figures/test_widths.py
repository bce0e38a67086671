"""Images of many widths and their reconstructions: which pixels lie where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fragrecon.data.puzzles import make_batch
from fragrecon.evaluation.examples import Example
from fragrecon.evaluation.pixels.generation import Generated
from fragrecon.report.figures import puzzles as figures
from fragrecon.report.figures.widths import ACROSS, BELOW, GAP, LEFT, WORDS, flow, widths_figure


def example(images: int, width: int) -> Example:
    """Grey images of random pixels, 48 high, decoded as their negatives."""
    given = torch.randint(0, 255, (1, images, 1, 48, width), dtype=torch.uint8)
    ids = torch.arange(images).unsqueeze(0)
    batch = make_batch(given, ids, ids, ids, (48, width)).as_float()
    return Example(batch, (1, 1), torch.rand(1, images, 3), ids, 1 - batch.fragments)


def test_each_image_lies_above_its_reconstruction_the_narrowest_first(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shown = Generated(example(1, 64), None, others=[example(1, 96), example(2, 16)])
    figures.save(widths_figure(shown), tmp_path / "widths.png")
    page = np.asarray(Image.open(tmp_path / "widths.png").convert("RGB"))
    left = LEFT
    pictures = [*shown.others[1].images, *shown.example.images, *shown.others[0].images]
    for image in pictures:
        pixels = (image[0] * 255).round().to(torch.uint8).numpy().repeat(2, 0).repeat(2, 1)  # 48 to about 96 high
        for top, expected in ((GAP, pixels), (GAP + 96 + GAP, 255 - pixels)):
            found = page[top : top + 96, left : left + pixels.shape[1]]
            assert abs(found.astype(int) - expected[..., None]).max() <= 1
        left += max(WORDS, pixels.shape[1]) + GAP
    assert page.shape[:2] == (2 * (96 + GAP) + BELOW + GAP, left)


def test_a_row_holds_what_fits_and_one_at_least() -> None:
    assert flow([100, 50]) == [(0, 0), (0, 100 + GAP)]
    assert flow([ACROSS + 1, 10, ACROSS - 10 - GAP, 1]) == [(0, 0), (1, 0), (1, 10 + GAP), (2, 0)]
    assert flow([ACROSS]) == [(0, 0)]


@pytest.mark.parametrize("height", [32, 152])
def test_how_far_each_is_off_is_written_below(height: int) -> None:
    given = torch.full((1, 1, 1, height, 64), 128, dtype=torch.uint8)
    ids = torch.zeros(1, 1, dtype=torch.int64)
    batch = make_batch(given, ids, ids, ids, (height, 64)).as_float()
    other = Example(batch, (1, 1), torch.rand(1, 1, 3), ids, batch.fragments + 0.1)
    figure = widths_figure(Generated(other, None))
    assert [text.get_text() for text in figure.texts] == ["20.0 dB", "image", "decoded", "PSNR"]
