"""The common form of all image formats: a memory-mapped uint8 file with its labels and a manifest.

A store holds one split of one source. It is built in a temporary folder that is then renamed, so it is either complete
or absent. It is never changed in place: a mapped file that shrinks kills the processes that read it.
"""

from __future__ import annotations

import io
import logging
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
from fragrecon.data.digests import first_damage, write_digests
from fragrecon.data.journal import claim, journal
from fragrecon.errors import DataError
from fragrecon.progress import progress

Split = Literal["train", "test"]
AnyWidthShape = tuple[int, int, int | None]
"""(C, H, W); a W of None means a variable width."""

FORMAT = 3
MANIFEST, IMAGES, LABELS, WIDTHS = "manifest.json", "images.u8", "labels.npy", "widths.npy"
DIGESTS, SKIPPED = "digests.txt", "skipped.txt"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Block:
    """Some consecutive images of a source; with variable width, W may differ between blocks.

    Attributes:
        images: uint8 (n, C, H, W).
        labels: classes, (n,) integers, -1 if unknown.
        lossy: number of the images that are stored with lossy compression at the size they are read.
        skipped: images of the source that are left out because they cannot be decoded: name and reason.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    lossy: int = 0
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """Description of the images that a reader will read, determined without decoding them.

    Attributes:
        identity: JSON values that change whenever the images would: reader, options, and names, sizes and modification
            times of files.
        images: number of images, or a close estimate (for the progress bar and the check of free disk space).
        classes: class names by label, or None if only their number will be known.
    """

    identity: dict[str, Any]
    images: int
    classes: tuple[str, ...] | None = None


class Reader(Protocol):
    """Interface of a reader of one format. A reader opens only the files of the requested split."""

    @property
    def shape(self) -> AnyWidthShape:
        """(channels, height, width) of all images; the width is None if it is variable."""

    def source(self, split: Split) -> Source:
        """Find the files of a split, without decoding images.

        Args:
            split: ``train`` or ``test``.

        Returns:
            The description of the images.

        Raises:
            DataError: files are missing.
        """

    def blocks(self, split: Split) -> Iterator[Block]:
        """Read a split in a fixed order.

        Args:
            split: ``train`` or ``test``.

        Yields:
            Blocks of at most a few hundred MB.

        Raises:
            DataError: a file is malformed.
        """


@dataclass(frozen=True)
class Manifest:
    """Description of a store, readable without its images.

    Attributes:
        format: version of the layout.
        split: ``train`` or ``test``.
        shape: (C, H, W) of an image; W is None if the width is variable.
        count: number of images.
        num_classes: number of classes.
        classes: class names by label, if known.
        lossy: number of images stored with lossy compression at the size they are read.
        source: hash of the source and the shape.
        labels_sha256: hash of the file of labels.
        digests_sha256: hash of the file of the digests of the pixels.
        skipped: number of images that were left out because they cannot be decoded; they are listed in `SKIPPED`.
        widths_sha256: hash of the file of widths, if the width is variable.
    """

    format: int
    split: Split
    shape: AnyWidthShape
    count: int
    num_classes: int
    classes: tuple[str, ...] | None
    lossy: int
    source: str
    labels_sha256: str
    digests_sha256: str
    skipped: int
    widths_sha256: str | None = None


class Store:
    """One split of a data set on disk.

    Args:
        folder: folder of the store.
        manifest: description of the store.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    def __len__(self) -> int:
        return self.manifest.count

    @cached_property
    def images(self) -> npt.NDArray[np.uint8]:
        """All images, mapped read-only: uint8 (count, C, H, W). Index it; never copy it as a whole.

        With variable width, it is flat, one image after another; see `read`.
        """
        channels, height, width = self.manifest.shape
        shape = None if width is None else (self.manifest.count, channels, height, width)
        return np.memmap(self.folder / IMAGES, np.uint8, "r", shape=shape)

    def read(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Read images.

        Args:
            ids: indices, (n,).

        Returns:
            Images (n, C, H, W) uint8.

        Raises:
            ValueError: the images have different widths.
        """
        found: npt.NDArray[np.uint8]
        channels, height, fixed = self.manifest.shape
        if fixed is not None:
            found = self.images[ids]
            return found
        width, *others = np.unique(self.widths[ids]) if len(ids) else self.widths[:1]
        if others:
            raise ValueError(f"images of different widths, {width} to {others[-1]}, cannot be read together")
        found = np.empty((len(ids), channels, height, width), np.uint8)
        for image, end in zip(found, self._ends[ids], strict=True):
            image[:] = self.images[end - image.size : end].reshape(image.shape)
        return found

    @cached_property
    def widths(self) -> npt.NDArray[np.int64]:
        """Widths of all images, (count,)."""
        width = self.manifest.shape[2]
        if width is not None:
            return np.full(self.manifest.count, width)
        return files.read_array(self.folder / WIDTHS)

    @cached_property
    def _ends(self) -> npt.NDArray[np.int64]:
        """End of each image in the flat array of all pixels, (count,)."""
        channels, height, _ = self.manifest.shape
        return np.cumsum(self.widths) * channels * height

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """Classes of all images, (count,), -1 if unknown."""
        return files.read_array(self.folder / LABELS)


def image_bytes(shape: AnyWidthShape) -> int:
    """Size of an image.

    Args:
        shape: (C, H, W); with a variable width (None), the image is assumed to be square.

    Returns:
        Number of bytes.
    """
    channels, height, width = shape
    return channels * height * (height if width is None else width)


def store_folder(cache: Path, name: str, source: Source, shape: AnyWidthShape, split: Split) -> Path:
    """Folder of the store of a split; it differs for another source or shape.

    Args:
        cache: folder of all stores.
        name: name of the data set.
        source: source of the images.
        shape: (C, H, W) of an image.
        split: ``train`` or ``test``.

    Returns:
        The folder.
    """
    return cache / f"{name}-{_fingerprint(source, shape)[:16]}" / split


def open_or_build(reader: Reader, name: str, split: Split, cache: Path) -> Store:
    """Open the store of a split; convert the source first if there is no store yet.

    Several processes may call this at once: each builds in its own folder, and the first to finish wins. The lock only
    avoids repeated work, so a file system without working locks does no harm. The blocks that a killed process has
    written are kept: they are read from the source again, but not written.

    Args:
        reader: reader of the source.
        name: name of the data set.
        split: ``train`` or ``test``.
        cache: folder of all stores.

    Returns:
        The store.

    Raises:
        DataError: the source is missing or malformed, the disk is full, or the store is damaged.
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
                _build(reader, source, split, folder, claim(folder))
        except OSError as error:  # errors of the reader are DataErrors
            raise DataError(
                f"cannot write the converted data to {folder.parent} ({error.strerror or error}); "
                "choose another folder with data.cache_dir=FOLDER"
            ) from None
        finally:
            lock.release()
    store = open_store(folder, _fingerprint(source, reader.shape))
    log.info("%s: the converted images in %s are used", name, folder)
    if store.manifest.skipped:
        log.warning(
            "%d %s images cannot be read and are skipped; see %s", store.manifest.skipped, split, folder / SKIPPED
        )
    return store


def open_store(folder: Path, fingerprint: str | None = None, *, thorough: bool = False) -> Store:
    """Open a store and check that it is complete.

    Args:
        folder: folder of the store.
        fingerprint: expected hash of its source; by default any.
        thorough: whether all pixels are compared with their digests, instead of a few pieces.

    Returns:
        The store.

    Raises:
        DataError: the store is damaged or was built from another source.
    """
    hint = f"; delete the folder {folder}; the next run builds it again"
    try:
        values = files.read_json(folder / MANIFEST)
        if values["format"] != FORMAT:
            raise DataError(f"{folder} has format {values['format']}, this version reads format {FORMAT}{hint}")
        values["shape"] = tuple(values["shape"])
        values["classes"] = None if values["classes"] is None else tuple(values["classes"])
        manifest = Manifest(**values)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{folder} is not a store of images; its {MANIFEST} cannot be read ({error}){hint}") from None
    if fingerprint not in (None, manifest.source):
        raise DataError(f"{folder} was built from another source than the one asked for{hint}")
    digests = {LABELS: manifest.labels_sha256, WIDTHS: manifest.widths_sha256, DIGESTS: manifest.digests_sha256}
    for name, digest in digests.items():
        if digest and not ((folder / name).is_file() and files.file_digest(folder / name) == digest):
            raise DataError(f"{folder / name} is missing or damaged{hint}")
    store = Store(folder, manifest)
    expected = int(store.widths.sum()) * manifest.shape[0] * manifest.shape[1]
    found = (folder / IMAGES).stat().st_size if (folder / IMAGES).is_file() else 0
    if found != expected:
        raise DataError(f"{folder / IMAGES} is truncated: {found:,} bytes where {expected:,} are expected{hint}")
    if (damage := first_damage(folder / IMAGES, folder / DIGESTS, thorough=thorough)) is not None:
        raise DataError(f"{folder / IMAGES} is damaged: its bytes from {damage:,} on have changed{hint}")
    return store


def _fingerprint(source: Source, shape: AnyWidthShape) -> str:
    return files.digest({"format": FORMAT, "shape": shape, "identity": source.identity})


def _build(reader: Reader, source: Source, split: Split, folder: Path, begun: Path | None) -> None:
    needed = source.images * (image_bytes(reader.shape) + 8)
    free = shutil.disk_usage(folder.parent).free + ((begun / IMAGES).stat().st_size if begun else 0)
    if free < needed:
        raise DataError(
            f"the converted {split} images need {needed / 1e9:.2f} GB, but {folder.parent} has "
            f"{free / 1e9:.2f} GB free; choose another folder with data.cache_dir=FOLDER"
        )
    with files.atomic_folder(folder, begun) as temporary:
        with (
            progress(f"converting {split} images", source.images) as advance,
            journal(temporary / IMAGES, reader.shape[0] * reader.shape[1]) as converted,
        ):
            if converted.known:
                log.info("resuming the conversion of the %s images in %s", split, temporary)
            kept = len(converted.known)
            for number, block in enumerate(_blocks(reader, split)):
                if number >= kept:
                    converted.add(block)
                advance(len(block.labels))
        all_labels, skipped = converted.labels, [name for block in converted.known for name in block["skipped"]]
        if not len(all_labels):
            root = source.identity.get("root", source.identity["reader"])
            raise DataError(f"the source of the {split} images contains no readable images: {root}")
        _save(temporary / LABELS, all_labels)
        write_digests(temporary / IMAGES, temporary / DIGESTS)
        if skipped:
            files.write_text(temporary / SKIPPED, "\n".join(skipped) + "\n")
        manifest = {
            "format": FORMAT,
            "split": split,
            "shape": reader.shape,
            "count": len(all_labels),
            "num_classes": len(source.classes) if source.classes else int(all_labels.max()) + 1,
            "classes": source.classes,
            "lossy": sum(block["lossy"] for block in converted.known),
            "source": _fingerprint(source, reader.shape),
            "labels_sha256": files.file_digest(temporary / LABELS),
            "digests_sha256": files.file_digest(temporary / DIGESTS),
            "skipped": len(skipped),
        }
        if reader.shape[2] is None:
            _save(temporary / WIDTHS, converted.widths)
            manifest["widths_sha256"] = files.file_digest(temporary / WIDTHS)
        files.write_json(temporary / MANIFEST, manifest)


def _save(path: Path, values: npt.NDArray[np.int64]) -> None:
    content = io.BytesIO()
    np.save(content, values, allow_pickle=False)
    with path.open("wb") as file:
        file.write(content.getbuffer())
        files.sync(file)


def _blocks(reader: Reader, split: Split) -> Iterator[Block]:
    """Yield the checked blocks of a reader; failures to read become DataErrors, unlike failures to write."""
    shape = reader.shape
    try:
        for block in reader.blocks(split):
            images = block.images
            expected = (len(block.labels), *shape[:2], images.shape[-1] if shape[2] is None else shape[2])
            if images.dtype != np.uint8 or images.shape != expected:
                raise TypeError(f"a reader yielded {images.dtype} {images.shape}; expected uint8 {expected}")
            yield block
    except OSError as error:
        raise DataError(f"cannot read the {split} images ({error})") from None
