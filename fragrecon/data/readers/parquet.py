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
    LFS_REASON,
    MAX_PIXELS,
    Encoded,
    ImageDecoder,
    OnBadImage,
    Size,
    check_folder,
    check_labels,
    files_source,
    is_lfs_pointer,
    root_folder,
)
from fragrecon.data.store import Block, Source, Split
from fragrecon.errors import DataError

NAMES: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("validation", "test")}
"""Names of a split on the hub, in order of preference: the test images of some data sets have no labels there."""


class Parquet:
    """Files ``train-00000-of-00040.parquet`` and ``validation-...`` (or ``test-...``) in a folder or its ``data``.

    A split may also be one file, ``train.parquet``, or the files ``train/0000.parquet`` and so on into which the hub
    converts other formats, also below ``default``. Images are a struct of encoded ``bytes`` and ``path``, labels are
    integers, -1 or null if unknown. The files are read in batches of rows, and the images are decoded to one shape by
    `images.decode`.

    Args:
        root: the folder of the files, or its parent if the folder is called ``data`` or ``default``.
        image_size: (height, width) of the decoded images.
        channels: 3 for RGB, 1 for gray.
        image: column of the images.
        label: column of the labels; None if the images have none.
        on_bad_image: ``skip`` leaves out images that cannot be decoded; ``fail`` raises an error that lists them.
        max_pixels: maximum number of pixels of an image.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        image_size: Size = (64, 64),
        channels: int = 3,
        image: str = "image",
        label: str | None = "label",
        on_bad_image: OnBadImage = "fail",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.root = root_folder(root)
        self.shape = (channels, *image_size)
        self.columns = image, label
        self._decoder = ImageDecoder(self.shape, 1, on_bad_image, max_pixels)

    def source(self, split: Split) -> Source:
        """Find the files of a split; see `Reader.source`."""
        shards = self._shards(split)
        images = 0
        classes: dict[tuple[str, ...] | None, Path] = {}
        for shard in shards:
            with _Shard(shard, *self.columns) as file:
                images += file.rows
                classes.setdefault(file.classes, shard)
        if len(classes) > 1:
            first, other, *_ = classes.values()
            raise DataError(
                f"{first} and {other} have different classes or another order of them; get all files of a split from "
                "the same source"
            )
        found = files_source("parquet", self.root, split, shards, images, *classes)
        found.identity.update(self._decoder.identity, columns=self.columns)
        return found

    def blocks(self, split: Split) -> Iterator[Block]:
        """Read the images of a split; see `Reader.blocks`."""
        return self._decoder.blocks(self._batches(split))

    def _batches(self, split: Split) -> Iterator[tuple[list[Encoded], npt.NDArray[np.int64]]]:
        for shard in self._shards(split):
            with _Shard(shard, *self.columns) as file:
                yield from file.batches(self._decoder.block_length)

    def _shards(self, split: Split) -> list[Path]:
        check_folder(self.root)
        for folder in (self.root / "data", self.root, self.root / "default"):
            for name in NAMES[split]:
                if shards := _complete(folder, name) or _converted(folder / name):
                    return shards
                if (file := folder / f"{name}.parquet").is_file():
                    return [file]
        names = " or ".join(f"{name}-00000-of-NNNNN.parquet" for name in NAMES[split])
        there = ", ".join(sorted(path.name for path in self.root.iterdir())[:8]) or "nothing"
        raise DataError(
            f"no {split} images in {self.root}: no {names} there or in its data, only {there}; "
            "set data.root to their folder"
        )


class _Shard:
    """An open Parquet file."""

    def __init__(self, path: Path, image: str, label: str | None) -> None:
        pyarrow = _import_pyarrow()
        self.path, self.image, self.label = path, image, label
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
            names = info["info"]["features"][self.label]["names"]
        except (KeyError, TypeError, ValueError):
            return None
        return tuple(map(str, names)) if isinstance(names, list) and names else None

    def batches(self, length: int) -> Iterator[tuple[list[Encoded], npt.NDArray[np.int64]]]:
        """Yield encoded images with their labels, ``length`` at a time; only these are in memory."""
        valid = range(-1, len(self.classes) if self.classes else 1 << 31)
        row = 0
        try:
            for batch in self._file.iter_batches(length, columns=[self.image, *filter(None, [self.label])]):
                blobs = batch.column(self.image).field("bytes").to_pylist()
                images: list[Encoded] = [(f"{self.path}, row {row + at}", blob or b"") for at, blob in enumerate(blobs)]
                labels = batch.column(self.label).fill_null(-1).to_pylist() if self.label else [-1] * len(blobs)
                yield images, check_labels(labels, len(blobs), valid, f"{self.path}, rows from {row}")
                row += len(blobs)
        except self._errors as error:
            raise self._damaged(error) from None

    def _check_columns(self, types: Any) -> None:
        columns = {field.name: field.type for field in self._schema}
        image = columns.get(self.image)
        found = ", ".join(f"{name} ({kind})" for name, kind in columns.items()) or "none"
        if image is None or not types.is_struct(image) or image.get_field_index("bytes") < 0:
            raise DataError(
                f"{self.path} has the columns {found}, but '{self.image}' is not a struct of bytes and path, as the "
                "Hugging Face hub stores images; set data.reader.image to the column of the images"
            )
        if self.label and not (self.label in columns and types.is_integer(columns[self.label])):
            raise DataError(
                f"{self.path} has the columns {found}, but '{self.label}' is not one of integers; set "
                "data.reader.label to the column of the labels, or to null if the images have none"
            )

    def _damaged(self, error: Exception) -> DataError:
        reason = LFS_REASON if self.path.is_file() and is_lfs_pointer(self.path) else " ".join(str(error).split())
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


def _converted(folder: Path) -> list[Path]:
    """Return the files ``0000.parquet`` and so on of a split, in order; raises `DataError` if some are missing."""
    found = sorted(path for path in folder.glob("*.parquet") if re.fullmatch(r"\d{4,5}", path.stem))
    for number, path in enumerate(found):
        if int(path.stem) != number:
            raise DataError(f"{folder} has {path.name} but not {number:0{len(path.stem)}}.parquet; get it as well")
    return found


def _import_pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError('reading Parquet files needs pyarrow: pip install "fragrecon[parquet]"') from None
    return pyarrow
