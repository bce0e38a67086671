"""Shared parts of the readers: shapes, labels, sources that consist of files, and decoding of images."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from fragrecon.config.schema import DataConfig
from fragrecon.data.readers.colours import fitted, to_rgb
from fragrecon.data.store import AnyWidthShape, Block, Source, Split, image_bytes
from fragrecon.errors import ConfigError, DataError

Shape = tuple[int, int, int]
Size = tuple[int, int]
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".avif"),
    *(".png", ".apng", ".bmp", ".dib", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
)
Encoded = tuple[str, bytes | Path]  # name for messages; the bytes, or the file that holds them
OnBadImage = Literal["fail", "skip"]
MAX_PIXELS: int = DataConfig.max_pixels
"""Default of ``data.max_pixels``."""

FITS = "check that data= fits these files"
LFS_REASON = "a Git LFS pointer instead of the file; run git lfs pull in its repository"

_LISTED = 20  # bad images in an error message
_LFS = b"version https://git-lfs.github.com/spec/"
_OPENING = Lock()  # held while Pillow's own limit, a global of its module, is changed

log = logging.getLogger(__name__)


def root_folder(root: str | Path | None) -> Path:
    """Resolve ``data.root``.

    Args:
        root: value of ``data.root``.

    Returns:
        The absolute path.

    Raises:
        ConfigError: ``data.root`` is not set.
    """
    if not root:
        raise ConfigError("data.root is not set; set data.root=FOLDER to the folder of the images")
    return Path(root).expanduser().resolve()


def check_folder(root: Path) -> None:
    """Check that a folder exists.

    Args:
        root: the folder.

    Raises:
        DataError: ``root`` does not exist or is not a folder.
    """
    if not root.is_dir():
        found = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"{root} {found}; set data.root=FOLDER to the folder of the images")


def block_length(shape: AnyWidthShape) -> int:
    """Number of images in a block: a few thousand, or fewer if they are large (64 MiB)."""
    return max(1, min(4096, (1 << 26) // image_bytes(shape)))


def files_source(
    reader: str, root: Path, split: Split, files: Sequence[Path], images: int, classes: tuple[str, ...] | None = None
) -> Source:
    """Describe a source that consists of files, by their names, sizes and modification times.

    Args:
        reader: name of the reader.
        root: folder of the files.
        split: ``train`` or ``test``.
        files: files of the split.
        images: number of images.
        classes: names of the classes, if known.

    Returns:
        The source.
    """
    stats = [(file.relative_to(root).as_posix(), file.stat()) for file in files]
    stamps = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
    return Source({"reader": reader, "root": str(root), "split": split, "files": stamps}, images, classes)


def check_labels(labels: Any, count: int, valid: range, where: str | Path, advice: str = FITS) -> npt.NDArray[np.int64]:
    """Check the type, number and range of labels.

    Args:
        labels: labels as read from the file.
        count: number of images.
        valid: allowed labels.
        where: origin of the labels, for messages.
        advice: what to check if labels are out of range, for messages.

    Returns:
        The labels, (count,).

    Raises:
        DataError: the labels are invalid.
    """
    if isinstance(labels, list) and all(type(label) is int for label in labels):
        try:
            labels = np.asarray(labels, np.int64)
        except OverflowError:
            raise DataError(f"{where}: a label does not fit 64 bits; get the file again from its source") from None
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or labels.dtype.kind not in "iu":
        found = type(labels).__name__
        if isinstance(labels, np.ndarray):
            found += f" of {labels.dtype} with shape {labels.shape}"
        elif isinstance(labels, list):  # never converted: lists that contain one another may be of any size
            other = next(type(label).__name__ for label in labels if type(label) is not int)
            found += f" with a value of type {other}"
        raise DataError(
            f"{where}: labels must be a list of integers, found {found}; get the file again from its source"
        )
    values = labels
    if len(values) != count:
        raise DataError(f"{where}: {len(values)} labels for {count} images; get the file again from its source")
    wrong = np.flatnonzero((values < valid.start) | (values >= valid.stop))
    if len(wrong):
        raise DataError(
            f"{where}: label {wrong[0]} (from 0) is {values[wrong[0]]}, expected {valid.start}..{valid.stop - 1} "
            f"({len(wrong)} of {count} labels are out of range); {advice}"
        )
    return values.astype(np.int64)


def is_lfs_pointer(file: bytes | Path) -> bool:
    """Whether a file is the small text that Git leaves in its place if Git LFS is not installed."""
    if isinstance(file, bytes):
        return file.startswith(_LFS)
    with file.open("rb") as opened:
        return opened.read(len(_LFS)) == _LFS


class Decoded(NamedTuple):
    """An image, and what its file says about its quality.

    Attributes:
        pixels: uint8 (C, H, W).
        lossy: whether it is stored with lossy compression at this scale.
        dark: whether its 16-bit values use at most 12 bits.
    """

    pixels: npt.NDArray[np.uint8]
    lossy: bool
    dark: bool


@dataclass(frozen=True)
class ImageDecoder:
    """Decodes images to one shape; see `decode`.

    Attributes:
        shape: (C, H, W), W None if variable.
        step: step of variable widths, in pixels.
        on_bad_image: ``skip`` leaves out images that cannot be decoded; ``fail`` raises an error that lists them.
        max_pixels: maximum number of pixels of an image file.
    """

    shape: AnyWidthShape
    step: int = 1
    on_bad_image: OnBadImage = "fail"
    max_pixels: int = MAX_PIXELS

    @property
    def block_length(self) -> int:
        """Number of images in a block."""
        return block_length(self.shape)

    @property
    def identity(self) -> dict[str, Any]:
        """Settings that change which images are decoded, or how, for ``Source.identity``."""
        width = {} if self.shape[2] is not None else {"width_step": self.step}
        return width if self.on_bad_image == "fail" else {**width, "on_bad_image": "skip", "most": self.max_pixels}

    def blocks(self, batches: Iterable[tuple[Sequence[Encoded], npt.NDArray[np.int64]]]) -> Iterator[Block]:
        """Decode batches of images in threads, in order.

        Args:
            batches: encoded images with their labels.

        Yields:
            One block per batch or, with variable width, per run of images of equal width.

        Raises:
            DataError: some images cannot be decoded; it is raised after all are tried, or after 20 such images.
        """
        bad: list[str] = []
        dark: list[str] = []
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for images, labels in batches:
                skipped, found = [], []
                for at, one in enumerate(pool.map(self._decode, images)):
                    if isinstance(one, DataError):
                        skipped.append(str(one))
                    else:
                        found.append((one, labels[at]))
                        dark += [images[at][0]] * one.dark
                if self.on_bad_image == "fail":
                    bad += skipped
                    if len(bad) >= _LISTED:
                        break
                yield from _blocks(found, skipped, self.shape)
        if bad:
            more = f"at least {len(bad)}" if len(bad) >= _LISTED else str(len(bad))
            listed = "".join(f"\n  {message}" for message in bad[:_LISTED])
            raise DataError(
                f"{bad[0]}, or set data.on_bad_image=skip"
                if len(bad) == 1
                else f"{more} images cannot be read; repair or remove them, or set data.on_bad_image=skip:{listed}"
            )
        if dark:
            _warn_if_dark(dark)

    def _decode(self, image: Encoded) -> Decoded | DataError:
        try:
            return _decode(image[1], self.shape, image[0], self.step, self.max_pixels)
        except DataError as error:
            return error


def _blocks(found: Sequence[tuple[Decoded, np.int64]], skipped: Sequence[str], shape: AnyWidthShape) -> Iterator[Block]:
    """Yield decoded images with their labels, as a block per run of images of equal width."""
    for _, alike in groupby(found, lambda one: one[0].pixels.shape):
        images, labels = zip(*alike, strict=True)
        pixels = np.stack([image.pixels for image in images])
        yield Block(pixels, np.array(labels), sum(image.lossy for image in images), tuple(skipped))
        skipped = ()
    if skipped:
        channels, height, width = shape
        yield Block(np.empty((0, channels, height, width or 1), np.uint8), np.empty(0, np.int64), 0, tuple(skipped))


def decode(
    image: bytes | Path,
    shape: AnyWidthShape,
    name: str | None = None,
    step: int = 1,
    max_pixels: int = MAX_PIXELS,
) -> npt.NDArray[np.uint8]:
    """Decode an image.

    The EXIF orientation is applied, transparent pixels are blended with white, and 16-bit gray is reduced to its high
    byte. The largest centred box of the target aspect ratio is then scaled by area averaging (Pillow's box filter).

    Args:
        image: the encoded bytes, or the file that holds them.
        shape: (C, H, W), with C 1 for gray and 3 for RGB; a W of None becomes the multiple of ``step`` that crops
            least.
        name: name of the image in error messages; by default its path.
        step: step of variable widths, in pixels.
        max_pixels: maximum number of pixels of the file.

    Returns:
        uint8 (C, H, W).

    Raises:
        DataError: the image cannot be decoded, or is too large.
    """
    found = _decode(image, shape, name, step, max_pixels)
    if found.dark:
        _warn_if_dark([_named(image, name)])
    return found.pixels


def _warn_if_dark(names: Sequence[str]) -> None:
    log.warning(
        "%d images, such as %s, have 16-bit values below 4096 and become nearly black: if they are 12-bit images, "
        "multiply their values by 16",
        len(names),
        names[0],
    )


def _named(image: bytes | Path, name: str | None) -> str:
    return name or (str(image) if isinstance(image, Path) else f"{len(image)} bytes")


def _decode(image: bytes | Path, shape: AnyWidthShape, name: str | None, step: int, max_pixels: int) -> Decoded:
    channels, height, width = shape
    try:
        with _open(image, max_pixels) as file:
            lossy = is_lossy(file)
            picture, dark = to_rgb(file)
        if width is None:
            width = nearest_width((picture.height, picture.width), height, step)
        lossy &= min(picture.width / width, picture.height / height) == 1
        pixels = fitted(picture, (channels, height, width))
    except Exception as error:  # Pillow's decoders raise arbitrary exceptions for damaged files
        raise DataError(_unreadable(_named(image, name), image, error)) from None
    return Decoded(pixels, lossy, dark)


def _open(image: bytes | Path, max_pixels: int) -> Image.Image:
    """Open an image file whose size is at most ``max_pixels``; nothing is decoded."""
    with _OPENING:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            file = Image.open(io.BytesIO(image) if isinstance(image, bytes) else image)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    if (pixels := file.width * file.height) > max_pixels:
        file.close()
        raise ValueError(
            f"{file.width}x{file.height} pixels are more than data.max_pixels={max_pixels}; "
            f"set data.max_pixels={pixels} if you trust the file"
        )
    return file


def is_lossy(file: Image.Image) -> bool:
    """Whether an open image file is a JPEG or a WebP with lossy compression; the latter says so in its chunks."""
    if file.format != "WEBP":
        return file.format in ("JPEG", "MPO")
    stream = cast(BinaryIO, file.fp)  # type: ignore[attr-defined]
    before = stream.tell()
    stream.seek(12)
    while len(head := stream.read(8)) == 8 and head[:4] not in (b"VP8 ", b"VP8L"):
        length = int.from_bytes(head[4:], "little")
        stream.seek(length + length % 2, io.SEEK_CUR)
    stream.seek(before)
    return head[:4] == b"VP8 "


def nearest_width(size: tuple[int, int], height: int, step: int) -> int:
    """Return the positive multiple of ``step`` closest to the width of an image (H, W) scaled to ``height``."""
    return step * max(1, round(size[1] * height / (size[0] * step)))


def size_of(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Read the size of an image file, after its EXIF orientation is applied.

    Args:
        path: path of the file.
        max_pixels: maximum number of pixels of the file.

    Returns:
        Height and width.

    Raises:
        DataError: the file is not an image, or is too large.
    """
    try:
        with _open(path, max_pixels) as file:
            lies = file.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
            # Some formats are rotated on decoding.
            width, height = ImageOps.exif_transpose(file).size if lies else file.size
    except Exception as error:
        raise DataError(_unreadable(str(path), path, error)) from None
    return height, width


def _unreadable(name: str, image: bytes | Path, error: Exception) -> str:
    """Return the message about an image that cannot be read; Pillow's own repeats the path if the format is unknown."""
    if image == b"":
        reason = "it has no bytes"
    elif isinstance(error, UnidentifiedImageError):
        reason = LFS_REASON if is_lfs_pointer(image) else "no image format is recognised"
    else:
        reason = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(
            error
        ).__name__
    return f"{name} is not a readable image ({reason}); repair or remove it"
