"""What the page of a reassembling model shows, against the files themselves."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor

from fragrecon.clustering.backends import BACKENDS
from fragrecon.data.photographs import MOST
from fragrecon.demo.reassembly import Reassembler, Rebuilt, shuffled_picture
from fragrecon.errors import ConfigError, DataError
from fragrecon.evaluation.clustering.protocol import ClusteringProtocol
from fragrecon.models.mosaic import Mosaic
from fragrecon.reassembly.rebuild import Placement

ROWS, COLUMNS, SIDE = 2, 3, 8
CELLS, SHAPE = ROWS * COLUMNS, (3, ROWS * SIDE, COLUMNS * SIDE)
Pixels = npt.NDArray[np.uint8]


@pytest.fixture
def reassembler() -> Reassembler:
    torch.manual_seed(0)
    model = Mosaic((3, SIDE, SIDE), (ROWS, COLUMNS), 8, width=16, depth=1, heads=2).eval()
    protocol = ClusteringProtocol(BACKENDS["batched"], 2, 0, 2**24)
    return Reassembler(model, torch.device("cpu"), SHAPE, (SIDE, SIDE), protocol)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Three files of random pixels, as large as the model sees them."""
    generator, paths = np.random.default_rng(0), [tmp_path / f"{n}.png" for n in range(3)]
    for path in paths:
        Image.fromarray(generator.integers(0, 256, (SHAPE[1], SHAPE[2], 3), np.uint8)).save(path)
    return paths


def tiles(picture: Tensor, columns: int, count: int, height: int, width: int, gap: int) -> list[Pixels]:
    """Parts of a sheet, of which each pixel was repeated."""
    times = picture.shape[2] // (columns * (width + gap) + gap)
    small = picture.numpy()[:, ::times, ::times].transpose(1, 2, 0)
    np.testing.assert_array_equal(small.repeat(times, 0).repeat(times, 1), picture.numpy().transpose(1, 2, 0))
    corners = ((gap + n // columns * (height + gap), gap + n % columns * (width + gap)) for n in range(count))
    return [small[top : top + height, left : left + width] for top, left in corners]


def cut(path: Path) -> list[bytes]:
    image = np.asarray(Image.open(path))
    corners = [(row * SIDE, column * SIDE) for row in range(ROWS) for column in range(COLUMNS)]
    return [image[top : top + SIDE, left : left + SIDE].tobytes() for top, left in corners]


def test_all_fragments_are_shuffled_and_again_in_another_order(reassembler: Reassembler, images: list[Path]) -> None:
    sheets = [
        [tile.tobytes() for tile in tiles(shuffled_picture(reassembler.cut(images, shuffle)), 5, 18, SIDE, SIDE, 1)]
        for shuffle in (0, 1)
    ]
    all_fragments = [fragment for path in images for fragment in cut(path)]
    for sheet in sheets:
        assert Counter(sheet) == Counter(all_fragments)
        assert sheet != all_fragments
    assert sheets[0] != sheets[1]


def test_the_model_is_given_what_is_shown_and_puts_each_fragment_somewhere(
    reassembler: Reassembler, images: list[Path]
) -> None:
    puzzle = reassembler.cut(images, 0)
    rebuilt = reassembler.solve(puzzle)
    np.testing.assert_allclose(puzzle.seen.fragments.numpy(), puzzle.shown.fragments.numpy() / 255, atol=1e-6)
    assert (rebuilt.k, rebuilt.placement.cells.shape) == (3, (1, 18))
    places = rebuilt.placement.images[0] * CELLS + rebuilt.placement.cells[0]
    assert sorted(places.tolist()) == list(range(18))
    again = reassembler.solve(puzzle)
    assert torch.equal(again.placement.cells, rebuilt.placement.cells)


def perfect(reassembler: Reassembler, images: list[Path]) -> Rebuilt:
    puzzle = reassembler.cut(images, 0)
    order = torch.tensor([2, 0, 1])  # images are found in no order
    shown = puzzle.shown
    placement = Placement(order[shown.source_ids], shown.positions.clone(), shown.rotations)
    return Rebuilt(puzzle, placement, 3, reassembler.grid)


def swapped(rebuilt: Rebuilt, one: int, other: int) -> Rebuilt:
    images, cells = (each.clone() for each in (rebuilt.placement.images, rebuilt.placement.cells))
    for place in (images, cells):
        place[0, [one, other]] = place[0, [other, one]]
    return replace(rebuilt, placement=replace(rebuilt.placement, images=images, cells=cells))


def test_what_is_put_together_without_a_fault_is_shown_beside_the_truth(
    reassembler: Reassembler, images: list[Path]
) -> None:
    rebuilt = perfect(reassembler, images)
    assert rebuilt.facts == {"at the correct cell": "18 of 18 fragments", "perfect": "3 of 3 images"}
    shown = tiles(rebuilt.picture, 4, 6, SHAPE[1], SHAPE[2], 1)
    for number, path in enumerate(images):
        original = np.asarray(Image.open(path))
        np.testing.assert_array_equal(shown[2 * number], original)
        np.testing.assert_array_equal(shown[2 * number + 1], original)


def test_two_fragments_that_changed_places_are_counted_and_framed(reassembler: Reassembler, images: list[Path]) -> None:
    whole = perfect(reassembler, images)
    truth = whole.puzzle.shown
    home = [(int(source), int(cell)) for source, cell in zip(truth.source_ids[0], truth.positions[0], strict=True)]
    rebuilt = swapped(whole, home.index((0, 1)), home.index((2, 5)))
    assert rebuilt.facts == {"at the correct cell": "16 of 18 fragments", "perfect": "1 of 3 images"}
    shown = tiles(rebuilt.picture, 4, 6, SHAPE[1], SHAPE[2], 1)
    framed = set()
    for number in range(3):
        for cell in range(CELLS):
            top, left = cell // COLUMNS * SIDE, cell % COLUMNS * SIDE
            tile = shown[2 * number + 1][top : top + SIDE, left : left + SIDE]
            edge = np.concatenate([tile[0], tile[-1], tile[:, 0], tile[:, -1]])
            if (edge == [217, 26, 26]).all():
                framed.add((number, cell))
    assert framed == {(0, 1), (2, 5)}


def test_one_image_alone_is_a_puzzle_too(reassembler: Reassembler, images: list[Path]) -> None:
    rebuilt = reassembler.solve(reassembler.cut(images[:1], 0))
    assert (rebuilt.k, rebuilt.placement.cells.shape) == (1, (1, CELLS))
    tiles(rebuilt.picture, 2, 2, SHAPE[1], SHAPE[2], 1)


def test_too_many_images_and_files_that_are_none_are_refused(
    reassembler: Reassembler, tmp_path: Path, images: list[Path]
) -> None:
    with pytest.raises(ConfigError, match=f"more than the {MOST}"):
        reassembler.cut(images * (MOST // (3 * CELLS) + 1), 0)
    (tmp_path / "note.png").write_text("no image")
    with pytest.raises(DataError, match="not a readable image"):
        reassembler.cut([tmp_path / "note.png"], 0)
