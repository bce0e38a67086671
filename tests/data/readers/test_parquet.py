from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fragrecon.data.readers.parquet import Parquet
from fragrecon.data.store import Block, Split
from fragrecon.errors import ConfigError, DataError
from tests import layouts


def test_both_splits_from_either_folder(tmp_path: Path) -> None:
    written = layouts.parquet(tmp_path, train=23, shards=3)
    for root in (tmp_path, tmp_path / "data"):
        for split, expected in written.items():
            layouts.assert_holds(Parquet(root), split, expected)
            source = Parquet(root).source(split)
            assert source.images == len(expected.labels)
            assert source.classes == ("class 0", "class 1", "class 2")


def test_images_are_brought_to_the_wanted_shape(tmp_path: Path) -> None:
    layouts.parquet(tmp_path)
    whole = layouts.read(Parquet(tmp_path), "train").images
    halves = layouts.read(Parquet(tmp_path, (32, 32)), "train").images
    means = whole.reshape(-1, 3, 32, 2, 32, 2).mean((3, 5))
    assert abs(halves - means).max() <= 1
    assert layouts.read(Parquet(tmp_path, channels=1), "test").images.shape == (6, 1, 64, 64)


def test_large_files_come_in_several_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = layouts.parquet(tmp_path, train=23, shards=2)
    monkeypatch.setattr("fragrecon.data.readers.images.block_length", lambda shape: 5)
    assert [len(block.labels) for block in Parquet(tmp_path).blocks("train")] == [5, 5, 2, 5, 5, 1]
    layouts.assert_holds(Parquet(tmp_path), "train", written["train"])


def test_validation_before_test(tmp_path: Path) -> None:
    written = layouts.parquet(tmp_path)
    unlabelled = Block(layouts.pictures(3), np.full(3, -1))
    layouts.write_parquet(tmp_path / "data/test-00000-of-00001.parquet", unlabelled, ["class 0"])
    layouts.assert_holds(Parquet(tmp_path), "test", written["test"])
    (tmp_path / "data/validation-00000-of-00001.parquet").unlink()
    layouts.assert_holds(Parquet(tmp_path), "test", unlabelled)


def test_older_names_and_no_class_names(tmp_path: Path) -> None:
    part = Block(layouts.pictures(3), np.array([0, 500, 999]))
    layouts.write_parquet(tmp_path / "train-00000-of-00001-0123456789abcdef.parquet", part)
    layouts.assert_holds(Parquet(tmp_path), "train", part)
    assert Parquet(tmp_path).source("train").classes is None
    for metadata in (b"{", b"[]", b'{"info": {"features": {"label": {"names": {"0": "a"}}}}}'):
        path = tmp_path / "train-00000-of-00001-0123456789abcdef.parquet"
        pq.write_table(pq.read_table(path).replace_schema_metadata({"huggingface": metadata}), path)
        assert Parquet(tmp_path).source("train").classes is None


def test_a_split_needs_only_its_own_files(tmp_path: Path) -> None:
    written = layouts.parquet(tmp_path)
    (tmp_path / "data/validation-00000-of-00001.parquet").write_bytes(b"garbage")
    layouts.assert_holds(Parquet(tmp_path), "train", written["train"])
    before = Parquet(tmp_path).source("train")
    (tmp_path / "data/validation-00000-of-00001.parquet").unlink()
    assert Parquet(tmp_path).source("train") == before
    with pytest.raises(
        DataError, match=r"no test images in .*: no validation-00000-of-NNNNN\.parquet or test-00000-of-"
    ):
        Parquet(tmp_path).source("test")


def test_missing_files(tmp_path: Path) -> None:
    layouts.parquet(tmp_path, shards=6)
    for number in (0, 3, 5):
        (tmp_path / f"data/train-{number:05}-of-00006.parquet").unlink()
    with pytest.raises(DataError) as caught:
        Parquet(tmp_path).source("train")
    names = ", ".join(f"train-{number:05}-of-00006.parquet" for number in (0, 3, 5))
    assert f"{tmp_path / 'data'} has 3 of 6 train files; missing are {names}; " in str(caught.value)
    shutil.copy(tmp_path / "data/train-00001-of-00006.parquet", tmp_path / "data/train-00000-of-00001.parquet")
    with pytest.raises(
        DataError, match=r"more than one set of train files: train-00000-of-00001\.parquet, train-00001-of"
    ):
        Parquet(tmp_path).source("train")


@pytest.mark.parametrize("split", ["train", "test"])
def test_no_files(tmp_path: Path, split: Split) -> None:
    with pytest.raises(DataError, match=f"no {split} images in .*; set data.root to their folder"):
        Parquet(tmp_path).source(split)
    with pytest.raises(DataError, match="nowhere does not exist"):
        Parquet(tmp_path / "nowhere").source(split)
    with pytest.raises(ConfigError, match=r"set data\.root=FOLDER"):
        Parquet()


def shard_error(root: Path, table: Any) -> str:
    path = root / "train-00000-of-00001.parquet"
    pq.write_table(table, path)
    with pytest.raises(DataError) as caught:
        layouts.read(Parquet(root), "train")
    assert str(path) in str(caught.value)
    return str(caught.value)


def images(*blobs: bytes | None) -> Any:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": blob, "path": None} for blob in blobs], kind)


def test_malformed_files(tmp_path: Path) -> None:
    good = layouts.encoded(layouts.pictures(1)[0])
    two = images(good, good)
    for table, key in (
        ({"picture": two, "label": [0, 1]}, "data.reader.image"),
        ({"image": [good, good], "label": [0, 1]}, "data.reader.image"),
        ({"image": two}, "data.reader.label"),
        ({"image": two, "label": ["a", "b"]}, "data.reader.label"),
        ({"image": two, "label": [0.0, 1.0]}, "data.reader.label"),
    ):
        found = shard_error(tmp_path, pa.table(table))
        assert key in found
        assert all(name in found for name in table)
    assert "row 1 " in shard_error(tmp_path, pa.table({"image": images(good, None), "label": [0, 1]}))
    assert "row 1 is not a readable image (no image format is recognised)" in shard_error(
        tmp_path, pa.table({"image": images(good, b"x"), "label": [0, 1]})
    )
    assert "label 1 (from 0) is -2, expected -1..2147483647" in shard_error(
        tmp_path, pa.table({"image": two, "label": [0, -2]})
    )
    layouts.write_parquet(
        tmp_path / "train-00000-of-00001.parquet", Block(layouts.pictures(2), np.array([0, 2])), ["a", "b"]
    )
    with pytest.raises(DataError, match=r"rows from 0: label 1 \(from 0\) is 2, expected -1\.\.1"):
        layouts.read(Parquet(tmp_path), "train")


@pytest.mark.fault("damaged Parquet files")
def test_damaged_files(tmp_path: Path) -> None:
    layouts.parquet(tmp_path, train=8, shards=1)
    path = tmp_path / "data/train-00000-of-00001.parquet"
    whole = path.read_bytes()
    for content in (b"", b"<html>", whole[:-100], b"PAR1" + bytes(100) + b"PAR1"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"{path} is not a readable Parquet file \(.*\); get the file again"):
            Parquet(tmp_path).source("train")
    path.write_bytes(whole[:4] + bytes(4000) + whole[4004:])
    assert Parquet(tmp_path).source("train").images == 8
    with pytest.raises(DataError, match=rf"{path} is not a readable Parquet file"):
        layouts.read(Parquet(tmp_path), "train")


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.parquet(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r'needs pyarrow: pip install "fragrecon\[parquet\]"'):
        Parquet(tmp_path).source("train")


PART = Block(layouts.pictures(5), np.array([0, 1, 2, 0, 1]))


@pytest.mark.fault("Parquet files under other names")
@pytest.mark.parametrize(
    ("train", "test"),
    [
        (["train.parquet"], "test.parquet"),
        (["data/train.parquet"], "data/validation.parquet"),
        (["default/train/0000.parquet", "default/train/0001.parquet"], "default/test/0000.parquet"),
        (["train/0000.parquet"], "validation/0000.parquet"),
    ],
)
def test_other_names(tmp_path: Path, train: list[str], test: str) -> None:
    halves = [Block(PART.images[:2], PART.labels[:2]), Block(PART.images[2:], PART.labels[2:])]
    for name, part in zip(train, halves if len(train) == 2 else [PART], strict=True):
        layouts.write_parquet(tmp_path / name, part, ["a", "b", "c"])
    layouts.write_parquet(tmp_path / test, PART)
    layouts.assert_holds(Parquet(tmp_path), "train", PART)
    layouts.assert_holds(Parquet(tmp_path), "test", PART)
    if len(train) == 2:
        (tmp_path / train[0]).unlink()
        with pytest.raises(DataError, match=r"0000\.parquet"):
            Parquet(tmp_path).source("train")


@pytest.mark.fault("Parquet columns under other names")
@pytest.mark.parametrize(("image", "label"), [("img", "label"), ("image", "labels"), ("img", "fine_label")])
def test_other_columns(tmp_path: Path, image: str, label: str) -> None:
    path = tmp_path / "train-00000-of-00001.parquet"
    layouts.write_parquet(path, PART, ["a", "b", "c"])
    table = pq.read_table(path)
    named = {b"huggingface": table.schema.metadata[b"huggingface"].replace(b'"label"', f'"{label}"'.encode())}
    pq.write_table(table.rename_columns([image, label]).replace_schema_metadata(named), path)
    with pytest.raises(DataError, match=r"data\.reader\.(image|label)"):
        Parquet(tmp_path).source("train")
    reader = Parquet(tmp_path, image=image, label=label)
    layouts.assert_holds(reader, "train", PART)
    assert reader.source("train").classes == ("a", "b", "c")
    unlabelled = Parquet(tmp_path, image=image, label=None)
    layouts.assert_holds(unlabelled, "train", Block(PART.images, np.full(5, -1)))
    assert unlabelled.source("train").classes is None
    assert unlabelled.source("train").identity != reader.source("train").identity


@pytest.mark.fault("Parquet without labels, or with null labels")
def test_missing_labels(tmp_path: Path) -> None:
    blobs = images(*(layouts.encoded(image) for image in PART.images))
    pq.write_table(pa.table({"image": blobs}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"data\.reader\.label .*null"):
        Parquet(tmp_path).source("train")
    layouts.assert_holds(Parquet(tmp_path, label=None), "train", Block(PART.images, np.full(5, -1)))
    pq.write_table(pa.table({"image": blobs, "label": pa.array([2, None, 0, None, 1])}), tmp_path / "test.parquet")
    layouts.assert_holds(Parquet(tmp_path), "test", Block(PART.images, np.array([2, -1, 0, -1, 1])))


@pytest.mark.fault("Parquet shards with different classes")
def test_classes_of_shards_are_compared(tmp_path: Path) -> None:
    layouts.parquet(tmp_path, shards=3)
    other = tmp_path / "data/train-00001-of-00003.parquet"
    for names in (["class 0", "class 2", "class 1"], None):
        layouts.write_parquet(other, PART, names)
        with pytest.raises(DataError, match=other.name):
            Parquet(tmp_path).source("train")


@pytest.mark.fault("a Git LFS pointer instead of a Parquet file")
def test_a_git_lfs_pointer_is_named(tmp_path: Path) -> None:
    layouts.parquet(tmp_path)
    path = tmp_path / "data/train-00001-of-00002.parquet"
    path.write_bytes(layouts.LFS_POINTER)
    with pytest.raises(DataError, match=rf"{path}.*Git LFS"):
        Parquet(tmp_path).source("train")


def test_bad_rows_are_skipped_on_request(tmp_path: Path) -> None:
    good = layouts.encoded(PART.images[0])
    pq.write_table(
        pa.table({"image": images(good, None, b"x", good), "label": [3, 4, 5, 6]}), tmp_path / "train.parquet"
    )
    with pytest.raises(DataError) as caught:
        layouts.read(Parquet(tmp_path), "train")
    assert all(f"row {row} " in str(caught.value) for row in (1, 2))
    (block,) = Parquet(tmp_path, on_bad_image="skip").blocks("train")
    assert block.labels.tolist() == [3, 6]
    assert len(block.skipped) == 2
