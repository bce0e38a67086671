"""Arrays of images in ``.npz`` or ``.npy`` files."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from fragrecon.data.puzzles import batches
from fragrecon.data.readers.colours import to_pixels
from fragrecon.data.readers.folder import hashed_split
from fragrecon.data.readers.images import Size, block_length, check_labels, files_source, root_folder
from fragrecon.data.store import Block, Source, Split
from fragrecon.errors import DataError

# Names of the arrays of images and labels of a split, in order of preference; the last are split by a hash.
_NAMES: dict[Split, tuple[tuple[str, str], ...]] = {
    "train": (("train_images", "train_labels"), ("x_train", "y_train"), ("images", "labels")),
    "test": (("test_images", "test_labels"), ("x_test", "y_test"), ("images", "labels")),
}


class ArrayFiles:
    """Arrays ``train_images`` and ``test_images`` of uint8 (N, H, W) or (N, H, W, C), and ``train_labels`` and so on.

    They are members of an ``.npz`` file, or ``.npy`` files in a folder. The names ``x_train``, ``y_train`` and so on
    are known as well. If there is only ``images`` (and ``labels``), about a tenth is held out for testing. The files
    are read in parts, and no pickled objects are read.

    Args:
        root: the ``.npz`` file, or the folder.
        image_size: (height, width) of the images; those of another size are cropped and scaled like image files.
        channels: 3 for RGB, 1 for gray.
    """

    def __init__(self, root: str | Path | None = None, image_size: Size = (64, 64), channels: int = 3) -> None:
        self.root, self.shape = root_folder(root), (channels, *image_size)

    def source(self, split: Split) -> Source:
        """Find the arrays of a split; see `Reader.source`."""
        images, labels = self._arrays(split)
        with images.open():
            count = len(self._indices(split, images))
        paths = sorted({array.path for array in (images, labels) if array})
        return files_source("arrays", self.root.parent, split, paths, count)

    def blocks(self, split: Split) -> Iterator[Block]:
        """Read the images of a split; see `Reader.blocks`."""
        images, labels = self._arrays(split)
        with images.open() as read:
            indices, count = np.array(self._indices(split, images), np.int64), images.shape[0]
            classes = labels.labels(count) if labels else np.full(count, -1)
            for part in batches(count, block_length((4, images.shape[1], images.shape[2]))):
                pixels = read(part.stop - part.start)
                chosen = indices[(indices >= part.start) & (indices < part.stop)]
                if len(chosen):
                    yield Block(self._scaled(pixels[chosen - part.start]), classes[chosen])

    def _scaled(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        if pixels.shape[1:] == (*self.shape[1:], self.shape[0]):
            return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        return np.stack(
            [
                to_pixels(Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image), self.shape)
                for image in pixels
            ]
        )

    def _indices(self, split: Split, images: _StoredArray) -> list[int]:
        count = range(images.shape[0])
        return [index for index in count if images.name != "images" or hashed_split(str(index)) == split]

    def _arrays(self, split: Split) -> tuple[_StoredArray, _StoredArray | None]:
        """Return the arrays of images and of labels of a split."""
        held = self._held()
        for images, labels in _NAMES[split]:
            if images in held:
                return held[images], held.get(labels)
        wanted = " or ".join(images for images, _ in _NAMES[split])
        raise DataError(
            f"{self.root} holds no array {wanted}, only {', '.join(sorted(held)) or 'none'}; set data.root to an .npz "
            "file, or to a folder of .npy files, with these names"
        )

    def _held(self) -> dict[str, _StoredArray]:
        if self.root.is_dir():
            return {path.stem: _StoredArray(path, path.stem) for path in self.root.glob("*.npy")}
        try:
            with zipfile.ZipFile(self.root) as archive:
                return {Path(name).stem: _StoredArray(self.root, Path(name).stem) for name in archive.namelist()}
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{self.root} is not a folder of .npy files or an .npz file ({error})") from None


class _StoredArray:
    """An array in a file, of which only the header is read at first.

    Attributes:
        shape: its shape; known after it was opened.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.shape: tuple[int, ...] = (0,)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)

    @contextmanager
    def open(self) -> Iterator[Any]:
        """Open an array of images, and yield a function that reads the next of them, (count, H, W, C)."""
        with self._stream() as stream:
            if self.dtype != np.uint8 or len(self.shape) not in (3, 4) or self.shape[3:] not in ((), (1,), (3,), (4,)):
                raise self._wrong(f"is {self.dtype} {self.shape}; expected uint8 (N, H, W) or (N, H, W, C)")

            def read(count: int) -> npt.NDArray[np.uint8]:
                whole = (count, *self.shape[1:3], *(self.shape[3:] or (1,)))
                return np.frombuffer(self._exactly(stream, math.prod(whole)), np.uint8).reshape(whole)

            yield read

    def labels(self, count: int) -> npt.NDArray[np.int64]:
        """Read the labels of ``count`` images."""
        with self._stream() as stream:
            if self.dtype.kind not in "iu" or self.shape not in ((count,), (count, 1)):
                raise self._wrong(f"is {self.dtype} {self.shape}; expected integers ({count},)")
            values = np.frombuffer(self._exactly(stream, count * self.dtype.itemsize), self.dtype)
        return check_labels(values, count, range(-1, 1 << 31), f"{self.path}, {self.name}")

    @contextmanager
    def _stream(self) -> Iterator[BinaryIO]:
        """Open the file after its header, and check that it is as long as the header says."""
        try:
            if self.path.suffix == ".npy":
                with self.path.open("rb") as file:
                    yield self._after_header(file, self.path.stat().st_size)
                return
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{self.name}.npy") as member:
                yield self._after_header(member, archive.getinfo(f"{self.name}.npy").file_size)  # type: ignore[arg-type]
        except (OSError, EOFError, ValueError, KeyError, NotImplementedError, zipfile.BadZipFile) as error:
            raise self._wrong(f"cannot be read ({error})") from None

    def _after_header(self, stream: BinaryIO, size: int) -> BinaryIO:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        self.shape, fortran, self.dtype = header(stream)
        if fortran or self.dtype.hasobject:
            raise ValueError("it is in column order, or holds objects; save it again as a plain array in row order")
        if size != stream.tell() + math.prod(self.shape) * self.dtype.itemsize:
            raise ValueError(f"its header announces {self.dtype} {self.shape}, which {size:,} bytes cannot hold")
        return stream

    @staticmethod
    def _exactly(stream: BinaryIO, count: int) -> bytes:
        content = stream.read(count)
        if len(content) < count:
            raise EOFError("it is cut short")
        return content

    def _wrong(self, what: str) -> DataError:
        return DataError(f"{self.path}: the array {self.name} {what}")
