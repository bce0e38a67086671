"""Downsampled ImageNet (Chrabaszcz et al. 2017, arXiv:1707.08819) as distributed by its authors: batches in files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fragrecon.data.readers.images import FITS, Size, check_folder, files_source, root_folder
from fragrecon.data.readers.pickles import read_batches
from fragrecon.data.store import Block, Source, Split
from fragrecon.errors import DataError

# Where a split may be, in order of preference: patterns of folders below the root, "" for the root itself, and of the
# names of the files, whose group is the number of the file.
_TRAIN, _DEV, _VAL = (
    r"train_data_batch_([1-9]\d{0,3})",
    r"dev_data_batch_([1-9]\d{0,3})",
    r"val_data_batch_([1-9]\d{0,3})",
)
_PLACES: dict[Split, tuple[tuple[str, str], ...]] = {
    "train": (("train_data", _TRAIN), (r"Imagenet\d+_train.*", _TRAIN), ("", _TRAIN)),
    "test": (
        ("dev_data", _DEV),
        *(("val_data", name) for name in (_VAL, "val_data()")),
        (r"Imagenet\d+_val.*", "val_data()"),
        *(("", name) for name in (_DEV, _VAL, "val_data()")),
    ),
}
_EXPECTED: dict[Split, str] = {
    "train": "train_data_batch_N there, in train_data or in Imagenet64_train_partN",
    "test": "val_data there, in val_data or in Imagenet64_val, or dev_data_batch_N there or in dev_data",
}
_CLASSES = 1000


class ImageNet64:
    """Batches ``train_data/train_data_batch_1..10`` and a held-out split in ``dev_data`` or ``val_data``.

    The files are pickles or ``.npz`` files with the same names, also in the folders of the authors' archives, such as
    ``Imagenet64_train_part1`` and ``Imagenet64_val``. Fewer than ten training files are allowed if their numbers have
    no gap. Labels 1..1000 become 0..999, in the order of the authors' ``map_clsloc.txt``, which is not that of the
    WordNet ids; the files contain no class names.

    Args:
        root: the folder that contains these folders, or the files themselves.
        image_size: (height, width) of the images in the files; there are versions of 8, 16, 32 and 64 pixels.
        channels: number of channels in the files.
        first_label: label of the first class in the files; 0 for copies that were relabelled.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        image_size: Size = (64, 64),
        channels: int = 3,
        first_label: int = 1,
    ) -> None:
        self.root = root_folder(root)
        self.shape = (channels, *image_size)
        self.labels = range(first_label, first_label + _CLASSES)

    def source(self, split: Split) -> Source:
        """Find the files of a split; see `Reader.source`."""
        paths = self._files(split)
        images = sum(path.stat().st_size for path in paths) // int(np.prod(self.shape))
        found = files_source("imagenet64", self.root, split, paths, images)
        found.identity["first_label"] = self.labels.start
        return found

    def blocks(self, split: Split) -> Iterator[Block]:
        """Read the images of a split; see `Reader.blocks`."""
        advice = "if the labels in the files begin with 0, set data.reader.first_label=0" if self.labels.start else FITS
        return read_batches(self._files(split), self.shape, "labels", self.labels, advice)

    def _files(self, split: Split) -> list[Path]:
        check_folder(self.root)
        names = sorted(path.name for path in self.root.iterdir() if not path.name.startswith("."))
        for folder, file in _PLACES[split]:
            folders = (
                [self.root / name for name in names if re.fullmatch(folder, name, re.IGNORECASE)]
                if folder
                else [self.root]
            )
            if files := _numbered([path for path in folders if path.is_dir()], file):
                return files
        there = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "nothing"
        raise DataError(
            f"no {split} images in {self.root}, which holds {there}: expected {_EXPECTED[split]}; "
            "set data.root to their folder"
        )


def _numbered(folders: list[Path], pattern: str) -> list[Path]:
    """Return the files of one of `_PLACES`, by number; raises `DataError` if the numbers have a gap or repeat."""
    found: dict[int, Path] = {}
    for path in sorted(path for folder in folders for path in folder.iterdir() if path.is_file()):
        if match := re.fullmatch(rf"{pattern}(\.npz)?", path.name):
            number = int(match[1] or 1)
            if number in found:
                raise DataError(f"{found[number]} and {path} are the same part of the data; remove one of them")
            found[number] = path
    if missing := sorted(set(range(1, max(found, default=0) + 1)) - found.keys()):
        names = ", ".join(found[max(found)].name.replace(str(max(found)), str(number)) for number in missing)
        raise DataError(
            f"{folders[0] if len(folders) == 1 else folders[0].parent} has {found[max(found)].name} but not {names}; "
            "get the missing files, or number those you have from 1 without a gap"
        )
    return [found[number] for number in sorted(found)]
