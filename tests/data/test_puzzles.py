from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fragrecon.data import puzzles
from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError, DataError

Size = tuple[int, int]
unhurried = settings(deadline=None, max_examples=40)
AVAILABLE = np.arange(95) + 1000
SIZES = [((64, 64), (16, 16)), ((6, 15), (2, 5)), ((12, 8), (3, 8)), ((5, 7), (5, 7)), ((4, 6), (1, 1))]


def picture(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def slow_cell(image: Tensor, fragment_size: Size, cell: int) -> Tensor:
    """Cell number ``cell`` of an image (C, H, W), counted along rows as one reads, pixel by pixel."""
    h, w = fragment_size
    channels, _, width = image.shape
    row, column = cell // (width // w), cell % (width // w)
    found = torch.zeros(channels, h, w, dtype=image.dtype)
    for c, y, x in itertools.product(range(channels), range(h), range(w)):
        found[c, y, x] = image[c, row * h + y, column * w + x]
    return found


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("image_size", "fragment_size"), SIZES)
def test_cutting_equals_a_slow_loop(image_size: Size, fragment_size: Size, channels: int) -> None:
    image = picture((channels, *image_size))
    rows, columns = image_size[0] // fragment_size[0], image_size[1] // fragment_size[1]
    assert puzzles.grid_of(image_size, fragment_size) == (rows, columns)
    found = puzzles.cut(image, fragment_size)
    assert found.shape == (rows * columns, channels, *fragment_size)
    assert found.dtype == torch.uint8
    for cell in range(rows * columns):
        assert found[cell].equal(slow_cell(image, fragment_size, cell))


@unhurried
@given(st.lists(st.integers(1, 5), min_size=4, max_size=4), st.sampled_from([1, 3]), st.lists(st.integers(0, 3)))
def test_joining_undoes_cutting(sides: list[int], channels: int, batch: list[int]) -> None:
    rows, columns, h, w = sides
    images = picture((*batch[:2], channels, rows * h, columns * w))
    fragments = puzzles.cut(images, (h, w))
    assert puzzles.join(fragments, (rows, columns)).equal(images)
    assert puzzles.cut(puzzles.join(fragments, (rows, columns)), (h, w)).equal(fragments)


@pytest.mark.parametrize(
    ("image_size", "fragment_size", "named", "divisors"),
    [
        ((64, 60), (24, 15), "height 24", "1, 2, 4, 8, 16, 32, 64"),
        ((12, 18), (12, 4), "width 4", "1, 2, 3, 6, 9, 18"),
        ((12, 18), (0, 9), "height 0", "1, 2, 3, 4, 6, 12"),
        ((7, 7), (14, 7), "height 14", "1, 7"),
    ],
)
def test_a_fragment_that_does_not_divide_the_image_is_refused_with_the_sizes_that_do(
    image_size: Size, fragment_size: Size, named: str, divisors: str
) -> None:
    with pytest.raises(ConfigError) as error:
        puzzles.grid_of(image_size, fragment_size)
    assert str(error.value).startswith(f"data.fragment_size: {named} does not divide")
    assert str(error.value).endswith(f" {divisors}")
    with pytest.raises(ConfigError):
        puzzles.cut(torch.zeros(1, *image_size), fragment_size)


def a_batch(
    count: int, images: int, image_size: Size, fragment_size: Size, channels: int, seed: int = 0
) -> tuple[Tensor, Tensor, FragmentBatch]:
    """Images (B, N, C, H, W), their labels (B, N) and the batch made of them."""
    random = np.random.default_rng(seed)
    rows, columns = puzzles.grid_of(image_size, fragment_size)
    pixels = picture((count, images, channels, *image_size), seed)
    labels = torch.from_numpy(random.integers(-1, 1000, (count, images)))
    ids = torch.from_numpy(random.permutation(count * images).reshape(count, images))
    orders = torch.from_numpy(puzzles.draw_orders(count, images * rows * columns, random))
    return pixels, labels, puzzles.make_batch(pixels, labels, ids, orders, fragment_size, step=7)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("image_size", "fragment_size"), [((16, 16), (4, 4)), ((6, 15), (2, 5)), ((5, 7), (5, 7))])
@pytest.mark.parametrize(("count", "images"), [(1, 10), (4, 3), (3, 1)])
def test_every_fragment_is_the_cell_of_the_image_that_it_names(
    count: int, images: int, image_size: Size, fragment_size: Size, channels: int
) -> None:
    pixels, labels, batch = a_batch(count, images, image_size, fragment_size, channels)
    cells = (image_size[0] // fragment_size[0]) * (image_size[1] // fragment_size[1])
    assert batch.fragments.shape == (count, images * cells, channels, *fragment_size)
    assert batch.fragments.dtype == torch.uint8
    assert batch.step == 7
    assert len(batch) == count
    assert batch.images_per_puzzle == images
    for puzzle, place in itertools.product(range(count), range(images * cells)):
        source, cell = int(batch.source_ids[puzzle, place]), int(batch.positions[puzzle, place])
        expected = slow_cell(pixels[puzzle, source], fragment_size, cell)
        assert batch.fragments[puzzle, place].equal(expected)
        assert batch.labels[puzzle, place] == labels[puzzle, source]
    assert batch.rotations.equal(torch.zeros_like(batch.source_ids))
    for puzzle in range(count):  # every cell of every image once; sources are counted in each puzzle anew
        pairs = list(zip(batch.source_ids[puzzle].tolist(), batch.positions[puzzle].tolist(), strict=True))
        assert sorted(pairs) == list(itertools.product(range(images), range(cells)))


def test_a_batch_becomes_float_once_and_keeps_the_rest() -> None:
    _, _, batch = a_batch(2, 3, (4, 4), (2, 2), 3)
    batch.fragments.view(-1)[:256] = torch.arange(256)[: batch.fragments.numel()]
    floats = batch.as_float()
    assert floats.fragments.dtype == torch.float32
    assert floats.fragments.equal(torch.tensor(batch.fragments.numpy() / np.float32(255)))
    assert batch.fragments.dtype == torch.uint8  # the batch itself is left alone
    assert floats.as_float() is floats
    moved = floats.to("cpu")
    for name in ("source_ids", "positions", "rotations", "labels", "image_ids", "step"):
        assert getattr(floats, name) is getattr(batch, name)
        assert getattr(moved, name) is getattr(batch, name)


def test_the_first_fragments_of_a_batch_keep_all_that_is_known_of_them() -> None:
    pixels, labels, batch = a_batch(3, 4, (6, 15), (2, 5), 3)
    batch.rotations = torch.arange(3 * 36).view(3, 36) % 4
    first = batch.first(7)
    assert first.fragments.equal(batch.fragments[:, :7])
    for name in ("source_ids", "positions", "rotations", "labels"):
        assert getattr(first, name).equal(getattr(batch, name)[:, :7]), name
    assert first.image_ids.equal(batch.image_ids)
    assert (first.step, first.images_per_puzzle, len(first)) == (7, 4, 3)
    for puzzle, place in itertools.product(range(3), range(7)):
        source, cell = int(first.source_ids[puzzle, place]), int(first.positions[puzzle, place])
        assert first.fragments[puzzle, place].equal(slow_cell(pixels[puzzle, source], (2, 5), cell))
        assert first.labels[puzzle, place] == labels[puzzle, source]
    assert batch.fragments.shape[1] == 36


def draw(
    available: int | npt.NDArray[np.int64], per_puzzle: int, first: int, count: int, seed: int = 0, group: int = 1
) -> npt.NDArray[np.int64]:
    images = np.arange(available) if isinstance(available, int) else available
    return puzzles.draw_images(images, per_puzzle, first, count, seed, "train", group)


@unhurried
@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 6), st.integers(0, 3))
def test_no_image_comes_twice_in_a_pass(images: int, per_puzzle: int, group: int, pass_number: int) -> None:
    if images < per_puzzle:
        images += per_puzzle
    per_pass = images // per_puzzle
    if per_pass > group:
        per_pass = per_pass // group * group
    drawn = draw(images, per_puzzle, pass_number * per_pass, per_pass, group=group)
    assert drawn.shape == (per_pass, per_puzzle)
    assert len(np.unique(drawn)) == drawn.size
    assert drawn.min() >= 0
    assert drawn.max() < images


def test_images_left_out_of_a_pass_come_in_others() -> None:
    """A pass of 63 images in batches of 4 puzzles of 5 leaves out 3 of them; hardly any is left out of ten."""
    passes = [draw(63, 5, number * 12, 12, group=4) for number in range(10)]
    assert all(len(np.unique(part)) == 60 for part in passes)
    assert len(np.unique(passes)) == 63
    left_out = [tuple(np.setdiff1d(np.arange(63), part)) for part in passes]
    assert len(set(left_out)) == 10


def test_a_batch_holds_no_image_twice_also_where_passes_meet() -> None:
    for number in range(60):
        batch = draw(47, 4, number * 3, 3, group=3)  # 11 puzzles a pass would end in the middle of a batch
        assert len(np.unique(batch)) == 12


def test_a_batch_larger_than_a_pass_goes_on_with_the_next_pass() -> None:
    batch = draw(10, 3, 0, 8, group=8)
    assert all(len(np.unique(puzzle)) == 3 for puzzle in batch)
    assert batch.shape == (8, 3)
    assert (batch == draw(10, 3, 0, 8)).all()


@unhurried
@given(st.integers(0, 200), st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 5))
def test_the_sequence_does_not_depend_on_how_it_is_cut_into_calls(first: int, counts: list[int], group: int) -> None:
    available = np.arange(100, 187) * 3
    whole = draw(available, 6, first, sum(counts), group=group)
    starts = np.cumsum([first, *counts])
    pieces = [draw(available, 6, int(start), count, group=group) for start, count in zip(starts, counts, strict=False)]
    assert (np.concatenate(pieces) == whole).all()
    assert np.isin(whole, available).all()
    assert (draw(available, 6, 0, first + 1, group=group)[-1:] == draw(available, 6, first, 1, group=group)).all()


def test_seeds_purposes_and_passes_draw_different_orders() -> None:
    images = np.arange(200)
    keys = [(seed, purpose, first) for seed in (0, 1) for purpose in ("train", "test") for first in (0, 20)]
    drawn = [tuple(puzzles.draw_images(images, 10, first, 20, seed, purpose).ravel()) for seed, purpose, first in keys]
    assert len(set(drawn)) == len(keys)


def test_too_few_images_for_a_puzzle_are_refused_with_both_numbers() -> None:
    assert sorted(draw(10, 10, 0, 1).ravel()) == list(range(10))
    with pytest.raises(DataError, match="needs 10 images, but the train split has 9"):
        draw(9, 10, 0, 1)
    with pytest.raises(DataError, match="has 0"):
        draw(0, 2, 0, 0)
    with pytest.raises(DataError, match="needs 96 images, but the validation split has 95"):
        puzzles.fixed_puzzles(AVAILABLE, 0, 1, 96, 4, 0, "validation")


@pytest.mark.parametrize("fixed", [False, True])
def test_orders_are_uniform_and_independent(fixed: bool) -> None:
    """Each of the 24 orders of four fragments comes equally often, and so does each pair of neighbouring puzzles."""
    if fixed:
        orders = puzzles.fixed_puzzles(np.arange(4), 0, 12_000, 2, 2, 5, "test")[1]
    else:
        orders = puzzles.draw_orders(12_000, 4, np.random.default_rng(5))
    number = (orders @ [64, 16, 4, 1]).reshape(-1)
    _, counts = np.unique(number, return_counts=True)
    assert len(counts) == 24
    # Chi-square with 23 degrees of freedom: mean 23, standard deviation 6.8. Fixed seed, so this cannot flicker.
    assert ((counts - 500) ** 2 / 500).sum() < 50
    _, pairs = np.unique(number[::2] * 1000 + number[1::2], return_counts=True)
    expected = 6_000 / 576
    chi_square = ((pairs - expected) ** 2 / expected).sum() + (576 - len(pairs)) * expected
    assert abs(chi_square - 575) < 5 * np.sqrt(2 * 575)


def fixed(first: int, count: int, seed: int = 3, purpose: str = "test") -> tuple[puzzles.Indices, puzzles.Indices]:
    return puzzles.fixed_puzzles(AVAILABLE, first, count, 10, 4, seed, purpose)


def test_fixed_puzzles_are_draws_of_images_and_orders_of_their_own() -> None:
    ids, orders = fixed(0, 40)
    assert ids.shape == (40, 10)
    assert orders.shape == (40, 40)
    assert (np.sort(orders, axis=1) == np.arange(40)).all()
    assert all(len(set(puzzle)) == 10 for puzzle in ids.tolist())
    assert len({tuple(order) for order in orders.tolist()}) == 40
    assert (ids == puzzles.draw_images(AVAILABLE, 10, 0, 40, 3, "test")).all()
    for other_ids, other_orders in (fixed(0, 40, seed=4), fixed(0, 40, purpose="validation")):
        assert (other_ids != ids).any()
        assert (other_orders != orders).any(axis=1).all()


@unhurried
@given(st.integers(0, 10**9), st.lists(st.integers(0, 25), min_size=1, max_size=5))
def test_fixed_puzzles_do_not_depend_on_how_the_row_is_cut_into_calls(first: int, counts: list[int]) -> None:
    ids, orders = fixed(first, sum(counts))
    starts = [first + sum(counts[:place]) for place in range(len(counts))]
    pieces = [fixed(start, count) for start, count in zip(starts, counts, strict=True)]
    assert (np.concatenate([piece[0] for piece in pieces]) == ids).all()
    assert (np.concatenate([piece[1] for piece in pieces]) == orders).all()


def slow_is_validation(index: int) -> bool:
    """The first output of SplitMix64 for state ``index``, as in the reference code of S. Vigna, in Python integers."""
    mask = 2**64 - 1
    z = ((index + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) / 2**64 < 0.05


def test_the_hash_of_the_split_is_splitmix64() -> None:
    """The i-th output of SplitMix64 from state 0 hashes image i; these are its published first outputs."""
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC, 0x1B39896A51A8749B]
    for index, output in enumerate(published):
        for share in (output / 2**64 * 0.999, output / 2**64 * 1.001):
            held = puzzles.split_train_validation(5, share)[1]
            assert (index in held) == (output / 2**64 < share)


@pytest.mark.parametrize("count", [0, 1, 2, 3001])
def test_the_split_equals_a_slow_loop_and_is_disjoint_and_complete(count: int) -> None:
    train, validation = puzzles.split_train_validation(count)
    assert validation.tolist() == [index for index in range(count) if slow_is_validation(index)]
    assert train.tolist() == [index for index in range(count) if not slow_is_validation(index)]


@pytest.mark.parametrize("count", [10_000, 50_000])
def test_validation_is_five_percent(count: int) -> None:
    train, validation = puzzles.split_train_validation(count)
    assert len(train) + len(validation) == count
    assert abs(len(validation) - 0.05 * count) < 4 * np.sqrt(0.05 * 0.95 * count)
    # Spread evenly over the set, so also over classes that lie one after the other.
    parts = np.histogram(validation, 10, (0, count))[0]
    assert abs(parts - 0.005 * count).max() < 4.5 * np.sqrt(0.005 * count)


@unhurried
@given(st.integers(0, 100), st.integers(1, 30))
def test_slices_cover_all_once_and_in_order(total: int, size: int) -> None:
    parts = list(puzzles.batches(total, size))
    assert [index for part in parts for index in range(part.start, part.stop)] == list(range(total))
    assert all(part.stop - part.start == size for part in parts[:-1])
