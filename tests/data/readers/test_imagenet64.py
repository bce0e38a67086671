from __future__ import annotations

import os
import shutil
from pathlib import Path

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
    for part in (f"no test images in {tmp_path}", "dev_data/dev_data_batch_N", "val_data/val_data,", "data.root"):
        assert part in str(caught.value)


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
