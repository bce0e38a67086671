"""What readers share: the shape they were asked for, labels, sources made of files, and decoding of encoded images."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from fragrecon.data.store import Block, Source, Split, image_bytes
from fragrecon.errors import ConfigError, DataError

Shape = tuple[int, int, int]
FreeShape = tuple[int, int, int | None]
"""(C, H, W), where W may be None: that next to the image's own aspect."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
Encoded = tuple[str, bytes | Path]  # what to call an image in a message, and where its bytes are


def image_shape(image_size: Sequence[int], channels: int) -> Shape:
    """(C, H, W) from the options of a reader, checked."""
    size = tuple(image_size) if isinstance(image_size, Sequence) else image_size
    if not (isinstance(size, tuple) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
        raise ConfigError(f"data.image_size must be [height, width] in pixels, such as [64, 64]; got {size!r}")
    if type(channels) is not int or channels not in (1, 3):
        raise ConfigError(f"data.channels must be 1 (gray) or 3 (RGB), got {channels!r}")
    return channels, size[0], size[1]


def root_folder(root: str | Path | None) -> Path:
    if not root:
        raise ConfigError("the folder of the images is not given; set data.root=FOLDER")
    return Path(root).expanduser().resolve()


def check_folder(root: Path) -> None:
    if not root.is_dir():
        found = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"{root} {found}; set data.root=FOLDER to the folder of the images")


def block_length(shape: FreeShape) -> int:
    """How many images a block holds: a few thousand, or fewer where they are large (64 MiB a block)."""
    return max(1, min(4096, (1 << 26) // image_bytes(shape)))


def files_source(
    reader: str, root: Path, split: Split, files: Sequence[Path], images: int, classes: tuple[str, ...] | None = None
) -> Source:
    """A source that changes when one of its files is another: by name, size or time of change."""
    stats = [(file.relative_to(root).as_posix(), file.stat()) for file in files]
    stamps = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
    return Source({"reader": reader, "root": str(root), "split": split, "files": stamps}, images, classes)


def check_labels(labels: Any, count: int, valid: range, where: str | Path) -> npt.NDArray[np.int64]:
    """Labels as an array, after a look at their type, number and range."""
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


def decode(image: bytes | Path, shape: FreeShape, name: str | None = None, step: int = 1) -> npt.NDArray[np.uint8]:
    """Decode an encoded image to uint8 ``shape`` (C, H, W).

    The EXIF orientation is applied, what is transparent is laid on white, 16-bit gray keeps its high byte. The largest
    centred box of the wanted aspect is then scaled by area averaging (Pillow's box filter).

    Args:
        image: the encoded bytes, or the file that holds them.
        shape: C is 1 for gray, 3 for RGB; a W of None is the multiple of ``step`` that leaves the least to crop.
        name: what to call the image in an error; by default its path.
        step: of widths that are free, in pixels.

    Raises:
        DataError: it cannot be decoded.
    """
    channels, height, width = shape
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as file:
            picture = _to_rgb(ImageOps.exif_transpose(file))
        if width is None:
            width = nearest_width((picture.height, picture.width), height, step)
        if picture.size != (width, height):
            picture = ImageOps.fit(picture, (width, height), Image.Resampling.BOX)
        if channels == 1:
            picture = picture.convert("L")
        pixels = np.asarray(picture, np.uint8).reshape(height, width, channels)
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        what = name or (str(image) if isinstance(image, Path) else f"{len(image)} bytes")
        raise DataError(f"{what} is not a readable image ({_reason(error)}); mend or remove it") from None
    return np.array(pixels.transpose(2, 0, 1), order="C")  # a copy, as Pillow's own pixels cannot be written to


def nearest_width(size: tuple[int, int], height: int, step: int) -> int:
    """The multiple of ``step``, at least one, next to the width of an image of (H, W) brought to ``height``."""
    return step * max(1, round(size[1] * height / (size[0] * step)))


def size_of(path: Path) -> tuple[int, int]:
    """Height and width of an image file, upright.

    Raises:
        DataError: it is no image.
    """
    try:
        with Image.open(path) as file:
            lies = file.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
            # Some formats are turned as they are decoded, which only then shows.
            width, height = ImageOps.exif_transpose(file).size if lies else file.size
    except Exception as error:
        raise DataError(f"{path} is not a readable image ({_reason(error)}); mend or remove it") from None
    return height, width


def decode_blocks(
    batches: Iterable[tuple[Sequence[Encoded], npt.NDArray[np.int64]]], shape: FreeShape, step: int = 1
) -> Iterator[Block]:
    """Decode batches of images in threads, in order, each to a block or, where widths are free, to one for each run of
    images of one width.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for images, labels in batches:
            decoded = pool.map(lambda image: decode(image[1], shape, image[0], step), images)
            start = 0
            for _, alike in groupby(decoded, np.shape):
                pixels = np.stack(list(alike))
                yield Block(pixels, labels[start : start + len(pixels)])
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
    """An error in a word or two; Pillow's own message for a file of no known format holds its path once more."""
    if isinstance(error, UnidentifiedImageError):
        return "no image format is recognised"
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
