"""Folders of image files, with a subfolder for each class."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fragrecon.data.readers.images import (
    SUFFIXES,
    Encoded,
    Size,
    block_length,
    check_folder,
    decode_blocks,
    root_folder,
)
from fragrecon.data.store import AnyWidthShape, Block, Source, Split
from fragrecon.errors import DataError

_HELD_OUT = ("test", "val", "valid", "validation")


@dataclass(frozen=True)
class _Folder:
    """A folder with images: its path below the root, its modification time, and the sorted names of its images."""

    path: str
    mtime_ns: int
    images: list[str]


# The folders with images, in order, by class; None stands for no class.
_Tree = dict[str | None, list[_Folder]]


class ImageFolder:
    """Images in any format and size that Pillow reads, each decoded to one shape by `images.decode`.

    The class of an image is the first-level folder that contains it, at any depth; images without class folders are
    unlabelled (-1). If the root holds ``train`` and one of ``test``, ``val``, ``valid``, ``validation`` (the first
    found is held out), these are the splits, with the classes inside; the classes are the union over both. Otherwise a
    hash of its path puts each image into train or, one in ten, into test. Hidden files are ignored.

    A reader lists the folders once. A new reader detects changes by the names and modification times of the folders and
    the number of their images. It does not detect that a file was overwritten in place.

    Args:
        root: the root folder.
        image_size: (height, width) of the decoded images.
        channels: 3 for RGB, 1 for gray.
        image_height: height of the decoded images with variable width: each image gets the width, a multiple of
            ``width_step``, that crops least. By default the width is fixed.
        width_step: step of variable widths, in pixels.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        image_size: Size = (64, 64),
        channels: int = 3,
        image_height: int | None = None,
        width_step: int = 16,
    ) -> None:
        self.root = root_folder(root)
        size = tuple(image_size) if image_height is None else (image_height, None)
        self.shape: AnyWidthShape = (channels, *size)
        self.width_step = width_step

    def source(self, split: Split) -> Source:
        """Find the files of a split; see `Reader.source`."""
        folders = [folder for folders in self._tree(split).values() for folder in folders]
        images = sum(len(folder.images) for folder in folders)
        if self._hashed:
            images = sum(1 for _ in self._images(split))
            if not images:
                raise DataError(
                    f"none of the images in {self.root} is in the {split} split, which holds about "
                    f"{10 if split == 'test' else 90}% of them by a hash of their path; add images, or sort them into "
                    "folders train and test"
                )
        identity = {
            "reader": "folder",
            "root": str(self.root),
            "split": split,
            "hashed": self._hashed,
            "classes": self._classes,
            "folders": [[folder.path, folder.mtime_ns, len(folder.images)] for folder in folders],
        }
        if self.shape[2] is None:
            identity["width_step"] = self.width_step
        return Source(identity, images, tuple(self._classes) or None)

    def blocks(self, split: Split) -> Iterator[Block]:
        """Read the images of a split; see `Reader.blocks`."""
        return decode_blocks(self._batches(split), self.shape, self.width_step)

    def _batches(self, split: Split) -> Iterator[tuple[list[Encoded], npt.NDArray[np.int64]]]:
        images = self._images(split)
        while batch := list(islice(images, block_length(self.shape))):
            paths = [self.root / path for path, _ in batch]
            yield [(str(path), path) for path in paths], np.array([label for _, label in batch], np.int64)

    def _images(self, split: Split) -> Iterator[tuple[str, int]]:
        """Yield path and label of every image of a split, in order."""
        labels: dict[str | None, int] = {name: label for label, name in enumerate(self._classes)}
        for name, folders in self._tree(split).items():
            label = labels.get(name, -1)
            for folder in folders:
                for image in folder.images:
                    path = f"{folder.path}/{image}" if folder.path else image
                    if not self._hashed or hashed_split(path) == split:
                        yield path, label

    def _tree(self, split: Split) -> _Tree:
        if split not in self._trees:
            names = " or ".join(_HELD_OUT) if split == "test" else "train"
            raise DataError(
                f"{self.root} has no folder {names} for its {split} images; "
                "add one, or set data.root to the folder of the classes to have a tenth of its images kept for testing"
            )
        return self._trees[split]

    @cached_property
    def _hashed(self) -> bool:
        return self._trees.get("train") is self._trees.get("test")

    @cached_property
    def _classes(self) -> list[str]:
        return sorted({name for tree in self._trees.values() for name in tree if name is not None})

    @cached_property
    def _trees(self) -> dict[Split, _Tree]:
        check_folder(self.root)
        folders = set(self._entries("")[1])
        held_out = next((name for name in _HELD_OUT if name in folders), None)
        parts: dict[Split, str | None] = {"train": "train" if "train" in folders else None, "test": held_out}
        # A folder "train" among folders that name no split is a class, of trains.
        if all(parts.values()) or (folders and folders <= {"train", *_HELD_OUT}):
            return {split: self._scan(part) for split, part in parts.items() if part}
        tree = self._scan("")
        return {"train": tree, "test": tree}

    def _scan(self, top: str) -> _Tree:
        loose, names = self._entries(top)
        tree: _Tree = {
            name: folders for name in names if (folders := list(self._walk(f"{top}/{name}" if top else name)))
        }
        if loose and tree:
            raise DataError(
                f"{self.root / top} holds images next to its class folders, such as {loose[0]}; "
                "move them into a class folder or away"
            )
        if loose:
            tree[None] = [_Folder(top, (self.root / top).stat().st_mtime_ns, loose)]
        if not tree:
            raise DataError(
                f"{self.root / top} holds no image ({', '.join(SUFFIXES)}), nor do its folders; set data.root"
            )
        return tree

    def _walk(self, path: str, above: tuple[Path, ...] = ()) -> Iterator[_Folder]:
        """Yield this folder and its subfolders that contain images; links back to a parent folder are not followed."""
        real = (self.root / path).resolve()
        if real in above:
            return
        images, folders = self._entries(path)
        if images:
            yield _Folder(path, real.stat().st_mtime_ns, images)
        for folder in folders:
            yield from self._walk(f"{path}/{folder}", (*above, real))

    def _entries(self, path: str) -> tuple[list[str], list[str]]:
        """Sorted names of the images and of the folders in a folder; no file is opened."""
        images, folders = [], []
        try:
            with os.scandir(self.root / path) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        folders.append(entry.name)
                    elif entry.name.lower().endswith(SUFFIXES):
                        images.append(entry.name)
        except OSError as error:
            raise DataError(
                f"the folder {self.root / path} cannot be read ({error.strerror}); repair or remove it"
            ) from None
        return sorted(images), sorted(folders)


def hashed_split(path: str) -> Split:
    """Return the split of an image in a folder without splits: a hash of its path below the root."""
    value = int.from_bytes(hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()[:8], "big")
    return "test" if value % 10 == 0 else "train"
