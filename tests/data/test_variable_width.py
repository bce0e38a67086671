"""Photographs of variable width: how they are stored and batched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fragrecon.config.schema import Config
from fragrecon.data import store as stores
from fragrecon.data.module import FragmentData
from fragrecon.data.readers.folder import ImageFolder
from fragrecon.data.readers.images import decode, nearest_width
from fragrecon.data.store import Store, open_or_build, open_store
from fragrecon.errors import ConfigError, DataError
from fragrecon.evaluation.setup import open_data, user_data
from fragrecon.run import compose
from tests.data.test_module import PLAIN

Opener = Callable[..., FragmentData]


@pytest.fixture(scope="module")
def config(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    return compose(line(photos, f"data.cache_dir={tmp_path_factory.mktemp('cache')}"))


def line(root: Path, *more: str) -> list[str]:
    return [
        *("experiment=whole_images", "evaluation=reconstruction", "data=folder", f"data.root={root}"),
        *("data.channels=1", "data.image_height=32", "data.puzzles_per_batch=4", *more),
    ]


@pytest.fixture
def opener(config: Config) -> Opener:
    def open_(seed: int = 0, **changes: Any) -> FragmentData:
        return open_data(replace(config, seed=seed, data=replace(config.data, **changes | {"augment": PLAIN})))

    return open_


def truth(root: Path, split: str) -> list[np.ndarray]:
    """Images as Pillow alone would bring them to a height of 32, in the order of their paths."""
    found = []
    for path in sorted((root / split).rglob("*.png")):
        with Image.open(path) as picture:
            assert picture.height == 48
            width = picture.width * 32 // 48  # of these, all are multiples of 16
            found.append(np.asarray(picture.resize((width, 32), Image.Resampling.BOX).convert("L"))[None])
    return found


# Sizes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "height", "step", "width"),
    [
        ((152, 1280), 152, 16, 1280),
        ((427, 640), 152, 16, 224),  # 227.8
        ((640, 427), 152, 16, 96),  # 101.4
        ((1000, 10), 152, 16, 16),  # 1.5, and at least one step
        ((10, 1000), 152, 16, 15200),
        ((427, 640), 152, 1, 228),
        ((100, 100), 100, 7, 98),
    ],
)
def test_a_width_is_the_multiple_next_to_the_aspect(size: tuple[int, int], height: int, step: int, width: int) -> None:
    assert nearest_width(size, height, step) == width


def test_what_is_over_is_cut_off_on_both_sides_alike(tmp_path: Path) -> None:
    """20 x 36 pixels at a height of 10 would be 18 wide: of width 16, two columns of the original go on each side."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 36), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    found = decode(tmp_path / "image.png", (1, 10, None), step=16)
    means = pixels[:, 2:-2].reshape(10, 2, 16, 2).mean((1, 3))
    assert found.shape == (1, 10, 16)
    assert abs(found[0] - means).max() <= 1


def test_an_upright_photograph_that_lies_in_its_file_keeps_its_upright_width(tmp_path: Path) -> None:
    picture, exif = Image.new("L", (60, 20)), Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "lying.jpg", exif=exif)
    assert decode(tmp_path / "lying.jpg", (1, 20, None), step=1).shape == (1, 20, 7)  # 60 high, 20 wide


def test_nominal_shapes_follow_the_height_and_the_aspect_of_the_image_size(photos: Path) -> None:
    data = compose(line(photos, "data.image_height=152")).data
    assert data.image_shape == data.fragment_shape == (1, 152, 152)
    data = compose(line(photos, "data.image_height=152", "data.image_size=[76,640]")).data
    assert data.image_shape == data.fragment_shape == (1, 152, 1280)
    fixed = compose(line(photos, "data.image_height=null")).data
    assert (fixed.variable_width, fixed.image_shape) == (False, (1, 64, 64))


def test_widths_are_multiples_of_the_step_in_the_data_and_in_files_of_ones_own(config: Config, photos: Path) -> None:
    changed = replace(config, data=replace(config.data, width_step=40))
    data, wanted = open_data(changed), {16: 40, 32: 40, 48: 40, 96: 80}
    assert data.store("test").widths.tolist() == [wanted[image.shape[2]] for image in truth(photos, "test")]
    with user_data(changed, sorted((photos / "test" / "china").glob("*.png"))) as own:
        assert own.store("test").widths.tolist() == data.store("test").widths.tolist()[:11]


# The store -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(photos: Path, tmp_path: Path) -> Store:
    reader = ImageFolder(photos, channels=1, image_height=32)
    return open_or_build(reader, "photos", "train", tmp_path)


def test_the_store_is_one_map_of_all_pixels_with_an_index(store: Store, photos: Path) -> None:
    images = truth(photos, "train")
    assert len(store) == len(images) == 44
    assert (store.folder / "images.u8").read_bytes() == b"".join(image.tobytes() for image in images)
    assert np.load(store.folder / "widths.npy").tolist() == [image.shape[2] for image in images]
    assert store.labels.tolist() == [0] * 22 + [1] * 22
    assert store.manifest.shape == (1, 32, None)
    assert store.manifest.classes == ("china", "flower")
    assert not store.images.flags.owndata
    assert not store.images.flags.writeable


def test_images_of_one_width_are_read_in_the_order_asked_for(store: Store, photos: Path) -> None:
    images = truth(photos, "train")
    for width in np.unique(store.widths):
        ids = np.flatnonzero(store.widths == width)[::-1]
        np.testing.assert_array_equal(store.read(ids), np.stack([images[number] for number in ids]))
    none = store.read(np.empty(0, np.int64))
    assert none.shape[:3] == (0, 1, 32)
    with pytest.raises(ValueError, match="16 to 96"):
        store.read(np.array([0, 3, 10]))


@pytest.mark.parametrize("harm", ["cut widths", "other widths", "no widths", "cut images"])
def test_a_damaged_store_is_refused(store: Store, harm: str) -> None:
    path = store.folder / ("images.u8" if harm == "cut images" else "widths.npy")
    if harm == "no widths":
        path.unlink()
    elif harm == "other widths":
        np.save(path, store.widths[::-1])
    else:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"{path.name} is (truncated|missing or damaged).*delete the folder"):
        open_store(store.folder, store.manifest.source)


def test_height_step_and_freedom_make_other_stores(photos: Path, tmp_path: Path) -> None:
    def folder(**how: Any) -> Path:
        reader = ImageFolder(photos, (32, 32), 1, **how)
        return stores.store_folder(tmp_path, "photos", reader.source("train"), reader.shape, "train")

    found = [folder(), folder(image_height=32), folder(image_height=40), folder(image_height=32, width_step=8)]
    assert len(set(found)) == 4
    assert folder() == folder(width_step=8)


# Training batches ----------------------------------------------------------------------------------------------------


def flat(batches: list[Any]) -> list[int]:
    return [number for batch in batches for number in batch.image_ids[:, 0].tolist()]


def test_an_epoch_shows_each_image_once_in_batches_of_one_width(opener: Opener, photos: Path) -> None:
    data, images = opener(), truth(photos, "train")
    widths = data.store("train").widths[data.training_images()]
    assert data.batches_per_epoch == sum(-(-(widths == width).sum() // 4) for width in set(widths.tolist()))
    epoch = [data.train_batch(number) for number in range(data.batches_per_epoch)]
    assert sorted(flat(epoch)) == data.training_images().tolist()
    assert {batch.fragments.shape[-1] for batch in epoch} == {16, 32, 48, 96}
    for number, batch in enumerate(epoch):
        assert batch.fragments.shape[:4] == (len(batch), 1, 1, 32)
        assert batch.fragment_size == (32, batch.fragments.shape[-1])
        assert batch.step == number
        for own, image, label in zip(batch.image_ids[:, 0], batch.fragments[:, 0], batch.labels[:, 0], strict=True):
            np.testing.assert_array_equal(image, images[own])
            assert label == int(own >= 22)
    following = [data.train_batch(data.batches_per_epoch + number) for number in range(data.batches_per_epoch)]
    assert sorted(flat(following)) == sorted(flat(epoch))
    assert flat(following) != flat(epoch)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_a_batch_equally_and_show_some_images_twice_if_they_must(opener: Opener, world_size: int) -> None:
    augmented = {"horizontal_flip": 0.5, "brightness": 0.3}
    data = opener()
    data = data.variant(augment=augmented)
    several = 0
    for number in range(data.batches_per_epoch):
        whole = data.train_batch(number)
        parts = [data.train_batch(number, rank, world_size) for rank in range(world_size)]
        assert len({len(part) for part in parts}) == 1
        together = torch.cat([part.fragments for part in parts])
        assert len(together) == -(-len(whole) // world_size) * world_size
        assert torch.equal(together[: len(whole)], whole.fragments)
        again = flat(parts)[len(whole) :]
        assert set(again) <= set(flat([whole]))
        several += len(again) > 0
    assert several  # of which there are some, so that this was tested


def test_corruption_that_cannot_be_applied_at_some_width_is_refused_before_training(opener: Opener) -> None:
    data = opener(corruption={"share": 1.0, "rotation": 0.5})
    with pytest.raises(ConfigError, match="32x16"):
        data.check()
    opener(corruption={"share": 1.0, "noise": 0.5}).check()


# Fixed batches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 22, 30])
@pytest.mark.parametrize("size", [3, 50])
@pytest.mark.parametrize("world_size", [1, 3])
def test_all_fixed_images_are_read_once_in_batches_of_one_width_on_any_number_of_ranks(
    opener: Opener, photos: Path, count: int, size: int, world_size: int
) -> None:
    found, images = opener().test_set(count), truth(photos, "test")
    dealt = [list(found.loader(size, rank, world_size)) for rank in range(world_size)]
    assert len({len(batches) for batches in dealt}) == 1
    inturn = [batch for step in zip(*dealt, strict=True) for batch in step]
    ids = flat(inturn)
    assert len(ids) == len(set(ids)) == min(count, 22)  # each once
    for batch in inturn:
        assert len(batch) <= size
        for own, image in zip(batch.image_ids[:, 0], batch.fragments[:, 0], strict=True):
            np.testing.assert_array_equal(image, images[own])
    widths = [images[number].shape[2] for number in ids]
    assert widths == sorted(widths)


def test_a_fixed_image_has_its_place_however_it_is_batched(opener: Opener) -> None:
    found = opener().test_set(22)
    single = [found.read(slice(number, number + 1)) for number in range(22)]
    for part in found.parts(4):
        batch = found.read(part)
        assert batch.step == part.start
        for row, number in enumerate(range(part.start, part.stop)):
            assert batch.image_ids[row].equal(single[number].image_ids[0])
            assert batch.fragments[row].equal(single[number].fragments[0])


def test_images_beside_each_other_are_of_the_commonest_width(opener: Opener) -> None:
    shown = opener().side_by_side(3).validation_set().read(slice(0, 1))
    widths = opener().store("train").widths[opener().validation_images()]
    common = sorted(set(widths.tolist()), key=lambda width: (-(widths == width).sum(), width))[0]
    assert shown.fragments.shape[-1] == common
    assert shown.images_per_puzzle == min(3, int((widths == common).sum()))


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.fragment_size=16"], r"cannot be cut.*data\.fragment_size=\$\{data\.image_size\}"),
        (["data.images_per_puzzle=2"], r"data\.images_per_puzzle=1"),
        (["data.images_range=[2,4]"], r"data\.images_range=null"),
        (["evaluation=clustering"], "evaluation=reconstruction"),
        (["data.image_height=0"], r"data\.image_height=0"),
        (["data.width_step=0"], r"data\.width_step=0"),
    ],
)
def test_settings_that_exclude_variable_widths_are_refused(photos: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(line(photos, *overrides))


@pytest.mark.parametrize("name", ["cifar10", "imagenet64", "parquet", "synthetic"])
def test_data_of_one_size_are_refused(photos: Path, name: str) -> None:
    given = [f"data={name}" if text == "data=folder" else text for text in line(photos)]
    with pytest.raises(ConfigError, match=r"data.image_height.*data=folder"):
        open_data(compose(given))


def test_own_images_may_be_of_any_width_but_not_of_another_height(config: Config) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 1, 32, 41), dtype=np.uint8)
    with user_data(config, images) as data:
        batch = data.test_set(5).read(slice(0, 5))
        assert np.array_equal(batch.fragments[:, 0], images[batch.image_ids[:, 0]])
    for wrong in (images[:, :, :31], images[:, 0], images[:, [0, 0, 0]], images.astype(np.float32)):
        with (
            pytest.raises(DataError, match=r"should be uint8 \('M', 1, 32, 'any'\)"),
            user_data(config, wrong),
        ):
            pass


def test_own_files_are_brought_to_their_own_widths(config: Config, photos: Path) -> None:
    paths = sorted((photos / "test" / "flower").glob("*.png"))
    with user_data(config, paths) as data:
        found: list[tuple[int, Tensor]] = []
        for batch in data.test_set(len(paths)).loader(4):
            found += zip(batch.image_ids[:, 0].tolist(), batch.fragments[:, 0], strict=True)
    images = truth(photos, "test")[11:]
    assert sorted(number for number, _ in found) == list(range(11))
    for number, image in found:
        np.testing.assert_array_equal(image, images[number])
