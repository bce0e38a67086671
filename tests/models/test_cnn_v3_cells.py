"""Cells of a feature map: cosines by an independent transform, and a way back that keeps what cells can hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.fft
import torch
from torch import Tensor, nn
from torch.nn import functional

from fragrecon.models.cnn_v3.cells import CELLS, FromCells, ToCells, waves_of


def pooled(features: Tensor, channels: int) -> Tensor:
    """By weights that hear the first feature alone."""
    layer = ToCells(features.shape[1], channels)
    nn.init.zeros_(layer.weight)
    layer.weight.data[:, 0] = 1
    found: Tensor = layer(features).detach()
    return found


def spread(cells: Tensor, size: tuple[int, int], fade_channels: int | None = None) -> Tensor:
    """To one feature, the sum of all waves."""
    layer = FromCells(cells.shape[1], 1, fade_channels)
    nn.init.ones_(layer.weight)
    found: Tensor = layer(cells, size).detach()
    return found


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_the_first_channel_is_the_plain_average_of_each_cell() -> None:
    features = noise(2, 3, 24, 36)
    torch.testing.assert_close(pooled(features, 1), functional.adaptive_avg_pool2d(features[:, :1], CELLS))


def test_channels_are_the_cosine_transform_of_each_cell() -> None:
    features, channels = noise(1, 1, 20, 28), 35
    found, waves = pooled(features, channels)[0], waves_of(channels, (20, 28))
    assert sorted(zip(waves.u.tolist(), waves.v.tolist(), strict=True)) == [(u, v) for u in range(5) for v in range(7)]
    for i in range(CELLS):
        for j in range(CELLS):
            cell = features[0, 0, 5 * i : 5 * i + 5, 7 * j : 7 * j + 7].double().numpy()
            transform = torch.from_numpy(scipy.fft.dctn(cell, norm="ortho")) / math.sqrt(5 * 7)
            torch.testing.assert_close(found[:, i, j].double(), transform[waves.u, waves.v], atol=1e-5, rtol=1e-4)


def test_all_waves_of_cells_of_one_length_give_the_map_back() -> None:
    features = noise(2, 1, 12, 20)
    torch.testing.assert_close(spread(pooled(features, 15), (12, 20)), features, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(13, 26), (19, 160), (5, 4), (51, 51)])
def test_cells_fade_into_each_other_without_a_change_of_brightness(size: tuple[int, int]) -> None:
    level = spread(pooled(torch.full((1, 1, *size), 0.7), 12), size)
    torch.testing.assert_close(level, torch.full((1, 1, *size), 0.7), atol=1e-5, rtol=0)
    once = spread(pooled(noise(1, 1, *size), 12), size)
    twice = spread(pooled(once, 12), size)
    assert (twice - once).square().mean() < 0.1 * once.square().mean()  # nearly a projection
    assert once.std() > 0.01


def test_means_alone_change_evenly_around_each_seam() -> None:
    cells = noise(1, 1, CELLS, CELLS)
    found = spread(cells, (64, 64))[0, 0]
    at, knots = np.arange(64) + 0.5, np.array([0, 12, 20, 28, 36, 44, 52, 64])  # a quarter of a cell either way
    across = np.stack([np.interp(at, knots, row.repeat(2)) for row in cells[0, 0].numpy()])
    both = np.stack([np.interp(at, knots, column.repeat(2)) for column in across.T]).T
    torch.testing.assert_close(found.double(), torch.from_numpy(both), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("fade_channels", [1, 2, 9])
def test_waves_go_on_beyond_a_seam_while_they_fade(fade_channels: int) -> None:
    cells, size = noise(1, 2, CELLS, CELLS), (4, 48)
    assert waves_of(2, size).v.tolist() == [0, 1]
    found, expected = spread(cells, size, fade_channels)[0, 0].double(), torch.zeros(size, dtype=torch.float64)
    over = 0.5 / min(fade_channels, 2)  # of a cell; both ways
    for row in range(4):
        for column in range(48):
            for cell in range(CELLS):
                t = (column + 0.5) / 12 - cell  # in cells, beyond 0 and 1 too
                inwards = 1 if cell == 0 else min(1, max(0, 0.5 + t / over))
                outwards = 1 if cell == 3 else min(1, max(0, 0.5 + (1 - t) / over))
                flat, wave = cells[0, :, row, cell].tolist()
                expected[row, column] += inwards * outwards * (flat + wave * 2**0.5 * math.cos(math.pi * t))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 9), (1, 40)])
def test_maps_with_fewer_rows_than_cells_are_kept_as_they_are(size: tuple[int, int]) -> None:
    features = noise(1, 1, *size)
    channels = max(1, size[0] // CELLS) * max(1, size[1] // CELLS)
    back = spread(pooled(features, channels), size)
    if size[1] <= CELLS or size[1] % CELLS == 0:
        torch.testing.assert_close(back, features, atol=1e-5, rtol=1e-4)
    assert back.isfinite().all()


def test_a_wide_map_is_divided_more_finely_across() -> None:
    wide, high, square = (waves_of(24, size) for size in ((16, 128), (128, 16), (64, 64)))
    assert wide.v.max() > 3 * wide.u.max()
    assert (high.u.max(), high.v.max()) == (wide.v.max(), wide.u.max())
    assert abs(int(square.u.max()) - int(square.v.max())) <= 1


def test_channels_beyond_the_waves_of_a_map_share_them() -> None:
    cells = noise(1, 10, CELLS, CELLS)
    waves = waves_of(10, (8, 8))  # four of them
    assert waves.times.tolist() == [3, 3, 2, 2, 3, 3, 2, 2, 3, 3]
    means = torch.stack([cells[:, first::4].mean(1) for first in range(4)], 1)
    torch.testing.assert_close(spread(cells, (8, 8)), spread(means, (8, 8)), atol=1e-5, rtol=1e-4)


def test_what_was_first_asked_for_in_inference_can_be_trained_with() -> None:
    down, up, features = ToCells(2, 7), FromCells(7, 2), noise(1, 2, 41, 43).requires_grad_()
    with torch.inference_mode():
        up(down(features), (41, 43))
    up(down(features), (41, 43)).square().sum().backward()
    for tensor in (features, down.weight, up.weight):
        assert tensor.grad is not None
        assert tensor.grad.abs().sum() > 0


def test_cells_are_as_exact_under_autocast() -> None:
    features = noise(1, 2, 16, 16)
    down = ToCells(2, 5)
    with torch.autocast("cpu", torch.bfloat16):
        found = down(features)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, down(features))
