from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fragrecon.errors import ConfigError
from fragrecon.jigsaw.pieces import check_square, cut, erode, join, looks, piece_size, shuffle
from tests.jigsaw.samples import CHINA, FLOWER, taken


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(7, 30), st.integers(7, 30)), min_size=1, max_size=3),
    size=st.tuples(st.integers(2, 7), st.integers(2, 7)),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 99),
)
def test_joined_pieces_are_the_cropped_images(
    sizes: list[tuple[int, int]], size: tuple[int, int], channels: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randint(256, (channels, *one), generator=generator, dtype=torch.uint8) for one in sizes]
    rotate = size[0] == size[1]
    pieces, truth = taken(shuffle(cut(images, size), generator, rotate=rotate))
    joined = join(pieces, truth, 0)
    assert len(joined) == len(images)
    for image, back, (rows, columns) in zip(images, joined, truth.grids, strict=True):
        assert (rows, columns) == (image.shape[1] // size[0], image.shape[2] // size[1])
        torch.testing.assert_close(back, image[:, : rows * size[0], : columns * size[1]], rtol=0, atol=0)


def test_a_rotated_piece_is_undone_by_its_rotation() -> None:
    pieces, truth = taken(shuffle(cut([CHINA], (40, 40)), torch.Generator().manual_seed(3), rotate=True))
    assert set(truth.rotations.tolist()) == {0, 1, 2, 3}
    for piece in range(10):
        row, column = truth.rows[piece] * 40, truth.columns[piece] * 40
        upright = CHINA[:, row : row + 40, column : column + 40].numpy()
        given_ = np.rot90(upright, truth.rotations[piece], (1, 2))  # counterclockwise
        np.testing.assert_array_equal(pieces[piece].numpy(), given_)


def test_missing_pieces_leave_holes() -> None:
    pieces, truth = taken(shuffle(cut([CHINA], (61, 64)), torch.Generator().manual_seed(0), missing=0.1))
    assert len(pieces) == len(truth.rows) == 63
    (image,) = join(pieces, truth, 255)
    empty = set(np.ndindex(7, 10)) - set(zip(truth.rows.tolist(), truth.columns.tolist(), strict=True))
    assert len(empty) == 7
    for row, column in empty:
        assert (image[:, row * 61 : row * 61 + 61, column * 64 : column * 64 + 64] == 255).all()


def test_a_grid_has_the_largest_pieces_that_fit_every_image() -> None:
    images = [CHINA, FLOWER[:, :300, :500]]
    size = piece_size(images, (8, 10))
    assert size == (37, 50)
    assert cut(images, size, (8, 10)).pieces.shape == (160, 3, 37, 50)


def test_equal_pieces_have_one_look() -> None:
    pieces = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    pieces[1, 0, 0, 0] = pieces[2, 0, 0, 1] = 9  # the second, turned once clockwise, is the third
    found = looks(pieces, rotations=True)
    assert len(set(found[0])) == 1
    assert (found[3] == found[0]).all()
    assert len(set(found[1])) == 4
    assert found[2].tolist() == np.roll(found[1], 1).tolist()
    upright = looks(pieces, rotations=False)
    assert (upright == upright[:, :1]).all()
    assert len(set(upright[:, 0].tolist())) == 3


def test_eroded_pieces_are_their_centres() -> None:
    pieces = torch.arange(36).view(1, 1, 6, 6)
    assert erode(pieces, 2).tolist() == [[[[14, 15], [20, 21]]]]


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"427x640.*500x500"):
        cut([CHINA], (500, 500))
    with pytest.raises(ConfigError, match=r"pieces.grid=\[300, 4\]"):
        piece_size([CHINA], (300, 4))
    with pytest.raises(ConfigError, match="40x50"):
        check_square(torch.zeros(1, 3, 40, 50), rotate=True)
    with pytest.raises(ConfigError, match="6x6"):
        erode(torch.zeros(1, 1, 6, 6), 3)
