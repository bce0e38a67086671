from __future__ import annotations

import itertools
import logging
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fragrecon.config.schema import Config
from fragrecon.data import puzzles
from fragrecon.data.batches import LOOKAHEAD, Batches
from fragrecon.data.corruption import Corruption
from fragrecon.data.module import FixedPuzzles, FragmentData
from fragrecon.data.photographs import image_files
from fragrecon.data.puzzles import FragmentBatch
from fragrecon.data.store import SKIPPED, Split, Store
from fragrecon.errors import ConfigError, DataError
from fragrecon.evaluation.setup import open_data, user_data
from fragrecon.run import compose
from tests import layouts

Opener = Callable[..., FragmentData]
TENSORS = ("fragments", "source_ids", "positions", "rotations", "labels", "image_ids")
PLAIN = dict.fromkeys(("horizontal_flip", "rotation", "brightness", "contrast", "saturation", "hue"), 0.0)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """300 training images, 285 of them to train on: 28 puzzles of 10, so 3 batches of 8 and some left over."""
    return compose(
        [
            "model=pca",
            "data=synthetic",
            "data.reader.train_images=300",
            "data.reader.test_images=60",
            "data.image_size=[32,32]",
            "data.fragment_size=8",
            "evaluation.validation_puzzles=7",
            f"data.cache_dir={tmp_path_factory.mktemp('cache')}",
        ]
    )


@pytest.fixture
def opener(config: Config) -> Opener:
    """A new data module; keywords change keys of the ``data`` section, ``seed`` the run's, ``reader`` the reader's."""

    def open_(seed: int = 0, reader: dict[str, Any] | None = None, evaluation: int = 0, **changes: Any) -> FragmentData:
        data = replace(config.data, reader={**config.data.reader, **(reader or {})}, **changes)
        changed = replace(config, seed=seed, data=data, evaluation=replace(config.evaluation, seed=evaluation))
        return open_data(changed)

    return open_


def assert_equal(one: FragmentBatch, other: FragmentBatch) -> None:
    for name in TENSORS:
        assert getattr(one, name).equal(getattr(other, name)), name
        assert getattr(one, name).dtype == getattr(other, name).dtype, name
    assert one.step == other.step


def together(batches: list[FragmentBatch]) -> FragmentBatch:
    tensors: dict[str, Any] = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in TENSORS}
    return replace(batches[0], **tensors)


def images_of(batch: FragmentBatch, data: FragmentData) -> Tensor:
    """The whole images (B, N, C, H, W), put together from their fragments."""
    order = (batch.source_ids * data.cells + batch.positions).argsort(1)
    count = batch.images_per_puzzle
    whole = [
        puzzles.join(fragments[places].unflatten(0, (count, data.cells)), data.grid)
        for fragments, places in zip(batch.fragments, order, strict=True)
    ]
    return torch.stack(whole)


def pixels(images: Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images.flatten(0, -4)]


# Training batches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{}, {"images_range": [2, 20], "corruption": {"share": 0.5, "gap": 2.0, "noise": 0.1}}]
)
def test_a_training_batch_is_a_pure_function_of_seed_number_and_rank(opener: Opener, changes: dict[str, Any]) -> None:
    data = opener(seed=3, **changes)
    keys = [(number, rank, world) for number in (0, 2, 7) for rank, world in ((0, 1), (1, 2))]
    expected = {key: data.train_batch(*key) for key in keys}
    fresh = opener(seed=3, **changes)
    for key in reversed(keys):
        assert_equal(data.train_batch(*key), expected[key])
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        assert_equal(fresh.train_batch(*key), expected[key])


def test_threads_that_ask_at_once_get_the_same_batches(opener: Opener) -> None:
    data = opener()
    numbers = [number % 4 for number in range(16)]
    expected = [opener().train_batch(number) for number in range(4)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(data.train_batch, numbers))
    for number, batch in zip(numbers, found, strict=True):
        assert_equal(batch, expected[number])


def test_seeds_and_numbers_that_differ_give_batches_that_differ(opener: Opener) -> None:
    batches = [opener(seed=seed).train_batch(number) for seed in (0, 1) for number in (0, 1, 3)]
    for name in ("fragments", "source_ids", "positions", "image_ids"):
        assert len({getattr(batch, name).numpy().tobytes() for batch in batches}) == len(batches), name


@pytest.mark.parametrize("world_size", [2, 8])
@pytest.mark.parametrize("number", [0, 3])
def test_the_ranks_together_have_the_batch_of_a_single_process(opener: Opener, world_size: int, number: int) -> None:
    """Bit for bit, augmentation and all; no image comes to two ranks."""
    data = opener(augment={**opener().config.augment, "hue": 0.1})
    shares = [data.train_batch(number, rank, world_size) for rank in range(world_size)]
    assert all(len(share) == 8 // world_size and share.step == number for share in shares)
    assert_equal(together(shares), data.train_batch(number))
    ids = torch.cat([share.image_ids for share in shares]).flatten().tolist()
    assert len(set(ids)) == 80


def test_puzzles_that_cannot_be_shared_equally_are_refused(opener: Opener) -> None:
    with pytest.raises(ConfigError, match=r"data\.puzzles_per_batch=8 .* 3 processes"):
        opener().train_batch(0, 0, 3)


def test_a_batch_holds_bytes_with_the_shapes_of_the_config(opener: Opener) -> None:
    batch = opener(channels=1, fragment_size=[8, 16], images_per_puzzle=6, puzzles_per_batch=4).train_batch(5)
    assert batch.fragments.shape == (4, 6 * 8, 1, 8, 16)
    assert batch.fragments.dtype == torch.uint8
    for name in ("source_ids", "positions", "labels"):
        assert getattr(batch, name).shape == (4, 48)
        assert getattr(batch, name).dtype == torch.int64
    assert batch.image_ids.shape == (4, 6)
    assert batch.step == 5


def test_unaugmented_fragments_are_cells_of_the_images_they_name(opener: Opener) -> None:
    data = opener(augment=PLAIN)
    store = data.store("train")
    batch = data.train_batch(4)
    ids = batch.image_ids
    assert images_of(batch, data).equal(torch.from_numpy(store.images[ids.numpy()]))
    assert batch.labels.equal(torch.from_numpy(store.labels[ids.numpy()]).gather(1, batch.source_ids))


def test_augmentation_varies_the_pixels_and_nothing_else(opener: Opener) -> None:
    plain, varied = (opener(augment=strength).train_batch(4) for strength in (PLAIN, opener().config.augment))
    for name in TENSORS[1:]:
        assert getattr(plain, name).equal(getattr(varied, name))
    changed = (plain.fragments != varied.fragments).flatten(1).float().mean()
    assert changed > 0.5
    distance = (plain.fragments.float().mean((2, 3, 4)) - varied.fragments.float().mean((2, 3, 4))).abs().mean()
    assert distance < 40  # still the same picture


def test_every_batch_and_seed_varies_its_images_in_another_way(opener: Opener) -> None:
    """By which of its 80 images are mirrored: half of them, another half each time."""
    flips = {**PLAIN, "horizontal_flip": 0.5}
    patterns = []
    for seed, number in ((0, 0), (0, 1), (0, 17), (1, 0)):
        plain, varied = (opener(seed=seed, augment=strength) for strength in (PLAIN, flips))
        images = images_of(plain.train_batch(number), plain).flatten(0, 1)
        found = images_of(varied.train_batch(number), varied).flatten(0, 1)
        mirrored = (found == images.flip(-1)).flatten(1).all(1)
        assert ((found == images).flatten(1).all(1) != mirrored).all()
        patterns.append(mirrored.int())
        assert abs(mirrored.sum() - 40) < 4 * np.sqrt(20)
    for one, other in zip(patterns, [*patterns[1:], patterns[0]], strict=True):
        assert abs((one == other).sum() - 40) < 4 * np.sqrt(20)


def test_an_epoch_shows_no_image_twice_and_training_images_only(opener: Opener) -> None:
    """By their pixels, in the first epoch and in later ones, which do not divide evenly into batches either."""
    data = opener(augment=PLAIN)
    assert data.batches_per_epoch == 3
    store = data.store("train")
    known = {image.tobytes(): index for index, image in enumerate(store.images)}
    assert len(known) == 300, "the test needs images that are all different"
    training = set(data.training_images().tolist())
    shown: set[int] = set()
    for epoch in range(4):
        numbers = range(3 * epoch, 3 * epoch + 3)
        batches = [data.train_batch(number) for number in numbers]
        seen = [known[image] for batch in batches for image in pixels(images_of(batch, data))]
        assert seen == torch.cat([batch.image_ids.flatten() for batch in batches]).tolist()
        assert len(set(seen)) == len(seen) == 240
        assert set(seen) <= training
        shown |= set(seen)
    assert shown == training


def test_training_validation_and_test_images_are_disjoint(opener: Opener) -> None:
    """By index and by pixels, in the splits and in the puzzles that are made of them."""
    data = opener(augment=PLAIN, reader={"train_images": 400, "test_images": 100})
    training, validation = data.training_images(), data.validation_images()
    assert sorted([*training, *validation]) == list(range(400))
    assert 10 <= len(validation) <= 30
    train_store, test_store = data.store("train"), data.store("test")
    parts = {
        "train": {image.tobytes() for image in train_store.images[training]},
        "validation": {image.tobytes() for image in train_store.images[validation]},
        "test": {image.tobytes() for image in test_store.images},
    }
    assert [len(part) for part in parts.values()] == [len(training), len(validation), 100]
    assert len(set.union(*parts.values())) == 500
    seen = {
        "train": [data.train_batch(number) for number in range(data.batches_per_epoch)],
        "validation": list(data.validation_set().loader(3)),
        "test": list(data.test_set(20).loader(8)),
    }
    for name, batches in seen.items():
        images = {image for batch in batches for image in pixels(images_of(batch, data))}
        assert images <= parts[name]
        assert len(images) >= 10


# Puzzles of some number of images -------------------------------------------------------------------------------------


def test_a_range_of_images_is_drawn_anew_for_each_batch_and_evenly_on_a_scale_of_logarithms(opener: Opener) -> None:
    data = opener(images_per_puzzle=4, puzzles_per_batch=2, images_range=[2, 7], fragment_size=16, augment=PLAIN)
    batches = [data.train_batch(number) for number in range(400)]
    found = [batch.images_per_puzzle for batch in batches]
    assert [len(batch) for batch in batches] == [8 // images for images in found]
    counts = np.bincount(found, minlength=8)
    assert counts[:2].sum() == 0
    assert len(counts) == 8
    shares = np.array([np.log((images + 1) / images) / np.log(8 / 2) for images in range(2, 8)])
    # Chi-square with five degrees of freedom: above 20.5 once in a thousand.
    assert ((counts[2:] - 400 * shares) ** 2 / (400 * shares)).sum() < 20.5
    again = np.array(found[1:]) == np.array(found[:-1])
    assert abs(again.mean() - (shares**2).sum()) < 4 * np.sqrt(0.25 / 400)
    other = opener(seed=1, images_per_puzzle=4, puzzles_per_batch=2, images_range=[2, 7], fragment_size=16)
    assert [other.train_batch(number).images_per_puzzle for number in range(40)] != found[:40]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_have_puzzles_of_as_many_images_each_of_their_own(opener: Opener, world_size: int) -> None:
    data, usual = opener(images_range=[3, 20], augment=PLAIN), opener(augment=PLAIN)
    for number in range(8):
        whole = usual.train_batch(number).image_ids.flatten().tolist()
        share = 80 // world_size
        batches = [data.train_batch(number, rank, world_size) for rank in range(world_size)]
        assert len({batch.images_per_puzzle for batch in [*batches, data.train_batch(number)]}) == 1
        for rank, batch in enumerate(batches):
            own = whole[rank * share : (rank + 1) * share]
            rows = share // batch.images_per_puzzle
            assert len(batch) == rows
            assert batch.image_ids.flatten().tolist() == own[: rows * batch.images_per_puzzle]
            assert images_of(batch, data).equal(torch.from_numpy(data.store("train").images[batch.image_ids.numpy()]))
        orders = torch.cat([batch.source_ids * data.cells + batch.positions for batch in batches])
        assert len(torch.unique(orders, dim=0)) == len(orders)


def test_a_range_too_large_for_the_images_of_a_rank_is_refused(opener: Opener) -> None:
    data = opener(images_range=[30, 30])
    assert len(data.train_batch(0, 1, 2)) == 1
    with pytest.raises(ConfigError, match=r"up to 30 images, but each of 4 processes gets only 20 images"):
        data.train_batch(0, 0, 4)


def test_a_range_needs_as_many_training_images_as_a_batch(opener: Opener) -> None:
    enough = {"images_per_puzzle": 15, "batches_per_epoch": 2}
    opener(puzzles_per_batch=19, images_range=[2, 4], **enough).check()
    with pytest.raises(DataError, match=r"images_range, a batch needs 300 different .* there are 285"):
        opener(puzzles_per_batch=20, images_range=[2, 4], **enough).check()
    opener(puzzles_per_batch=20, **enough).check()


# Corruption -------------------------------------------------------------------------------------------------------

CORRUPTED = {"share": 0.6, "gap": 2.0, "noise": 0.1, "jitter": 0.3, "rotation": 0.5}


def test_training_fragments_are_corrupted_and_nothing_else_of_them(opener: Opener) -> None:
    plain, corrupted = opener(seed=3), opener(seed=3, corruption=CORRUPTED)
    for number in (0, 1, 7):
        before, after = plain.train_batch(number), corrupted.train_batch(number)
        assert_equal(after, Corruption(**CORRUPTED).apply(before, 3, number * 80))
        assert not before.rotations.any()
        assert set(after.rotations.flatten().tolist()) == {0, 1, 2, 3}
        for name in ("source_ids", "positions", "labels", "image_ids"):
            assert getattr(before, name).equal(getattr(after, name))
        assert 0.5 < (before.fragments != after.fragments).flatten(1).any(1).float().mean() <= 1
        assert not corrupted.train_batch(number).fragments.equal(
            opener(seed=4, corruption=CORRUPTED).train_batch(number).fragments
        )


def test_without_corruption_there_is_none(opener: Opener) -> None:
    expected = opener(corruption=None).train_batch(1)
    off = {**CORRUPTED, "share": 0.0}
    for corruption in ({}, off, {"share": 1.0}, opener().config.corruption):
        assert_equal(opener(corruption=corruption).train_batch(1), expected)


@pytest.mark.parametrize("world_size", [2, 4])
def test_corruption_of_a_puzzle_does_not_hang_on_the_ranks(opener: Opener, world_size: int) -> None:
    data = opener(corruption=CORRUPTED)
    for number in (0, 3):
        shares = [data.train_batch(number, rank, world_size) for rank in range(world_size)]
        assert_equal(together(shares), data.train_batch(number))
    # With a range ranks have other puzzles, but each rank's are corrupted by numbers of its own.
    ranged, plain = (opener(images_range=[7, 7], corruption=corruption) for corruption in (CORRUPTED, None))
    rows = 80 // world_size // 7
    for rank in range(world_size):
        expected = Corruption(**CORRUPTED).apply(plain.train_batch(3, rank, world_size), 0, 3 * 80 + rank * rows)
        assert_equal(ranged.train_batch(3, rank, world_size), expected)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_all_ranks_miss_the_same_number_of_fragments(opener: Opener, world_size: int) -> None:
    missing = {"share": 0.7, "missing": 0.6}
    data, plain = opener(corruption=missing), opener(corruption=None)
    ranged = opener(corruption=missing, images_range=[2, 9])
    kept, whole = [], 16 * plain.config.images_per_puzzle
    for number in range(8):
        shares = [data.train_batch(number, rank, world_size) for rank in range(world_size)]
        assert_equal(together(shares), data.train_batch(number))
        kept.append(shares[0].fragments.shape[1])
        assert_equal(data.train_batch(number), plain.train_batch(number).first(kept[-1]))
        assert len({ranged.train_batch(number, rank, world_size).fragments.shape[1] for rank in range(world_size)}) == 1
    assert min(kept) >= 0.4 * whole
    assert len(set(kept)) > 3
    assert whole in kept


# The size of an epoch -------------------------------------------------------------------------------------------------


def test_an_epoch_is_as_long_as_the_config_says(opener: Opener) -> None:
    assert opener().batches_per_epoch == 285 // 80
    assert opener(puzzles_per_batch=1).batches_per_epoch == 28
    assert opener(batches_per_epoch=50).batches_per_epoch == 50
    data = opener(batches_per_epoch=50)
    assert data.epoch_length(20) == 20
    assert data.epoch_length(80) == 50
    assert data.epoch_length(1.0) == 50
    assert data.epoch_length(0.5) == 25


def test_a_batch_that_needs_more_images_than_there_are_is_refused(opener: Opener) -> None:
    with pytest.raises(ConfigError, match=r"data\.puzzles_per_batch=29"):
        opener(puzzles_per_batch=29).check()
    opener(puzzles_per_batch=28).check()
    data = opener(puzzles_per_batch=29, batches_per_epoch=2)
    data.check()
    batch = data.train_batch(1)
    assert len(batch) == 29
    assert all(len(set(puzzle)) == 10 for puzzle in batch.image_ids.tolist())


@pytest.mark.parametrize(
    ("per_puzzle", "split", "count"), [(61, "test", 60), (16, "validation", 15), (286, "validation", 15)]
)
def test_splits_too_small_for_a_puzzle_are_refused_before_training(
    opener: Opener, per_puzzle: int, split: str, count: int
) -> None:
    data = opener(images_per_puzzle=per_puzzle)
    check = partial(data.check_test, 1) if split == "test" else data.check
    with pytest.raises(DataError, match=f"needs {per_puzzle} images, but the {split} split has {count}"):
        check()


def test_what_will_not_be_scored_is_not_opened(opener: Opener, tmp_path: Path) -> None:
    data = opener(cache_dir=str(tmp_path))
    data.check()
    assert sorted(path.name for path in tmp_path.glob("*/*") if path.is_dir()) == ["train"]
    data.check_test(1)
    assert sorted(path.name for path in tmp_path.glob("*/*") if path.is_dir()) == ["test", "train"]


def test_fragments_that_do_not_divide_the_image_are_refused_at_once(opener: Opener, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"height 7 does not divide .* 1, 2, 4, 8, 16, 32"):
        opener(fragment_size=7, cache_dir=str(tmp_path / "untouched"))
    assert not (tmp_path / "untouched").exists()


# Validation and test --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["validation", "test"])
def test_fixed_puzzles_depend_on_the_puzzle_seed_alone(opener: Opener, split: str) -> None:
    def whole(data: FragmentData) -> FragmentBatch:
        return fixed(data, split).read(slice(0, 7))

    expected = whole(opener())
    assert_equal(whole(opener(seed=5, puzzles_per_batch=2, augment=PLAIN)), expected)
    assert_equal(whole(opener(augment=dict.fromkeys(PLAIN, 1.0))), expected)
    assert not whole(opener(evaluation=1)).image_ids.equal(expected.image_ids)


def fixed(data: FragmentData, split: str, count: int = 7) -> FixedPuzzles:
    return data.validation_set() if split == "validation" else data.test_set(count)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_fixed_puzzles_show_the_images_of_their_split_as_they_are(opener: Opener, split: str) -> None:
    data = opener()
    found = fixed(data, split)
    batch = found.read(slice(0, 7))
    store = data.store("train" if split == "validation" else "test")
    ids = batch.image_ids
    assert images_of(batch, data).equal(torch.from_numpy(store.images[ids.numpy()]))
    assert batch.labels.equal(torch.from_numpy(store.labels[ids.numpy()]).gather(1, batch.source_ids))
    assert set(ids.flatten().tolist()) <= set(found.available.tolist())
    if split == "validation":
        assert found.available.tolist() == data.validation_images().tolist()
    assert batch.fragments.dtype == torch.uint8


def test_single_images_are_scored_once_however_many_puzzles_are_asked_for(config: Config) -> None:
    alone = replace(config.data, images_per_puzzle=1)
    data = open_data(replace(config, data=alone, evaluation=replace(config.evaluation, clustering=False)))
    there = len(data.store("test"))
    found = data.test_set(there + 7)
    assert len(found) == there
    ids = torch.cat([batch.image_ids[:, 0] for batch in found.loader(8)])
    assert sorted(ids.tolist()) == list(range(there))
    assert len(data.test_set(there - 1)) == there - 1


def test_the_first_test_puzzles_stay_when_more_are_scored(opener: Opener) -> None:
    data = opener()
    assert_equal(data.test_set(100).read(slice(2, 9)), data.test_set(10).read(slice(2, 9)))
    assert len(data.test_set(100)) == 100
    assert len(data.validation_set()) == 7


@pytest.mark.parametrize("split", ["validation", "test"])
def test_fixed_puzzles_are_the_same_in_any_slices(opener: Opener, split: str) -> None:
    found = replace_count(fixed(opener(), split), 10)
    whole = found.read(slice(0, 10))
    assert len(whole) == 10
    assert whole.step == 0
    assert_equal(found.read(slice(None)), whole)
    for cuts in ([0, 10], [0, 1, 10], [0, 3, 3, 7, 10], list(range(11))):
        pieces = [found.read(slice(first, last)) for first, last in itertools.pairwise(cuts)]
        assert [piece.step for piece in pieces] == cuts[:-1]
        assert [len(piece) for piece in pieces] == np.diff(cuts).tolist()
        assert_equal(together(pieces), whole)


def replace_count(found: FixedPuzzles, count: int) -> FixedPuzzles:
    return FixedPuzzles(found.data, found.split, found.available, count, found.purpose)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_fixed_puzzles_are_those_of_their_purpose(opener: Opener, split: str) -> None:
    data = opener(evaluation=4)
    found = fixed(data, split)
    ids, orders = puzzles.fixed_puzzles(found.available, 2, 3, 10, data.cells, 4, split)
    batch = found.read(slice(2, 5))
    assert batch.image_ids.equal(torch.from_numpy(ids))
    assert (batch.source_ids * data.cells + batch.positions).equal(torch.from_numpy(orders))


def test_a_slice_beyond_the_last_puzzle_ends_with_it(opener: Opener) -> None:
    found = opener().test_set(10)
    assert_equal(found.read(slice(8, 50)), found.read(slice(8, 10)))
    assert len(found.read(slice(8, 50))) == 2
    assert_equal(found.read(slice(-2, None)), found.read(slice(8, 10)))
    assert len(found.read(slice(10, 20))) == len(found.read(slice(15, 20))) == 0


def test_a_million_puzzles_take_no_memory_until_they_are_read(opener: Opener) -> None:
    data = opener()
    data.store("test")
    tracemalloc.start()
    try:
        found = data.test_set(10**6)
        assert len(found) == 10**6
        deep = found.read(slice(999_990, 999_993))
        assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
    finally:
        tracemalloc.stop()
    assert deep.step == 999_990
    assert len(deep) == 3
    assert_equal(found.read(slice(999_991, 999_992)), replace_count(found, 999_992).read(slice(999_991, None)))
    assert not deep.image_ids.equal(found.read(slice(0, 3)).image_ids)
    assert len(found.loader(8)) == 125_000


@pytest.mark.parametrize("count", [0, 1, 7])
@pytest.mark.parametrize("size", [1, 3, 50])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_fixed_puzzles_are_the_same_in_any_batches_on_any_number_of_ranks(
    opener: Opener, count: int, size: int, world_size: int
) -> None:
    found = opener().test_set(count)
    expected = found.read(slice(0, count))
    ranks = [list(found.loader(size, rank, world_size)) for rank in range(world_size)]
    lengths = {len(batches) for batches in ranks} | {len(found.loader(size, 0, world_size))}
    assert lengths == {-(-count // (size * world_size))}
    by_turn = [batch for batches in zip(*ranks, strict=True) for batch in batches]
    full = [batch for batch in by_turn if len(batch)]
    assert [batch.step for batch in full] == list(range(0, count, size))
    assert all(len(batch) == size for batch in full[:-1])
    for empty in by_turn[len(full) :]:  # only at the end, and with the shapes of others
        assert empty.fragments.shape == (0, *expected.fragments.shape[1:])
        assert empty.image_ids.shape == (0, 10)
    if full:
        assert_equal(together(full), expected)


# Under a trainer ------------------------------------------------------------------------------------------------------


def trained(data: FragmentData, **facts: Any) -> FragmentData:
    """The data module under what it asks of a trainer."""
    values = {
        "accumulate_grad_batches": 1,
        "callbacks": [],
        "limit_train_batches": 1.0,
        "global_step": 0,
        "global_rank": 0,
        "world_size": 1,
        "strategy": SimpleNamespace(root_device=torch.device("cpu")),
    }
    data.trainer = cast(Any, SimpleNamespace(**values | facts))
    return data


def test_epochs_go_on_where_the_last_one_ended(opener: Opener) -> None:
    data = trained(opener())
    loader = data.train_dataloader()
    found = []
    for epoch in range(3):
        cast(Any, data.trainer).global_step = 3 * epoch
        found.append([batch.step for batch in loader])
    assert found == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert_equal(next(iter(loader)), opener().train_batch(6))


@pytest.mark.parametrize(
    ("per_epoch", "facts", "expected"),
    [
        (3, {"global_step": 4}, range(4, 6)),  # resumed within an epoch
        (10, {"global_step": 17}, range(17, 20)),
        (7, {"accumulate_grad_batches": 2}, range(7)),  # steps of 2, 2, 2 and 1 batches
        (7, {"accumulate_grad_batches": 2, "global_step": 3}, range(6, 7)),
        (7, {"accumulate_grad_batches": 2, "global_step": 5}, range(9, 14)),
        (10, {"limit_train_batches": 4}, range(4)),
        (10, {"limit_train_batches": 4, "global_step": 4}, range(4, 8)),
    ],
)
def test_a_loader_gives_the_rest_of_the_current_epoch(
    opener: Opener, per_epoch: int, facts: dict[str, Any], expected: range
) -> None:
    data = trained(opener(batches_per_epoch=per_epoch, images_per_puzzle=2, puzzles_per_batch=1), **facts)
    assert [batch.step for batch in data.train_dataloader()] == list(expected)


def test_ranks_get_their_shares_from_the_loaders(opener: Opener) -> None:
    data = opener()
    for rank in range(2):
        trained(data, global_rank=rank, world_size=2)
        for number, batch in enumerate(data.train_dataloader()):
            assert_equal(batch, data.train_batch(number, rank, 2))
        expected = list(data.validation_set().loader(8, rank, 2))
        found = list(data.val_dataloader())
        assert [len(batch) for batch in found] == [len(batch) for batch in expected] == [7 if rank == 0 else 0]
        assert_equal(found[0], expected[0])


# Making batches ahead -------------------------------------------------------------------------------------------------


def small(number: int) -> FragmentBatch:
    nothing = torch.zeros(1, 0)
    return FragmentBatch(nothing, nothing, nothing, nothing, nothing, nothing, step=number)


def workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


@pytest.mark.parametrize("length", [0, 1, LOOKAHEAD, LOOKAHEAD + 1, 30])
def test_batches_come_in_order_however_long_each_takes(length: int) -> None:
    def make(number: int) -> FragmentBatch:
        time.sleep(0.004 if number % 3 == 0 else 0)
        return small(number)

    batches = Batches(make, lambda: range(length), length)
    assert len(batches) == length
    assert [batch.step for batch in batches] == list(range(length))
    assert workers() == []


def test_batches_are_made_ahead_but_only_some() -> None:
    made: list[int] = []

    def make(number: int) -> FragmentBatch:
        made.append(number)
        return small(number)

    iterator = iter(Batches(make, lambda: range(100), 100))
    for number in range(10):
        assert next(iterator).step == number
        end = time.monotonic() + 5
        while len(made) < number + 1 + LOOKAHEAD and time.monotonic() < end:
            time.sleep(0.001)
        assert made == list(range(number + 1 + LOOKAHEAD))
    cast(Any, iterator).close()


def test_numbers_are_asked_for_anew_at_each_pass() -> None:
    passes: Iterator[range] = iter([range(3), range(10, 12), range(0)])
    batches = Batches(small, lambda: next(passes), 3)
    assert [[batch.step for batch in batches] for _ in range(3)] == [[0, 1, 2], [10, 11], []]


def test_an_error_in_making_reaches_the_consumer_at_its_batch_and_ends_the_thread() -> None:
    def make(number: int) -> FragmentBatch:
        if number == 5:
            raise DataError("image 5 is damaged")
        return small(number)

    seen: list[int] = []
    iterator = iter(Batches(make, lambda: range(100), 100))
    with pytest.raises(DataError, match="image 5 is damaged"):
        seen.extend(batch.step for batch in iterator)
    assert seen == [0, 1, 2, 3, 4]
    assert workers() == []
    assert list(iterator) == []


@pytest.mark.parametrize("way", ["broken off", "closed", "failed"])
def test_an_iteration_that_is_given_up_leaves_no_thread(way: str) -> None:
    made: list[int] = []

    def make(number: int) -> FragmentBatch:
        made.append(number)
        time.sleep(0.002)
        return small(number)

    batches = Batches(make, lambda: range(1000), 1000)
    if way == "broken off":
        for batch in batches:
            if batch.step == 3:
                break
    elif way == "closed":
        iterator = iter(batches)
        assert next(iterator).step == 0
        assert workers() != []
        cast(Any, iterator).close()
    else:
        with pytest.raises(ZeroDivisionError):
            [1 / (3 - batch.step) for batch in batches]
    assert workers() == []
    assert len(made) < 10


def test_batches_that_wait_to_be_made_are_dropped_with_the_iteration() -> None:
    made: list[int] = []

    def make(number: int) -> FragmentBatch:
        made.append(number)
        time.sleep(0.2 if number else 0)
        return small(number)

    iterator = iter(Batches(make, lambda: range(10), 10))
    assert next(iterator).step == 0
    cast(Any, iterator).close()
    assert set(made) <= {0, 1}
    assert workers() == []


def test_images_compressed_at_the_size_at_which_they_are_cut_give_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = Image.new("RGB", (64, 64))
    for split, suffix in (("train", "jpg"), ("val", "png")):
        for number in range(3):
            path = tmp_path / "images" / split / "a" / f"{number}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    for size, warned in ((64, True), (32, False)):
        overrides = ["data=folder", f"data.root={tmp_path / 'images'}", f"data.cache_dir={tmp_path}"]
        data = open_data(compose([*overrides, f"data.image_size=[{size},{size}]"]))
        caplog.clear()
        with caplog.at_level(logging.WARNING, "fragrecon"):
            found = [data.store(split).manifest.lossy for split in cast(tuple[Split, ...], ("train", "test", "train"))]
            data.warn_if_lossy()
        assert found == [3 * warned, 0, 3 * warned]
        assert [record.args for record in caplog.records] == [("3 of 3 train", "folder")] * warned
    single = [
        "data.image_size=[64,64]",
        "data.fragment_size=64",
        "data.images_per_puzzle=1",
        "evaluation=reconstruction",
    ]
    whole = open_data(compose([*overrides, *single]))
    caplog.clear()
    with caplog.at_level(logging.WARNING, "fragrecon"):
        assert whole.store("train").manifest.lossy == 3
        whole.warn_if_lossy()
    assert not caplog.records


@pytest.mark.fault("train and test images with different classes")
@pytest.mark.parametrize(
    ("names", "fits"),
    [(["class 0", "class 1", "class 2"], True), (["class 1", "class 0", "class 2"], False), (None, True)],
)
def test_the_classes_of_both_splits_are_compared(tmp_path: Path, names: list[str] | None, fits: bool) -> None:
    written = layouts.parquet(tmp_path / "images")
    layouts.write_parquet(tmp_path / "images/data/validation-00000-of-00001.parquet", written["test"], names)
    data = open_data(compose(["data=parquet", f"data.root={tmp_path / 'images'}", f"data.cache_dir={tmp_path}"]))
    data.store("train")
    if fits:
        assert len(data.store("test")) == 6
    else:
        with pytest.raises(DataError, match="data=parquet"):
            data.store("test")


@pytest.mark.fault("data.on_bad_image=skip and data.max_pixels on the command line")
def test_bad_images_are_skipped_or_allowed_by_a_key(tmp_path: Path) -> None:
    layouts.folder(tmp_path / "images")
    Image.new("RGB", (200, 100)).save(tmp_path / "images/train/class_0/large.png")
    (tmp_path / "images/train/class_0/bad.png").write_bytes(b"x")
    given = ["data=folder", f"data.root={tmp_path / 'images'}", f"data.cache_dir={tmp_path}"]

    def opened(*overrides: str) -> Store:
        return open_data(compose([*given, *overrides])).store("train")

    with pytest.raises(DataError) as caught:
        opened("data.max_pixels=19999")
    assert all(part in str(caught.value) for part in ("large.png", "bad.png", "max_pixels=20000", "on_bad_image=skip"))
    few = opened("data.on_bad_image=skip", "data.max_pixels=19999")
    assert (len(few), few.manifest.skipped) == (12, 2)
    assert "large.png" in (few.folder / SKIPPED).read_text()
    more = opened("data.on_bad_image=skip")
    assert (len(more), more.manifest.skipped) == (13, 1)
    with pytest.raises(DataError, match="bad"):  # what was skipped is not used without asking
        opened()


@pytest.mark.fault("run.evaluate and input= of a folder with a bad image")
def test_own_images_are_never_skipped(tmp_path: Path) -> None:
    layouts.folder(tmp_path / "own")
    (tmp_path / "own/val/bad.png").write_bytes(b"x")
    config = compose(["data.on_bad_image=skip", f"data.cache_dir={tmp_path}"])
    with pytest.raises(DataError, match="bad"), user_data(config, image_files(str(tmp_path / "own"))) as data:
        data.store("test")
