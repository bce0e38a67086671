"""Images above their reconstructions: which pixels lie where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fragrecon.report.figures.reconstructions import reconstructions_figure
from fragrecon.report.figures.tiles import GAP
from tests.report.figures.pixels import drawn, tiles_of
from tests.report.figures.words import assert_words_apart


@pytest.mark.parametrize(("images", "channels"), [(2, 1), (13, 3)])
def test_images_stand_above_what_was_decoded_with_their_psnr(images: int, channels: int, tmp_path: Path) -> None:
    own = torch.randint(0, 200, (images, channels, 16, 16)) / 255
    names = [str(number) for number in range(images)]
    figure = reconstructions_figure([(own, own + 0.1)], names)
    found = tiles_of(drawn(figure, tmp_path), ["decoded"], 2, images)[..., ::6, ::6, :]
    expected = (own * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).movedim(1, -1).numpy()
    np.testing.assert_array_equal(found[0], expected)
    assert (np.abs(found[1] - expected.astype(float) - 25.5) <= 0.5).all()
    words = [text.get_text() for text in figure.texts]
    assert words == [*(f"{name}: 20.0 dB" for name in names), "image", "decoded", "PSNR"]
    assert_words_apart(figure)


def test_images_of_several_widths_have_one_height(tmp_path: Path) -> None:
    torch.manual_seed(0)
    given = [torch.randint(0, 255, (count, 1, 48, width)) / 255 for count, width in ((2, 16), (1, 64), (1, 96))]
    page = drawn(reconstructions_figure([(images, 1 - images) for images in given]), tmp_path)
    left = 7 * len("decoded") + 2 * GAP
    for image in (image for images in given for image in images):
        pixels = (image[0] * 255).round().to(torch.uint8).numpy().repeat(2, 0).repeat(2, 1)  # 48 to about 96 high
        for top, expected in ((GAP, pixels), (GAP + 96 + GAP, 255 - pixels)):
            found = page[top : top + 96, left : left + pixels.shape[1]]
            assert abs(found.astype(int) - expected[..., None]).max() <= 1
        left += max(56, pixels.shape[1]) + GAP
    assert page.shape[1] == left


def test_a_perfect_reconstruction_has_the_greatest_psnr(tmp_path: Path) -> None:
    images = torch.rand(1, 3, 8, 8)
    figure = reconstructions_figure([(images, images)])
    assert figure.texts[0].get_text() == "100.0 dB"
    drawn(figure, tmp_path)
