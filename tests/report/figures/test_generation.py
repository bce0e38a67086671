"""What is decoded of latents: which pixels lie where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from fragrecon.data.puzzles import cut, make_batch
from fragrecon.evaluation.examples import Example
from fragrecon.evaluation.pixels.generation import Generated
from fragrecon.report.figures.generation import generated_figure, interpolations_figure
from tests.report.figures.pixels import drawn, tiles_of
from tests.report.figures.words import assert_words_apart

FITTED = "samples of a normal\nfitted to embeddings"
NAMES = ["test images", "reconstructions", "samples of the\nstandard normal", "", FITTED, ""]


def pictures(count: int, shape: tuple[int, int, int], seed: int) -> Tensor:
    """Of random pixels, whole steps of 1/255."""
    return torch.randint(0, 256, (count, *shape), generator=torch.Generator().manual_seed(seed)).float() / 255


def generated(images: int = 10, channels: int = 3, side: int = 16, fragment: int = 16) -> Generated:
    """Of random pixels; images in shuffled order, as the batches of puzzles have them."""
    given = (pictures(images, (channels, side, side), 0) * 255).to(torch.uint8).unsqueeze(0)
    ids, cells = torch.arange(images).unsqueeze(0), (side // fragment) ** 2
    order = torch.randperm(images * cells, generator=torch.Generator().manual_seed(1)).unsqueeze(0)
    batch = make_batch(given, ids, ids, order, (fragment, fragment)).as_float()
    decoded = 1 - batch.fragments
    example = Example(batch, (side // fragment,) * 2, torch.rand(1, images * cells, 3), batch.source_ids, decoded)
    pairs = -(-images // 2)
    between = pictures(pairs * 9, (channels, side, side), 2).view(pairs, 9, channels, side, side)
    samples, fitted = (pictures(20, (channels, fragment, fragment), seed) for seed in (3, 4))
    return Generated(example, between if images > 1 else None, samples, fitted)


def enlarged(images: Tensor) -> npt.NDArray[np.uint8]:
    """Pictures (M, 96, 96, 3) uint8 of images (M, C, H, W)."""
    times = 96 // images.shape[-1]
    pixels = (images * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).movedim(1, -1).numpy()
    return pixels.repeat(times, 1).repeat(times, 2)


@pytest.mark.parametrize(("channels", "side"), [(3, 16), (1, 8)])
def test_images_reconstructions_and_samples_lie_under_each_other(tmp_path: Path, channels: int, side: int) -> None:
    shown = generated(channels=channels, side=side, fragment=side)
    figure = generated_figure(shown)
    images, samples, fitted = shown.example.images, shown.samples, shown.fitted
    assert samples is not None
    assert fitted is not None
    expected = [images, 1 - images, samples[:10], samples[10:], fitted[:10], fitted[10:]]
    found = tiles_of(drawn(figure, tmp_path), NAMES, 6, 10)
    np.testing.assert_array_equal(found, np.stack([enlarged(row) for row in expected]))
    assert [text.get_text() for text in figure.texts] == NAMES
    assert_words_apart(figure)


def test_of_an_image_in_fragments_the_middle_one_is_shown(tmp_path: Path) -> None:
    shown = generated(images=4, side=32, fragment=8)
    figure = generated_figure(shown)
    found = tiles_of(drawn(figure, tmp_path), NAMES, 2, 10)
    fragments = enlarged(cut(shown.example.images, (8, 8))[:, 10])  # row 2, column 2 of 4
    np.testing.assert_array_equal(found[0, :4], fragments)
    np.testing.assert_array_equal(found[1, :4], 255 - fragments)
    assert (found[:, 4:] == 255).all()  # there are four images
    assert figure.texts[0].get_text() == "test fragments"


def test_without_a_fitted_normal_its_rows_are_left_out(tmp_path: Path) -> None:
    shown = generated()
    bare = generated_figure(Generated(shown.example, None, shown.samples))
    assert [text.get_text() for text in bare.texts] == NAMES[:4]
    drawn(bare, tmp_path)


@pytest.mark.parametrize(("images", "ends"), [(10, [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]), (3, [(0, 1), (2, 0)])])
@pytest.mark.parametrize("channels", [1, 3])
def test_interpolations_lie_between_their_images(
    tmp_path: Path, images: int, ends: list[tuple[int, int]], channels: int
) -> None:
    shown = generated(images=images, channels=channels)
    figure = interpolations_figure(shown)
    found = tiles_of(drawn(figure, tmp_path), ["weight of the"], len(ends), 11)
    assert shown.between is not None
    given = enlarged(shown.example.images)
    for row, (first, second), between in zip(found, ends, shown.between, strict=True):
        np.testing.assert_array_equal(row[0], given[first])
        np.testing.assert_array_equal(row[1:-1], enlarged(between))
        np.testing.assert_array_equal(row[-1], given[second])
    words = [text.get_text() for text in figure.texts if text.get_text()]
    assert [words[place] for place in range(4)] == ["first image", "0%", "12.5%", "25%"]
    assert words[9:11] == ["100%", "second image"]
    assert_words_apart(figure)
