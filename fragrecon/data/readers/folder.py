"""Folders of image files, with a subfolder for each class."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fragrecon import files
from fragrecon.data.readers.images import (
    MAX_PIXELS,
    SUFFIXES,
    Encoded,
    ImageDecoder,
    OnBadImage,
    Size,
    check_folder,
    root_folder,
)
from fragrecon.data.readers.listing import Folder, Listing, join
from fragrecon.data.readers.splits import HELD_OUT, LISTS, find_splits, looks_split, read_list
from fragrecon.data.store import AnyWidthShape, Block, Source, Split
from fragrecon.errors import DataError

log = logging.getLogger(__name__)

# The folders with images, in order, by class; None stands for no class.
_Tree = dict[str | None, list[Folder]]


class ImageFolder:
    """Images in any format and size that Pillow reads, each decoded to one shape by `images.decode`.

    The class of an image is the first-level folder that contains it, at any depth; images without class folders are
    unlabelled (-1). If the root, or the only folder in it, holds ``train`` and one of ``test``, ``val`` and the other
    names that `splits.find_splits` knows, these are the splits, with the classes inside. Otherwise a hash of its path
    puts each image into train or, one in ten, into test. See `listing.Listing` for hidden files and links.

    Test images must have classes that training images have. If they have no class folders, the classes are read from
    a list, such as ``val_annotations.txt`` of Tiny ImageNet. Of several held-out folders, the first with known classes
    is used.

    A reader lists the folders once. A new reader detects changes by the names, sizes and modification times of the
    images.

    Args:
        root: the root folder.
        image_size: (height, width) of the decoded images.
        channels: 3 for RGB, 1 for gray.
        image_height: height of the decoded images with variable width: each image gets the width, a multiple of
            ``width_step``, that crops least. By default the width is fixed.
        width_step: step of variable widths, in pixels.
        on_bad_image: ``skip`` leaves out images that cannot be decoded; ``fail`` raises an error that lists them.
        max_pixels: maximum number of pixels of an image file.
        labels: file with the classes of the test images, see `splits.read_list`; by default one of `splits.LISTS`
            next to the test images or their folder, if there is one.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        image_size: Size = (64, 64),
        channels: int = 3,
        image_height: int | None = None,
        width_step: int = 16,
        on_bad_image: OnBadImage = "fail",
        max_pixels: int = MAX_PIXELS,
        labels: str | None = None,
    ) -> None:
        self.root = root_folder(root)
        size = tuple(image_size) if image_height is None else (image_height, None)
        self.shape: AnyWidthShape = (channels, *size)
        self.labels = labels
        self._decoder = ImageDecoder(self.shape, width_step, on_bad_image, max_pixels)
        self._listing = Listing(self.root)
        self._list: Path | None = None

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
            "folders": [[folder.path, folder.stamp, len(folder.images)] for folder in folders],
            **self._decoder.identity,
        }
        if split == "test" and self._list:
            identity["labels"] = files.file_digest(self._list)
        return Source(identity, images, tuple(self._classes) or None)

    def blocks(self, split: Split) -> Iterator[Block]:
        """Read the images of a split; see `Reader.blocks`."""
        return self._decoder.blocks(self._batches(split))

    def _batches(self, split: Split) -> Iterator[tuple[list[Encoded], npt.NDArray[np.int64]]]:
        images = self._images(split)
        while batch := list(islice(images, self._decoder.block_length)):
            paths = [self.root / path for path, _ in batch]
            yield [(str(path), path) for path in paths], np.array([label for _, label in batch], np.int64)

    def _images(self, split: Split) -> Iterator[tuple[str, int]]:
        """Yield path and label of every image of a split, in order."""
        labels: dict[str | None, int] = {name: label for label, name in enumerate(self._classes)}
        for name, folders in self._tree(split).items():
            label = labels.get(name, -1)
            for folder in folders:
                for image in folder.images:
                    path = join(folder.path, image)
                    if not self._hashed or hashed_split(path) == split:
                        yield path, label

    def _tree(self, split: Split) -> _Tree:
        if split not in self._trees:
            names = " or ".join(HELD_OUT) if split == "test" else "train"
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
        top, train, held_out = self._splits("")
        trees: dict[Split, _Tree] = {}
        if train is not None:
            trees["train"] = self._scan(join(top, train))
        if held_out:
            trees["test"] = self._held_out([join(top, name) for name in held_out], trees.get("train", {}))
        if not trees:
            trees["train"] = trees["test"] = self._scan("")
        self._listing.report_skipped()
        return trees

    def _splits(self, top: str) -> tuple[str, str | None, list[str]]:
        """Return the folder that contains the splits, the name of the training split, and those of the test split."""
        folder, names = self._listing.entries(top)
        found = find_splits(names, self.root / top)
        if found:
            return top, *found
        if len(names) == 1 and not folder.images:
            return self._splits(join(top, names[0]))
        for name in names:
            parts = self._listing.entries(join(top, name))[1]
            if looks_split(parts):
                raise DataError(
                    f"{self.root / top / name} holds folders of splits, {', '.join(parts[:8])}, "
                    "which would be mixed within a class; set data.root to the folder that holds train and test"
                )
        return "", None, []

    def _held_out(self, paths: list[str], train: _Tree) -> _Tree:
        """Return the first of the held-out folders whose images have known classes, or else the first one."""
        classes = sorted(name for name in train if name is not None)
        found = [(path, *self._labelled(path, classes)) for path in paths]
        path, tree, self._list = next((one for one in found if classes and one[1].keys() <= set(classes)), found[0])
        if classes and (unknown := sorted(name for name in tree if name is not None and name not in classes)):
            raise DataError(
                f"{self.root / path} has {len(unknown)} classes that no training image has, such as {unknown[0]}; "
                "give its class folders the names of the training classes, or list the classes of its images in a "
                "file, a line NAME CLASS for each, and set data.reader.labels=FILE"
            )
        if len(paths) > 1:
            log.info("test images are read from %s, and those in the other held-out folders are not used", path)
        if self.labels and not self._list:
            raise DataError(f"data.reader.labels={self.labels} lists no image of {self.root / path}")
        return tree

    def _labelled(self, path: str, classes: list[str]) -> tuple[_Tree, Path | None]:
        """List a held-out folder; sort images without class folders into classes by a list, if there is one."""
        tree = self._scan(path)
        folders = [folder for folders in tree.values() for folder in folders]
        images = [image for folder in folders for image in folder.images]
        for file in self._lists(path) if classes and set(tree) - set(classes) else ():
            if labels := read_list(file, images, classes):
                parts: _Tree = {}
                for folder in folders:
                    for name in sorted({labels[image] for image in folder.images}):
                        chosen = [image for image in folder.images if labels[image] == name]
                        parts.setdefault(name, []).append(replace(folder, images=chosen))
                return {name: parts[name] for name in sorted(parts, key=str)}, file
        return tree, None

    def _lists(self, path: str) -> list[Path]:
        """Return the files that may list the classes of the images of a held-out folder."""
        if self.labels:
            return [self.root / Path(self.labels).expanduser()]
        places = (folder / name for folder in (self.root / path, (self.root / path).parent) for name in LISTS)
        return [place for place in places if place.is_file()]

    def _scan(self, top: str) -> _Tree:
        folder, names = self._listing.entries(top)
        above = (self.root, (self.root / top).resolve()) if top else (self.root,)
        tree: _Tree = {name: folders for name in names if (folders := list(self._listing.walk(join(top, name), above)))}
        if folder.images and tree:
            raise DataError(
                f"{self.root / top} holds images next to its class folders, such as {folder.images[0]}; "
                "move them into a class folder or away"
            )
        if folder.images:
            tree[None] = [folder]
        if not tree:
            raise DataError(
                f"{self.root / top} holds no image ({', '.join(SUFFIXES)}), nor do its folders; set data.root to a "
                f"folder that does (other files: {self._listing.skipped or 'none'})"
            )
        return tree


def hashed_split(path: str) -> Split:
    """Return the split of an image in a folder without splits: a hash of its path below the root."""
    value = int.from_bytes(hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()[:8], "big")
    return "test" if value % 10 == 0 else "train"
