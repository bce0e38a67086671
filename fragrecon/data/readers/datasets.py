"""Data sets of the user: a ``Dataset`` class as in torchvision, a NumPy array, or a data set of Hugging Face."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import Dataset

from fragrecon import files
from fragrecon.data.puzzles import batches
from fragrecon.data.readers.colours import to_pixels
from fragrecon.data.readers.folder import hashed_split
from fragrecon.data.readers.images import Size, block_length
from fragrecon.data.store import Block, Source, Split
from fragrecon.errors import DataError

SAMPLE = 64
"""Number of images that are read to see whether a data set has changed."""


class ImageDataset(Protocol):
    """What can be read by index: an array (N, H, W) or (N, H, W, C) of uint8, or a data set.

    An item is an image, a pair of image and label, or a mapping with ``image`` (or ``img``) and, optionally,
    ``label``. An image is a picture of Pillow, an array (H, W) or (H, W, C) of uint8, or a tensor (C, H, W), uint8 or
    in [0, 1].
    """

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, index: int, /) -> Any:
        """Read an item."""


class Labelled(Dataset[Any]):
    """Images in memory with their labels.

    Args:
        images: (N, H, W) or (N, H, W, C) uint8.
        labels: class of each image, (N,) integers.

    Raises:
        DataError: there are not as many labels as images.
    """

    def __init__(self, images: npt.NDArray[np.uint8], labels: npt.ArrayLike) -> None:
        self.images, self.labels = images, np.asarray(labels)
        if self.labels.shape != (len(images),):
            raise DataError(f"labels of shape {self.labels.shape} for {len(images)} images; use one for each image")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.images[index], self.labels[index]


class DatasetReader:
    """Reads a ``Dataset``; its images are cropped and scaled to one shape like image files.

    Args:
        dataset: the training images. In a config, a node; its class may take ``root``, ``download``, ``image_size``
            and ``channels``.
        test: the test images; by default, about a tenth of ``dataset`` is held out.
        image_size: (height, width) of the images.
        channels: 3 for RGB, 1 for gray.
    """

    def __init__(
        self, dataset: Dataset[Any], test: Dataset[Any] | None = None, image_size: Size = (64, 64), channels: int = 3
    ) -> None:
        self.shape = (channels, *image_size)
        self._held_out = test is None
        given = {"train": dataset, "test": dataset if test is None else test}
        self._datasets = {split: cast(ImageDataset, one) for split, one in given.items()}

    def source(self, split: Split) -> Source:
        """Describe a split; see `Reader.source`. To find changes, some of the images are read."""
        names = getattr(self._datasets[split], "classes", None)
        classes = tuple(map(str, names)) if isinstance(names, (list, tuple)) and names else None
        identity = {"reader": "dataset", "split": split, "held_out": self._held_out, "data": self.fingerprints[split]}
        return Source(identity, len(self._indices(split)), classes)

    def blocks(self, split: Split) -> Iterator[Block]:
        """Read the images of a split; see `Reader.blocks`."""
        dataset, indices = self._datasets[split], self._indices(split)
        for part in batches(len(indices), block_length(self.shape)):
            items = [read_item(dataset, index) for index in indices[part]]
            pixels = np.stack([to_pixels(picture, self.shape) for picture, _ in items])
            yield Block(pixels, np.array([label for _, label in items], np.int64))

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """A hash of each split, that changes with its images; of a data set, of `SAMPLE` images only."""
        return {split: fingerprint(dataset) for split, dataset in self._datasets.items()}

    def _indices(self, split: Split) -> list[int]:
        count = range(len(self._datasets[split]))
        return [index for index in count if not self._held_out or hashed_split(str(index)) == split]


class GivenData:
    """Reads a data set that was given to a call in Python, by its key; other processes find its converted images.

    Args:
        key: result of `give`.
        image_size: (height, width) of the images.
        channels: 3 for RGB, 1 for gray.
    """

    def __init__(self, key: str, image_size: Size = (64, 64), channels: int = 3) -> None:
        self.key, self.shape = key, (channels, *image_size)
        self._reader = DatasetReader(*_given[key], image_size, channels) if key in _given else None

    def source(self, split: Split) -> Source:
        """Describe a split; see `Reader.source`."""
        found = self._reader.source(split) if self._reader else Source({}, 0)
        return Source({"reader": "given", "split": split, "key": self.key}, found.images, found.classes)

    def blocks(self, split: Split) -> Iterator[Block]:
        """Read the images of a split; see `Reader.blocks`.

        Returns:
            The blocks.

        Raises:
            DataError: the data set is of another process.
        """
        if self._reader is None:
            raise DataError(
                "the data of this run was given from Python, and its converted images are no longer in the cache; "
                "repeat the call, or choose other data with data=NAME"
            )
        return self._reader.blocks(split)


_given: dict[str, tuple[Any, Any]] = {}


def give(data: ImageDataset, test: ImageDataset | None = None) -> GivenData:
    """Make a data set in memory readable by a key.

    Args:
        data: the training images.
        test: the test images; by default, about a tenth of ``data`` is held out.

    Returns:
        The reader, for images of the size of the first.

    Raises:
        DataError: there are no images, or they have an unknown type.
    """
    if not len(data):
        raise DataError("the data set holds no images")
    first, _ = read_item(data, 0)
    size, channels = (first.height, first.width), 1 if first.mode in ("L", "1", "I", "I;16") else 3
    key = files.digest([DatasetReader(cast(Any, data), cast(Any, test), size, channels).fingerprints, test is None])
    _given[key[:24]] = data, test
    return GivenData(key[:24], size, channels)


def fingerprint(dataset: ImageDataset) -> str:
    """Compute a hash of a data set: of all values of arrays, otherwise of its length and of evenly spaced images.

    Args:
        dataset: images.

    Returns:
        The hash.

    Raises:
        DataError: an image differs when it is read again.
    """
    arrays = [dataset] if isinstance(dataset, np.ndarray) else None
    if isinstance(dataset, Labelled):
        arrays = [dataset.images, dataset.labels]
    sha = hashlib.sha256()
    if arrays:
        for array in arrays:
            sha.update(f"{array.dtype} {array.shape}".encode())
            sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()
    sha.update(f"{type(dataset).__module__}.{type(dataset).__qualname__} {len(dataset)}".encode())
    for index in sorted(set(np.linspace(0, len(dataset) - 1, SAMPLE, dtype=int).tolist())) if len(dataset) else []:
        picture, label = read_item(dataset, index)
        if picture.tobytes() != read_item(dataset, index)[0].tobytes():
            raise DataError(
                f"image {index} of {type(dataset).__name__} differs when it is read again; leave out random "
                "transforms: data.augment and data.corruption change training images"
            )
        sha.update(f"{picture.mode} {picture.size} {label}".encode())
        sha.update(picture.tobytes())
    return sha.hexdigest()


def read_item(dataset: ImageDataset, index: int) -> tuple[Image.Image, int]:
    """Read an image and its label.

    Args:
        dataset: images.
        index: index of the image.

    Returns:
        The picture and the label, -1 if unknown.

    Raises:
        DataError: the item is not an image, or its label is not an integer.
    """
    where, item = f"item {index} of {type(dataset).__name__}", dataset[index]
    if isinstance(item, Mapping):
        image, label = item.get("image", item.get("img")), item.get("label")
    elif isinstance(item, (tuple, list)):
        image, label = item[0], item[1] if len(item) > 1 else None
    else:
        image, label = item, None
    if label is None:
        return _picture(image, where), -1
    number = np.asarray(label)
    if number.size != 1 or number.dtype.kind not in "iu":
        raise DataError(f"{where} has the label {label!r}; it should be an integer")
    return _picture(image, where), int(number.reshape(()))


def _picture(image: Any, where: str) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, torch.Tensor) and image.ndim == 3:
        values = (image * 255).round().clamp(0, 255).byte() if image.is_floating_point() else image
        image = values.movedim(0, -1).numpy()
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3):
        gray = image.ndim == 2 or image.shape[-1] == 1
        if gray or image.shape[-1] in (3, 4):
            return Image.fromarray(image.reshape(image.shape[:2]) if gray else image)
    what = f"{image.dtype} {tuple(image.shape)}" if hasattr(image, "dtype") else type(image).__name__
    raise DataError(
        f"{where} is {what}; an image should be a picture of Pillow, uint8 (H, W) or (H, W, C), or a tensor (C, H, W)"
    )
