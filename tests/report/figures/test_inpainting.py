"""Inpainted images: which pixels lie where, and the curves below them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from fragrecon.evaluation.pixels.inpainting_examples import Attention, Inpainted, Steps
from fragrecon.report.figures.inpainting import attention_figure, descent_figure, masked_figure, masked_psnr, visible
from tests.report.figures.pixels import drawn, tiles_of
from tests.report.figures.words import assert_words_apart

IMAGES, SIDE, RED = 3, 8, [214, 38, 41]


def inpainted(channels: int = 3, steps: int = 20, heads: int = 3) -> Inpainted:
    """Random images of 2x2 patches, of which the first two are hidden."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (IMAGES, channels, SIDE, SIDE), generator=generator) / 255
    output = torch.randint(0, 256, (steps + 1, IMAGES, channels, SIDE, SIDE), generator=generator) / 255
    hidden = torch.zeros(IMAGES, 1, SIDE, SIDE, dtype=torch.bool)
    hidden[:, :, :4] = True
    descent = Steps(output, torch.rand(2, steps // 2 + 1, IMAGES, generator=generator))
    attention = Attention(torch.tensor([0, 1, 3]), torch.rand(IMAGES, heads, 2, 2, generator=generator))
    return Inpainted(images, hidden, output[-1], descent, attention)


def small(images: Tensor) -> npt.NDArray[np.uint8]:
    return (images * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).movedim(1, -1).numpy()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_composite_lies_under_the_output_the_visible_patches_and_the_image(tmp_path: Path, channels: int) -> None:
    given = inpainted(channels)
    figure = masked_figure(given)
    found = tiles_of(drawn(figure, tmp_path), ["visible patches"], 4, IMAGES)[..., ::12, ::12, :]
    rows = [given.images, visible(given), given.output, given.composite]
    np.testing.assert_array_equal(found, np.stack([small(row) for row in rows]))
    ratios = [f"{ratio:.1f} dB" for ratio in masked_psnr(given, given.output).tolist()]
    assert [text.get_text() for text in figure.texts][:IMAGES] == ratios
    assert_words_apart(figure)


@pytest.mark.parametrize(("steps", "shown"), [(2, [0, 1, 2]), (20, [0, 2, 5, 8, 10, 12, 15, 18, 20])])
def test_steps_are_spread_evenly_from_the_first_to_the_last(tmp_path: Path, steps: int, shown: list[int]) -> None:
    given = inpainted(steps=steps)
    figure = descent_figure(given)
    names = ["visible patches", "start", *(f"step {step}" for step in shown[1:]), "image"]
    assert [text.get_text() for text in figure.texts] == names
    found = tiles_of(drawn(figure, tmp_path), names, len(names), IMAGES)[..., ::12, ::12, :]
    assert given.steps is not None
    composites = [torch.where(given.hidden, given.steps.output[step], given.images) for step in shown]
    rows = [visible(given), *composites, given.images]
    np.testing.assert_array_equal(found, np.stack([small(row) for row in rows]))
    energy, ratio = figure.axes
    curves = [np.asarray(line.get_ydata()) for line in energy.lines]
    expected = given.steps.energies - given.steps.energies[:, :1]
    np.testing.assert_allclose(curves[IMAGES], expected[0].mean(1), rtol=1e-6)
    np.testing.assert_allclose(curves[-1], expected[1].mean(1), rtol=1e-6)
    means = [float(masked_psnr(given, output).mean()) for output in given.steps.output]
    np.testing.assert_allclose(np.asarray(ratio.lines[-1].get_ydata()), means)


def test_attention_is_the_darker_the_more_and_its_patch_is_framed(tmp_path: Path) -> None:
    given = inpainted(heads=11)  # more than are drawn
    figure = attention_figure(given)
    names = [text.get_text() for text in figure.texts]
    assert names == ["image", "visible patches", "all heads", *(f"head {head}" for head in range(1, 9))]
    found = tiles_of(drawn(figure, tmp_path), names, len(names), IMAGES)
    assert given.attention is not None
    weights = given.attention.weights
    for row, maps in zip(found[2:], [weights.mean(1), *weights[:, :8].unbind(1)], strict=True):
        for tile, map_, chosen in zip(row, maps.flatten(1), given.attention.chosen.tolist(), strict=True):
            others = (weight for patch, weight in enumerate(map_.tolist()) if patch != chosen)
            most = max(*others, 2 * sum(map_.tolist()) / len(map_))
            middles = 1 - tile[24::48, 24::48, 0].flatten() / 255
            np.testing.assert_allclose(middles, (map_ / most).clamp(max=1), atol=0.01)
    for row in found:
        for tile, chosen in zip(row, given.attention.chosen.tolist(), strict=True):
            framed = np.argwhere((tile == RED).all(-1))
            top, left = chosen // 2 * 48, chosen % 2 * 48
            assert framed.min(0).tolist() == [top, left]
            assert framed.max(0).tolist() == [top + 47, left + 47]


def test_uniform_attention_is_grey(tmp_path: Path) -> None:
    given = inpainted()
    assert given.attention is not None
    uniform = replace(given.attention, weights=torch.full_like(given.attention.weights, 0.25))
    figure = attention_figure(replace(given, attention=uniform))
    names = [text.get_text() for text in figure.texts]
    for row in tiles_of(drawn(figure, tmp_path), names, len(names), IMAGES)[2:]:
        for tile in row:
            np.testing.assert_allclose(tile[24::48, 24::48], 127.5, atol=1)
