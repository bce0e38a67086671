"""The one form that all image formats become: a memory-mapped uint8 file with its labels and a manifest.

A store holds one split of one source. It is built in a temporary folder and appears by a rename, so it is whole or not
there; it is never changed in place, since a mapped file that shrinks kills the processes that read it.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import filelock
import numpy as np
import numpy.typing as npt

from fragrecon import files
from fragrecon.errors import DataError

Split = Literal["train", "test"]
FORMAT = 1
MANIFEST, IMAGES, LABELS, WIDTHS = "manifest.json", "images.u8", "labels.npy", "widths.npy"


@dataclass(frozen=True)
class Block:
    """Some images in the order of their source: uint8 (n, C, H, W), and their classes: integers (n,), -1 for
    unknown. Where widths are free, W may be another in the next block.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Source:
    """What a reader is about to read, told without decoding an image.

    Attributes:
        identity: JSON values that change whenever the images would: reader, options, names, sizes and times of files.
        images: how many there are, or a close estimate (it serves the progress bar and the check of free space).
        classes: names of the classes by label, or None where only their number will be known.
    """

    identity: dict[str, Any]
    images: int
    classes: tuple[str, ...] | None = None


class Reader(Protocol):
    """One on-disk format. A reader touches only the files of the split it is asked for."""

    @property
    def shape(self) -> tuple[int, int, int | None]:
        """(channels, height, width) of every image it yields; the width is None where it is free."""

    def source(self, split: Split) -> Source:
        """Find the files of ``split``, quickly; raises `DataError` if some are missing."""

    def blocks(self, split: Split) -> Iterator[Block]:
        """Read ``split`` in a fixed order, in blocks of at most a few hundred MB; raises `DataError` on a malformed
        file.
        """


@dataclass(frozen=True)
class Manifest:
    """What is known of a store without touching its images."""

    format: int
    split: Split
    shape: tuple[int, int, int | None]
    count: int
    num_classes: int
    classes: tuple[str, ...] | None
    source: str
    labels_sha256: str
    widths_sha256: str | None = None


class Store:
    """A split of a data set on disk.

    Attributes:
        folder: where it lies.
        manifest: what it holds.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    def __len__(self) -> int:
        return self.manifest.count

    @cached_property
    def images(self) -> npt.NDArray[np.uint8]:
        """All images, mapped read-only: uint8 (count, C, H, W). Index it; never copy it whole.

        Where widths are free, it is flat, one image after the other; see `read`.
        """
        channels, height, width = self.manifest.shape
        shape = None if width is None else (self.manifest.count, channels, height, width)
        return np.memmap(self.folder / IMAGES, np.uint8, "r", shape=shape)

    def read(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Images (n, C, H, W) at places (n,).

        Raises:
            ValueError: they are not of one width.
        """
        found: npt.NDArray[np.uint8]
        channels, height, fixed = self.manifest.shape
        if fixed is not None:
            found = self.images[ids]
            return found
        width, *others = np.unique(self.widths[ids]) if len(ids) else self.widths[:1]
        if others:
            raise ValueError(f"images of widths {width} to {others[-1]} are not read together")
        found = np.empty((len(ids), channels, height, width), np.uint8)
        for image, end in zip(found, self._ends[ids], strict=True):
            image[:] = self.images[end - image.size : end].reshape(image.shape)
        return found

    @cached_property
    def widths(self) -> npt.NDArray[np.int64]:
        """Of all images: (count,)."""
        width = self.manifest.shape[2]
        if width is not None:
            return np.full(self.manifest.count, width)
        widths: npt.NDArray[np.int64] = np.load(self.folder / WIDTHS, allow_pickle=False)
        return widths

    @cached_property
    def _ends(self) -> npt.NDArray[np.int64]:
        """Where each image ends among the pixels of all: (count,)."""
        channels, height, _ = self.manifest.shape
        return np.cumsum(self.widths) * channels * height

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """Classes of all images: (count,), -1 where unknown."""
        labels: npt.NDArray[np.int64] = np.load(self.folder / LABELS, allow_pickle=False)
        return labels


def image_bytes(shape: tuple[int, int, int | None]) -> int:
    """Of an image (C, H, W); of a free width, those of a square."""
    channels, height, width = shape
    return channels * height * (height if width is None else width)


def store_folder(cache: Path, name: str, source: Source, shape: tuple[int, int, int | None], split: Split) -> Path:
    """Where a store of ``source`` belongs: a change of the source or of the shape makes it another folder."""
    return cache / f"{name}-{_fingerprint(source, shape)[:16]}" / split


def open_or_build(reader: Reader, name: str, split: Split, cache: Path, *, progress: bool = True) -> Store:
    """Open the store of ``split``; convert the source first if there is none yet.

    Several processes may call this at once: each builds in a folder of its own and the first to finish wins. The lock
    only saves them the repeated work, so a file system without working locks does no harm.

    Raises:
        DataError: the source is missing or malformed, the disk is too small, or the store is not what it should be.
    """
    source = reader.source(split)
    folder = store_folder(cache, name, source, reader.shape, split)
    if not folder.is_dir():
        lock = filelock.FileLock(f"{folder}.lock")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with suppress(OSError, NotImplementedError):
                lock.acquire()
            if not folder.is_dir():
                _build(reader, source, split, folder, progress=progress)
        except OSError as error:  # the reader's own are DataErrors by now
            raise DataError(
                f"cannot write the converted data to {folder.parent} ({error.strerror or error}); "
                "name another place with data.cache_dir=FOLDER"
            ) from None
        finally:
            lock.release()
    return open_store(folder, _fingerprint(source, reader.shape))


def open_store(folder: Path, fingerprint: str | None = None) -> Store:
    """Open a store and check that it is whole and (with ``fingerprint``) that it came from that source."""
    hint = f"; delete the folder {folder} and the next run will build it again"
    try:
        values = json.loads((folder / MANIFEST).read_text())
        if values["format"] != FORMAT:
            raise DataError(f"{folder} has format {values['format']}, this version reads format {FORMAT}{hint}")
        values["shape"] = tuple(values["shape"])
        values["classes"] = None if values["classes"] is None else tuple(values["classes"])
        manifest = Manifest(**values)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{folder} is not a store of images: its {MANIFEST} cannot be read ({error}){hint}") from None
    if fingerprint is not None and manifest.source != fingerprint:
        raise DataError(f"{folder} was built from another source than the one asked for{hint}")
    for name, digest in ((LABELS, manifest.labels_sha256), (WIDTHS, manifest.widths_sha256)):
        if digest and not ((folder / name).is_file() and files.file_digest(folder / name) == digest):
            raise DataError(f"{folder / name} is missing or damaged{hint}")
    store = Store(folder, manifest)
    expected = int(store.widths.sum()) * manifest.shape[0] * manifest.shape[1]
    found = (folder / IMAGES).stat().st_size if (folder / IMAGES).is_file() else 0
    if found != expected:
        raise DataError(f"{folder / IMAGES} is truncated: {found:,} bytes where {expected:,} are expected{hint}")
    return store


def _fingerprint(source: Source, shape: tuple[int, int, int | None]) -> str:
    return files.digest({"format": FORMAT, "shape": shape, "identity": source.identity})


def _build(reader: Reader, source: Source, split: Split, folder: Path, *, progress: bool) -> None:
    needed = source.images * (image_bytes(reader.shape) + 8)
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise DataError(
            f"the converted {split} images need {needed / 1e9:.2f} GB, but {folder.parent} has "
            f"{free / 1e9:.2f} GB free; name another place with data.cache_dir=FOLDER"
        )
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    labels: list[npt.NDArray[np.int64]] = []
    widths: list[npt.NDArray[np.int64]] = []
    count = 0
    with files.atomic_folder(folder) as temporary, Progress(*columns, disable=not progress) as bar:
        task = bar.add_task(f"converting {split} images", total=source.images)
        with (temporary / IMAGES).open("wb") as file:
            for block in _blocks(reader, split):
                _check_block(block, reader.shape)
                file.write(np.ascontiguousarray(block.images).data)  # where tofile fails, it does not say why
                labels.append(block.labels.astype(np.int64))
                widths.append(np.full(len(block.labels), block.images.shape[3]))
                count += len(block.labels)
                bar.update(task, completed=count)
            files.sync(file)
        if count == 0:
            raise DataError(f"the source of the {split} images holds no image: {_place(source)}")
        bar.update(task, total=count)
        all_labels = np.concatenate(labels)
        _save(temporary / LABELS, all_labels)
        manifest = {
            "format": FORMAT,
            "split": split,
            "shape": reader.shape,
            "count": count,
            "num_classes": len(source.classes) if source.classes else int(all_labels.max()) + 1,
            "classes": source.classes,
            "source": _fingerprint(source, reader.shape),
            "labels_sha256": files.file_digest(temporary / LABELS),
        }
        if reader.shape[2] is None:
            _save(temporary / WIDTHS, np.concatenate(widths))
            manifest["widths_sha256"] = files.file_digest(temporary / WIDTHS)
        files.write_json(temporary / MANIFEST, manifest)


def _save(path: Path, values: npt.NDArray[np.int64]) -> None:
    content = io.BytesIO()
    np.save(content, values, allow_pickle=False)
    with path.open("wb") as file:
        file.write(content.getbuffer())
        files.sync(file)


def _blocks(reader: Reader, split: Split) -> Iterator[Block]:
    """The blocks of a reader, its failures to read told apart from failures to write."""
    try:
        yield from reader.blocks(split)
    except OSError as error:
        raise DataError(f"cannot read the {split} images ({error})") from None


def _check_block(block: Block, shape: tuple[int, int, int | None]) -> None:
    images = block.images
    expected = (*shape[:2], images.shape[-1] if shape[2] is None else shape[2])
    if images.dtype != np.uint8 or images.shape != (len(block.labels), *expected):
        raise TypeError(
            f"a reader yielded {images.dtype} {images.shape} for {len(block.labels)} labels of images {shape}"
        )


def _place(source: Source) -> str:
    return str(source.identity.get("root", source.identity.get("reader", "?")))
