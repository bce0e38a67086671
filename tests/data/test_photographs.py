"""Photographs as a puzzle, against files that were written for it."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fragrecon.data.photographs import LARGEST, MOST, check_count, cut_photographs, image_files
from fragrecon.errors import ConfigError, DataError


def noise(path: Path, height: int, width: int, seed: int = 0) -> Path:
    """A file of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def tiles_of(path: Path, side: int) -> list[torch.Tensor]:
    """Squares of a file, row by row."""
    pixels = torch.from_numpy(np.array(Image.open(path))).movedim(-1, 0)
    corners = itertools.product(range(0, pixels.shape[1], side), range(0, pixels.shape[2], side))
    return [pixels[:, top : top + side, left : left + side] for top, left in corners]


@pytest.mark.parametrize("scale", [1, 3])
def test_each_fragment_is_of_its_image_and_cell_at_both_sizes(tmp_path: Path, scale: int) -> None:
    paths = [noise(tmp_path / f"{seed}.png", 16 * scale, 24 * scale, seed) for seed in range(3)]
    cut = cut_photographs(paths, (3, 16, 24), (8, 8), seed=0)
    shown, seen = cut.shown, cut.seen
    assert shown.fragments.shape == (1, 18, 3, 8 * scale, 8 * scale)
    assert seen.fragments.shape == (1, 18, 3, 8, 8)
    assert shown.fragments.dtype == torch.uint8
    tiles = [tiles_of(path, 8 * scale) for path in paths]
    places = set()
    for number in range(18):
        source, cell = int(shown.source_ids[0, number]), int(shown.positions[0, number])
        places.add((source, cell))
        assert torch.equal(shown.fragments[0, number], tiles[source][cell])
        means = tiles[source][cell].double().reshape(3, 8, scale, 8, scale).mean((2, 4)) / 255
        torch.testing.assert_close(seen.fragments[0, number].double(), means, atol=1e-6, rtol=0)
    assert places == set(itertools.product(range(3), range(6)))
    assert torch.equal(seen.source_ids, shown.source_ids)
    assert torch.equal(seen.positions, shown.positions)
    assert seen.images_per_puzzle == 3
    assert set(seen.labels.flatten().tolist()) == {-1}


def test_the_order_follows_from_the_seed(tmp_path: Path) -> None:
    paths = [noise(tmp_path / f"{seed}.png", 16, 16, seed) for seed in range(2)]
    first, again, other = (cut_photographs(paths, (3, 16, 16), (4, 4), seed).shown for seed in (0, 0, 1))
    assert torch.equal(first.source_ids, again.source_ids)
    assert not torch.equal(first.source_ids, other.source_ids)
    assert first.source_ids[0].tolist() != sorted(first.source_ids[0].tolist())


def test_photographs_are_shown_as_large_as_the_smallest_allows(tmp_path: Path) -> None:
    large = noise(tmp_path / "large.png", 600, 560)
    for height, width, scale in ((70, 560, 4), (600, 33, 2), (540, 540, LARGEST // 16)):
        other = noise(tmp_path / "other.png", height, width)
        shown = cut_photographs([large, other], (3, 16, 16), (8, 8), 0).shown
        assert shown.fragments.shape[-2:] == (8 * scale, 8 * scale)


def test_what_is_too_small_is_enlarged_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = [noise(tmp_path / "small.png", 15, 40), noise(tmp_path / "large.png", 40, 40)]
    with caplog.at_level(logging.WARNING, "fragrecon"):
        cut = cut_photographs(paths[1:], (3, 16, 16), (8, 8), 0)
        assert "enlarged" not in caplog.text
        cut = cut_photographs(paths, (3, 16, 16), (8, 8), 0)
    assert "smaller than 16x16 pixels and are enlarged" in caplog.text
    assert cut.shown.fragments.shape == (1, 8, 3, 8, 8)


def test_grey_photographs_have_one_channel(tmp_path: Path) -> None:
    cut = cut_photographs([noise(tmp_path / "a.png", 16, 16)], (1, 16, 16), (8, 8), 0)
    assert cut.shown.fragments.shape == cut.seen.fragments.shape == (1, 4, 1, 8, 8)


def test_a_folder_names_its_images_in_order(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", ".hidden.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no image")
    assert image_files(str(tmp_path)) == [tmp_path / "a.JPG", tmp_path / "b.png"]
    both = [str(tmp_path / name) for name in ("b.png", "a.JPG")]
    assert image_files(both) == [Path(name) for name in both]
    assert image_files(both[0]) == [Path(both[0])]


@pytest.mark.fault("input= of a folder with subfolders")
def test_subfolders_are_searched(tmp_path: Path) -> None:
    for name in ("b.png", "a/2.jpg", "a/1/3.avif", ".hidden/4.png", "c/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a/back").symlink_to(tmp_path)
    assert image_files(str(tmp_path)) == [tmp_path / name for name in ("b.png", "a/2.jpg", "a/1/3.avif")]


def test_the_largest_photograph_can_be_set(tmp_path: Path) -> None:
    path = noise(tmp_path / "a.png", 40, 50)
    with pytest.raises(DataError, match=r"50x40.*data\.max_pixels=2000"):
        cut_photographs([path], (3, 16, 16), (8, 8), 0, max_pixels=1999)
    cut_photographs([path], (3, 16, 16), (8, 8), 0, max_pixels=2000)


@pytest.mark.parametrize("given", [None, "", [], 3, ["a.png", 3], {"a": "b.png"}])
def test_what_names_no_images_is_refused(given: object) -> None:
    with pytest.raises(ConfigError, match=r"needs images: input=FOLDER, or 'input=\[FILE,FILE,\.\.\.\]'"):
        image_files(given)


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{tmp_path} holds no image"):
        image_files(str(tmp_path))
    for given in (str(tmp_path / "nothing.png"), [str(tmp_path)]):
        with pytest.raises(DataError, match="is not there"):
            image_files(given)


def test_too_many_fragments_are_refused() -> None:
    check_count(MOST)
    with pytest.raises(ConfigError, match=f"{MOST + 1} fragments are more than the {MOST} that"):
        check_count(MOST + 1)
