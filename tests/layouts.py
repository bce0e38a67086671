"""Small image files in each of the layouts that the readers know."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from fragrecon.data.store import Block, Reader, Split

Written = dict[Split, Block]  # what a reader should find


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


def pictures(count: int, shape: tuple[int, int, int] = (3, 64, 64), seed: int = 0) -> npt.NDArray[np.uint8]:
    """Images uint8 (count, C, H, W) that are smooth and all different: a random gradient under two waves."""
    channels, height, width = shape
    random = np.random.default_rng([seed, count, *shape])
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = np.stack([y, x, np.sin(6 * y + 3 * x), np.cos(9 * x - 4 * y)])
    weights = random.normal(size=(count, channels, len(waves))) * (60, 60, 25, 25)
    values = np.einsum("ncw,whv->nchv", weights, waves) + random.uniform(80, 176, (count, channels, 1, 1))
    images: npt.NDArray[np.uint8] = values.clip(0, 255).astype(np.uint8)
    return images


def block(count: int, shape: tuple[int, int, int], classes: int, seed: int) -> Block:
    return Block(pictures(count, shape, seed), np.arange(count, dtype=np.int64) % classes)


def read(reader: Reader, split: Split) -> Block:
    """All blocks of a reader as one."""
    blocks = list(reader.blocks(split))
    return Block(np.concatenate([part.images for part in blocks]), np.concatenate([part.labels for part in blocks]))


def assert_holds(reader: Reader, split: Split, expected: Block) -> None:
    found = read(reader, split)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.images, expected.images)
    assert found.images.dtype == np.uint8
    assert found.labels.dtype == np.int64
    assert found.images.shape[1:] == reader.shape


def dump(path: Path, value: Any, protocol: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol))


def rows(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return images.reshape(len(images), -1)


def imagenet64(
    dest: Path,
    train: int = 12,
    test: int = 6,
    files: int = 2,
    classes: int = 4,
    shape: tuple[int, int, int] = (3, 64, 64),
) -> Written:
    """``train_data/train_data_batch_N`` and ``dev_data/dev_data_batch_1`` in ``dest``; labels begin at 1."""
    written: Written = {"train": block(train, shape, classes, 1), "test": block(test, shape, classes, 2)}
    images, labels = written["train"].images, written["train"].labels + 1
    parts = zip(np.array_split(images, files), np.array_split(labels, files), strict=True)
    for number, (data, part) in enumerate(parts, start=1):
        mean = rows(images).mean(0)
        dump(
            dest / f"train_data/train_data_batch_{number}", {"data": rows(data), "labels": part.tolist(), "mean": mean}
        )
    dev = {"data": rows(written["test"].images), "labels": (written["test"].labels + 1).tolist()}
    dump(dest / "dev_data/dev_data_batch_1", dev)
    return written


CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def cifar10(dest: Path, train: int = 15, test: int = 6) -> Written:
    """``cifar-10-batches-py`` in ``dest``."""
    home = dest / "cifar-10-batches-py"
    written: Written = {"train": block(train, (3, 32, 32), 10, 3), "test": block(test, (3, 32, 32), 10, 4)}
    parts = zip(np.array_split(written["train"].images, 5), np.array_split(written["train"].labels, 5), strict=True)
    for number, (data, labels) in enumerate(parts, start=1):
        dump(home / f"data_batch_{number}", {b"labels": labels.tolist(), b"data": rows(data)})
    dump(home / "test_batch", {b"labels": written["test"].labels.tolist(), b"data": rows(written["test"].images)})
    dump(home / "batches.meta", {b"label_names": [name.encode() for name in CIFAR10]})
    return written


def cifar100(dest: Path, train: int = 12, test: int = 6) -> Written:
    """``cifar-100-python`` in ``dest``."""
    home = dest / "cifar-100-python"
    written: Written = {"train": block(train, (3, 32, 32), 100, 5), "test": block(test, (3, 32, 32), 100, 6)}
    for split, part in written.items():
        coarse = (part.labels % 20).tolist()
        batch = {b"fine_labels": part.labels.tolist(), b"coarse_labels": coarse, b"data": rows(part.images)}
        dump(home / split, batch)
    dump(home / "meta", {b"fine_label_names": [f"class {label}".encode() for label in range(100)]})
    return written


def encoded(image: npt.NDArray[np.uint8], kind: str = "PNG") -> bytes:
    """An image (C, H, W) as the bytes of a file."""
    file = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(file, kind)
    return file.getvalue()


def folder(
    dest: Path, train: int = 12, test: int = 6, classes: int = 3, shape: tuple[int, int, int] = (3, 64, 64)
) -> Written:
    """``train/class_K/N.png`` and ``val/class_K/N.png`` in ``dest``."""
    written: Written = {}
    for split, count, seed in (("train", train, 7), ("test", test, 8)):
        part = block(count, shape, classes, seed)
        order = np.argsort(part.labels, kind="stable")
        written["train" if split == "train" else "test"] = part = Block(part.images[order], part.labels[order])
        for number, (image, label) in enumerate(zip(part.images, part.labels, strict=True)):
            path = dest / ("train" if split == "train" else "val") / f"class_{label}" / f"{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(image))
    return written


def parquet(
    dest: Path,
    train: int = 12,
    test: int = 6,
    shards: int = 2,
    classes: int = 3,
    shape: tuple[int, int, int] = (3, 64, 64),
) -> Written:
    """``data/train-0000N-of-0000M.parquet`` and ``data/validation-00000-of-00001.parquet`` in ``dest``."""
    names = [f"class {label}" for label in range(classes)]
    written: Written = {"train": block(train, shape, classes, 9), "test": block(test, shape, classes, 10)}
    images, labels = written["train"].images, written["train"].labels
    parts = zip(np.array_split(images, shards), np.array_split(labels, shards), strict=True)
    for number, (data, part) in enumerate(parts):
        write_parquet(dest / f"data/train-{number:05}-of-{shards:05}.parquet", Block(data, part), names)
    write_parquet(dest / "data/validation-00000-of-00001.parquet", written["test"], names)
    return written


def write_parquet(path: Path, part: Block, names: list[str] | None = None, rows_a_group: int = 4) -> None:
    """A file as the hub's library writes it; its class names are in the schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [{"bytes": encoded(image), "path": f"{at}.png"} for at, image in enumerate(part.images)]
    table = pa.table(
        {
            "image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "label": pa.array(part.labels.tolist(), pa.int64()),
        }
    )
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows_a_group)


def real(data: Path, name: str) -> Path:
    """A folder of the real image files; skips the test if they are not among those at hand."""
    if not (data / name).is_dir():
        pytest.skip(f"FRAGRECON_TEST_DATA has no folder {name}")
    return data / name
