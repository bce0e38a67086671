"""Image data sets in the Parquet layout of the Hugging Face hub, such as ``benjamin-paine/imagenet-1k-64x64``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fragrecon.data.readers.images import (
    Encoded,
    Size,
    block_length,
    check_folder,
    check_labels,
    decode_blocks,
    files_source,
    root_folder,
)
from fragrecon.data.store import Block, Source, Split
from fragrecon.errors import DataError

# Names of a split's files, in order of preference: the hub's test images of ImageNet have no labels.
_NAMES: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("validation", "test")}


class Parquet:
    """Files ``train-00000-of-00040.parquet`` and ``validation-...`` (or ``test-...``) in a folder or its ``data``.

    Their columns are ``image``, a struct of encoded ``bytes`` and ``path``, and the integer ``label``, -1 if unknown.
    The files are read in batches of rows, and the images are decoded to one shape by `images.decode`.

    Args:
        root: the folder of the files, or its parent if the folder is called ``data``.
        image_size: (height, width) of the decoded images.
        channels: 3 for RGB, 1 for gray.
    """

    def __init__(self, root: str | Path | None = None, image_size: Size = (64, 64), channels: int = 3) -> None:
        self.root = root_folder(root)
        self.shape = (channels, *image_size)

    def source(self, split: Split) -> Source:
        """Find the files of a split; see `Reader.source`."""
        shards = self._shards(split)
        images = 0
        for shard in shards:
            with _Shard(shard) as file:
                images += file.rows
                classes = file.classes
        return files_source("parquet", self.root, split, shards, images, classes)

    def blocks(self, split: Split) -> Iterator[Block]:
        """Read the images of a split; see `Reader.blocks`."""
        return decode_blocks(self._batches(split), self.shape)

    def _batches(self, split: Split) -> Iterator[tuple[list[Encoded], npt.NDArray[np.int64]]]:
        for shard in self._shards(split):
            with _Shard(shard) as file:
                yield from file.batches(block_length(self.shape))

    def _shards(self, split: Split) -> list[Path]:
        check_folder(self.root)
        for folder in (self.root / "data", self.root):
            for name in _NAMES[split]:
                if shards := _complete(folder, name):
                    return shards
        names = " or ".join(f"{name}-00000-of-NNNNN.parquet" for name in _NAMES[split])
        raise DataError(
            f"no {split} images in {self.root}: no {names} there or in its data; set data.root to their folder"
        )


class _Shard:
    """An open Parquet file."""

    def __init__(self, path: Path) -> None:
        pyarrow = _import_pyarrow()
        self.path = path
        self._errors = (pyarrow.ArrowException, OSError)
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
        except self._errors as error:
            raise self._damaged(error) from None
        self._schema = self._file.schema_arrow
        self._check_columns(pyarrow.types)

    def __enter__(self) -> _Shard:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    @property
    def rows(self) -> int:
        """Number of images."""
        return int(self._file.metadata.num_rows)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes, if the schema contains them."""
        try:
            info = json.loads(self._schema.metadata[b"huggingface"])
            names = info["info"]["features"]["label"]["names"]
        except (KeyError, TypeError, ValueError):
            return None
        return tuple(map(str, names)) if isinstance(names, list) and names else None

    def batches(self, length: int) -> Iterator[tuple[list[Encoded], npt.NDArray[np.int64]]]:
        """Yield encoded images with their labels, ``length`` at a time; only these are in memory."""
        valid = range(-1, len(self.classes) if self.classes else 1 << 31)
        row = 0
        try:
            for batch in self._file.iter_batches(length, columns=["image", "label"]):
                where = f"{self.path}, rows from {row}"
                blobs = batch.column("image").field("bytes").to_pylist()
                if None in blobs:
                    raise DataError(
                        f"{self.path}, row {row + blobs.index(None)} has no image bytes; get the file again"
                    )
                images: list[Encoded] = [(f"{self.path}, row {row + at}", blob) for at, blob in enumerate(blobs)]
                labels = check_labels(batch.column("label").to_pylist(), len(blobs), valid, where)
                yield images, labels
                row += len(blobs)
        except self._errors as error:
            raise self._damaged(error) from None

    def _check_columns(self, types: Any) -> None:
        columns = {field.name: field.type for field in self._schema}
        image, label = columns.get("image"), columns.get("label")
        has_bytes = image is not None and types.is_struct(image) and image.get_field_index("bytes") >= 0
        if not has_bytes or label is None or not types.is_integer(label):
            found = ", ".join(f"{name} ({kind})" for name, kind in columns.items()) or "none"
            raise DataError(
                f"{self.path} has the columns {found}; expected image (a struct of bytes and path) and "
                "label (an integer), as the Hugging Face hub stores images"
            )

    def _damaged(self, error: Exception) -> DataError:
        reason = " ".join(str(error).split())
        return DataError(f"{self.path} is not a readable Parquet file ({reason}); get the file again from its source")


def _complete(folder: Path, name: str) -> list[Path]:
    """Return the shards of a split in order; raises `DataError` if some are missing."""
    pattern = re.compile(rf"{name}-(\d{{5}})-of-(\d{{5}})(-[0-9a-f]+)?\.parquet")
    found = {
        path: match for path in sorted(folder.glob(f"{name}-*.parquet")) if (match := pattern.fullmatch(path.name))
    }
    if not found:
        return []
    totals = {match[2] for match in found.values()}
    numbers = [int(match[1]) for match in found.values()]
    if len(totals) > 1 or len(set(numbers)) < len(numbers):
        raise DataError(
            f"{folder} holds more than one set of {name} files: {', '.join(path.name for path in found)}; "
            "keep one of them"
        )
    total = totals.pop()
    if missing := sorted(set(range(int(total))) - set(numbers)):
        names = ", ".join(f"{name}-{number:0{len(total)}}-of-{total}.parquet" for number in missing)
        raise DataError(
            f"{folder} has {len(found)} of {int(total)} {name} files; missing are {names}; get them as well"
        )
    return list(found)


def _import_pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError('reading Parquet files needs pyarrow: pip install "fragrecon[parquet]"') from None
    return pyarrow
