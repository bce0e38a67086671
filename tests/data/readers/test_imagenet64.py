from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fragrecon.data.readers.imagenet64 import ImageNet64
from fragrecon.data.store import Split
from fragrecon.errors import ConfigError, DataError
from tests import layouts


def test_both_splits(tmp_path: Path) -> None:
    written = layouts.imagenet64(tmp_path, train=11, test=5, files=3)
    reader = ImageNet64(tmp_path)
    assert reader.shape == (3, 64, 64)
    for split, expected in written.items():
        layouts.assert_holds(reader, split, expected)
        assert reader.source(split).classes is None
        # The mean that training files hold weighs as much as 8 images.
        assert len(expected.labels) <= reader.source(split).images <= len(expected.labels) + 3 * 9


def test_files_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    written = layouts.imagenet64(tmp_path, train=24, files=12)
    layouts.assert_holds(ImageNet64(tmp_path), "train", written["train"])


def test_other_sizes(tmp_path: Path) -> None:
    written = layouts.imagenet64(tmp_path, shape=(3, 16, 32))
    layouts.assert_holds(ImageNet64(tmp_path, (16, 32)), "train", written["train"])
    with pytest.raises(DataError, match=r"'data' is uint8 \(6, 1536\), expected uint8 \(n, 12288\)"):
        layouts.read(ImageNet64(tmp_path), "train")


@pytest.mark.parametrize(
    ("dev", "place"),
    [
        ("dev_data/dev_data_batch_1", "dev_data/dev_data_batch_1"),
        ("dev_data/dev_data_batch_1", "val_data"),
        ("dev_data/dev_data_batch_1", "val_data/val_data"),
        ("dev_data/dev_data_batch_1", "val_data/val_data_batch_1"),
        ("dev_data/dev_data_batch_1", "dev_data_batch_1"),
    ],
)
def test_held_out_images_are_found(tmp_path: Path, dev: str, place: str) -> None:
    expected = layouts.imagenet64(tmp_path / "made")["test"]
    (tmp_path / "data" / place).parent.mkdir(parents=True)
    shutil.copy(tmp_path / "made" / dev, tmp_path / "data" / place)
    layouts.assert_holds(ImageNet64(tmp_path / "data"), "test", expected)


def test_training_files_right_in_the_root(tmp_path: Path) -> None:
    expected = layouts.imagenet64(tmp_path)["train"]
    layouts.assert_holds(ImageNet64(tmp_path / "train_data"), "train", expected)


def test_a_split_needs_only_its_own_files(tmp_path: Path) -> None:
    written = layouts.imagenet64(tmp_path)
    (tmp_path / "dev_data/dev_data_batch_1").write_bytes(b"garbage")
    layouts.assert_holds(ImageNet64(tmp_path), "train", written["train"])
    before = ImageNet64(tmp_path).source("train")
    shutil.rmtree(tmp_path / "dev_data")
    layouts.assert_holds(ImageNet64(tmp_path), "train", written["train"])
    assert ImageNet64(tmp_path).source("train") == before
    with pytest.raises(DataError) as caught:
        ImageNet64(tmp_path).source("test")
    for part in (str(tmp_path), "train_data", "dev_data_batch_N", "val_data", "Imagenet64_val", "data.root"):
        assert part in str(caught.value)


def as_npz(folder: Path) -> None:
    """Replace the batches in a folder by ``.npz`` files."""
    for path in list(folder.rglob("*_data*")):
        if path.is_file():
            np.savez(f"{path}.npz", **pickle.loads(path.read_bytes()))  # noqa: S301  # written by this test
            path.unlink()


@pytest.mark.fault("ImageNet-64 in the folders of its archives")
@pytest.mark.parametrize("npz", [False, True])
@pytest.mark.parametrize("suffix", ["", "_npz"])
def test_the_folders_of_the_archives(tmp_path: Path, npz: bool, suffix: str) -> None:
    written = layouts.imagenet64(tmp_path / "made", train=24, files=10)
    for part, numbers in (("train_part1", range(1, 6)), ("train_part2", range(6, 11)), ("val", (0,))):
        folder = tmp_path / f"Imagenet64_{part}{suffix}"
        folder.mkdir()
        for number in numbers:
            name = f"train_data_batch_{number}" if number else "val_data"
            origin = f"train_data/{name}" if number else "dev_data/dev_data_batch_1"
            (tmp_path / "made" / origin).rename(folder / name)
    if npz:
        as_npz(tmp_path)
    for split, expected in written.items():
        layouts.assert_holds(ImageNet64(tmp_path), split, expected)
    layouts.assert_holds(ImageNet64(tmp_path / f"Imagenet64_val{suffix}"), "test", written["test"])
    shutil.rmtree(tmp_path / f"Imagenet64_train_part1{suffix}")
    with pytest.raises(DataError, match=r"train_data_batch_1\b"):
        ImageNet64(tmp_path).source("train")


@pytest.mark.fault("ImageNet-64 twice in a folder, as pickles and .npz files")
def test_a_part_in_two_files_is_refused(tmp_path: Path) -> None:
    layouts.imagenet64(tmp_path)
    np.savez(tmp_path / "train_data/train_data_batch_2.npz", data=np.zeros((1, 12288), np.uint8), labels=[1])
    with pytest.raises(
        DataError, match=r"train_data_batch_2 .*train_data_batch_2\.npz|train_data_batch_2\.npz .*batch_2 "
    ):
        ImageNet64(tmp_path).source("train")


@pytest.mark.fault("damaged .npz files of ImageNet-64")
@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"<html>", layouts.LFS_POINTER, "objects", "short", "no labels"])
def test_damaged_npz_files(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "val_data.npz"
    arrays: dict[str, Any] = {"data": np.zeros((2, 12288), np.uint8), "labels": np.array([1, 2])}
    if content == "no labels":
        del arrays["labels"]
    np.savez(path, **arrays | ({"labels": np.array([[1], "x"], object)} if content == "objects" else {}))
    if isinstance(content, bytes) or content == "short":
        path.write_bytes(content if isinstance(content, bytes) else path.read_bytes()[:5000])
    with pytest.raises(DataError, match=str(path)) as caught:
        layouts.read(ImageNet64(tmp_path), "test")
    assert ("Git LFS" in str(caught.value)) == (content == layouts.LFS_POINTER)


@pytest.mark.fault("ImageNet-64 with labels from 0")
def test_labels_from_0(tmp_path: Path) -> None:
    part = layouts.block(6, (3, 64, 64), 4, 1)
    layouts.dump(tmp_path / "val_data", {"data": layouts.rows(part.images), "labels": part.labels.tolist()})
    with pytest.raises(DataError, match=r"data\.reader\.first_label=0"):
        layouts.read(ImageNet64(tmp_path), "test")
    layouts.assert_holds(ImageNet64(tmp_path, first_label=0), "test", part)
    identities = [ImageNet64(tmp_path, first_label=first).source("test").identity for first in (0, 1)]
    assert identities[0] != identities[1]


def test_a_gap_in_the_numbers(tmp_path: Path) -> None:
    layouts.imagenet64(tmp_path, files=7)
    for number in (1, 4, 5):
        (tmp_path / f"train_data/train_data_batch_{number}").unlink()
    with pytest.raises(DataError) as caught:
        ImageNet64(tmp_path).source("train")
    assert (
        f"{tmp_path / 'train_data'} has train_data_batch_7 but not train_data_batch_1, train_data_batch_4, "
        "train_data_batch_5; " in str(caught.value)
    )
    ImageNet64(tmp_path).source("test")


def test_other_files_are_no_batches(tmp_path: Path) -> None:
    written = layouts.imagenet64(tmp_path)
    for name in ("train_data_batch_9.zip", "train_data_batch_03", "train_data_batch_", ".train_data_batch_4"):
        (tmp_path / "train_data" / name).write_bytes(b"x")
    layouts.assert_holds(ImageNet64(tmp_path), "train", written["train"])


@pytest.mark.parametrize("split", ["train", "test"])
def test_no_files(tmp_path: Path, split: Split) -> None:
    with pytest.raises(DataError, match=f"no {split} images in .*; set data.root to their folder"):
        ImageNet64(tmp_path).source(split)
    with pytest.raises(DataError, match=r"nowhere does not exist; set data\.root=FOLDER"):
        ImageNet64(tmp_path / "nowhere").source(split)
    with pytest.raises(ConfigError, match=r"data\.root"):
        ImageNet64()
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file is not a folder; set data\.root=FOLDER"):
        list(ImageNet64(tmp_path / "file").blocks(split))


def test_a_bad_label_names_its_file(tmp_path: Path) -> None:
    layouts.imagenet64(tmp_path)
    for label in (0, 1001):
        data = np.zeros((3, 12288), np.uint8)
        layouts.dump(tmp_path / "train_data/train_data_batch_2", {"data": data, "labels": [1, label, 1000]})
        with pytest.raises(DataError, match=rf"train_data_batch_2: label 1 \(from 0\) is {label}, expected 1\.\.1000"):
            layouts.read(ImageNet64(tmp_path), "train")


def test_the_source_changes_with_its_files(tmp_path: Path) -> None:
    layouts.imagenet64(tmp_path)
    before = ImageNet64(tmp_path).source("train")
    assert ImageNet64(str(tmp_path)).source("train") == before
    os.utime(tmp_path / "train_data/train_data_batch_2", ns=(1, 1))
    after = ImageNet64(tmp_path).source("train")
    assert after.identity != before.identity
    (tmp_path / "train_data/train_data_batch_2").unlink()
    assert ImageNet64(tmp_path).source("train").identity not in (before.identity, after.identity)


@pytest.mark.real
def test_real_files(real_data: Path) -> None:
    root = layouts.real(real_data, "imagenet64")
    reader = ImageNet64(root)
    for split, count in (("train", 30_000), ("test", 4_000)):
        part: Split = "train" if split == "train" else "test"
        labels, total = [], np.zeros(3)
        for block in reader.blocks(part):
            labels.append(block.labels)
            total += block.images.mean((2, 3)).sum(0)
        found = np.bincount(np.concatenate(labels))
        assert found.sum() == count
        assert len(found) == 200
        assert reader.source(part).images == pytest.approx(count, rel=0.01)
        # Red over green over blue, by about as much as all of ImageNet (0.485, 0.456, 0.406): the planes are in order.
        assert total / count / 255 == pytest.approx([0.48, 0.45, 0.40], abs=0.02)
