"""Shared parts of the readers: shapes, labels, sources that consist of files, and decoding of images."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from fragrecon.data.store import AnyWidthShape, Block, Source, Split, image_bytes
from fragrecon.errors import ConfigError, DataError

Shape = tuple[int, int, int]
Size = tuple[int, int]
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
Encoded = tuple[str, bytes | Path]  # name for messages; the bytes, or the file that holds them


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


def check_labels(labels: Any, count: int, valid: range, where: str | Path) -> npt.NDArray[np.int64]:
    """Check the type, number and range of labels.

    Args:
        labels: labels as read from the file.
        count: number of images.
        valid: allowed labels.
        where: origin of the labels, for messages.

    Returns:
        The labels, (count,).

    Raises:
        DataError: the labels are invalid.
    """
    try:
        values = np.asarray(labels)
    except (ValueError, TypeError, OverflowError):
        values = np.empty(0, object)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise DataError(
            f"{where}: labels must be a list of integers, found {type(labels).__name__} of {values.dtype} "
            f"with shape {values.shape}; get the file again from its source"
        )
    if len(values) != count:
        raise DataError(f"{where}: {len(values)} labels for {count} images; get the file again from its source")
    wrong = np.flatnonzero((values < valid.start) | (values >= valid.stop))
    if len(wrong):
        raise DataError(
            f"{where}: label {wrong[0]} (from 0) is {values[wrong[0]]}, expected {valid.start}..{valid.stop - 1} "
            f"({len(wrong)} of {count} labels are out of range); check that data= fits these files"
        )
    return values.astype(np.int64)


def decode(image: bytes | Path, shape: AnyWidthShape, name: str | None = None, step: int = 1) -> npt.NDArray[np.uint8]:
    """Decode an image.

    The EXIF orientation is applied, transparent pixels are blended with white, and 16-bit gray is reduced to its high
    byte. The largest centred box of the target aspect ratio is then scaled by area averaging (Pillow's box filter).

    Args:
        image: the encoded bytes, or the file that holds them.
        shape: (C, H, W), with C 1 for gray and 3 for RGB; a W of None becomes the multiple of ``step`` that crops
            least.
        name: name of the image in error messages; by default its path.
        step: step of variable widths, in pixels.

    Returns:
        uint8 (C, H, W).

    Raises:
        DataError: the image cannot be decoded.
    """
    return _decode(image, shape, name, step)[0]


def _decode(
    image: bytes | Path, shape: AnyWidthShape, name: str | None, step: int
) -> tuple[npt.NDArray[np.uint8], bool]:
    """Decode an image, and tell whether it is stored with lossy compression at its decoded scale."""
    channels, height, width = shape
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as file:
            lossy = is_lossy(file)
            picture = _to_rgb(ImageOps.exif_transpose(file))
        if width is None:
            width = nearest_width((picture.height, picture.width), height, step)
        lossy &= min(picture.width / width, picture.height / height) == 1
        pixels = _fitted(picture, (channels, height, width))
    except Exception as error:  # Pillow's decoders raise arbitrary exceptions for damaged files
        what = name or (str(image) if isinstance(image, Path) else f"{len(image)} bytes")
        raise DataError(f"{what} is not a readable image ({_reason(error)}); repair or remove it") from None
    return pixels, lossy


def to_pixels(picture: Image.Image, shape: Shape) -> npt.NDArray[np.uint8]:
    """Convert a picture in memory like a file.

    Args:
        picture: picture of any mode that Pillow converts to RGB.
        shape: (C, H, W), with C 1 for gray and 3 for RGB.

    Returns:
        uint8 (C, H, W).
    """
    return _fitted(_to_rgb(picture), shape)


def _fitted(picture: Image.Image, shape: Shape) -> npt.NDArray[np.uint8]:
    """Crop and scale an RGB picture, and convert it to an array (C, H, W)."""
    channels, height, width = shape
    if picture.size != (width, height):
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.BOX)
    if channels == 1:
        picture = picture.convert("L")
    pixels = np.asarray(picture, np.uint8).reshape(height, width, channels)
    return np.array(pixels.transpose(2, 0, 1), order="C")  # a copy, because Pillow's pixels are read-only


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


def size_of(path: Path) -> tuple[int, int]:
    """Read the size of an image file, after its EXIF orientation is applied.

    Args:
        path: path of the file.

    Returns:
        Height and width.

    Raises:
        DataError: the file is not an image.
    """
    try:
        with Image.open(path) as file:
            lies = file.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
            # Some formats are rotated on decoding.
            width, height = ImageOps.exif_transpose(file).size if lies else file.size
    except Exception as error:
        raise DataError(f"{path} is not a readable image ({_reason(error)}); repair or remove it") from None
    return height, width


def decode_blocks(
    batches: Iterable[tuple[Sequence[Encoded], npt.NDArray[np.int64]]], shape: AnyWidthShape, step: int = 1
) -> Iterator[Block]:
    """Decode batches of images in threads, in order.

    Args:
        batches: encoded images with their labels.
        shape: (C, H, W) of the decoded images, W None if variable.
        step: step of variable widths, in pixels.

    Yields:
        One block per batch or, with variable width, per run of images of equal width.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for images, labels in batches:
            decoded = pool.map(lambda image: _decode(image[1], shape, image[0], step), images)
            start = 0
            for _, alike in groupby(decoded, lambda found: found[0].shape):
                pixels, lossy = zip(*alike, strict=True)
                yield Block(np.stack(pixels), labels[start : start + len(pixels)], sum(lossy))
                start += len(pixels)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        values = np.asarray(picture)
        if values.min() < 0 or values.max() >= 1 << 16:
            raise ValueError("gray values beyond 16 bits")
        picture = Image.fromarray((values >> 8).astype(np.uint8))
    elif picture.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known")
    elif picture.mode in ("RGBA", "RGBa", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _reason(error: Exception) -> str:
    """Return an error in a few words; Pillow's own message for an unknown format repeats the path."""
    if isinstance(error, UnidentifiedImageError):
        return "no image format is recognised"
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
