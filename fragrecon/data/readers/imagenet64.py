"""Downsampled ImageNet (Chrabaszcz et al. 2017, arXiv:1707.08819) as distributed by its authors: pickled batches."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fragrecon.data.readers.images import Size, check_folder, files_source, root_folder
from fragrecon.data.readers.pickles import read_batches
from fragrecon.data.store import Block, Source, Split
from fragrecon.errors import DataError

# Where a split may be, in order of preference: a folder below the root, and the prefix of numbered files or, without a
# final "_", the name of a single file.
_PLACES: dict[Split, tuple[tuple[str, str], ...]] = {
    "train": (("train_data", "train_data_batch_"), (".", "train_data_batch_")),
    "test": (
        ("dev_data", "dev_data_batch_"),
        ("val_data", "val_data_batch_"),
        ("val_data", "val_data"),
        (".", "dev_data_batch_"),
        (".", "val_data_batch_"),
        (".", "val_data"),
    ),
}
_CLASSES = 1000


class ImageNet64:
    """Pickled batches ``train_data/train_data_batch_1..10`` and a held-out split in ``dev_data`` or ``val_data``.

    Fewer than ten training files are allowed if their numbers have no gap. Labels 1..1000 become 0..999, in the order
    of the authors' ``map_clsloc.txt``, which is not that of the WordNet ids; the files contain no class names.

    Args:
        root: the folder that contains ``train_data``, or the training files themselves.
        image_size: (height, width) of the images in the files; there are versions of 8, 16, 32 and 64 pixels.
        channels: number of channels in the files.
    """

    def __init__(self, root: str | Path | None = None, image_size: Size = (64, 64), channels: int = 3) -> None:
        self.root = root_folder(root)
        self.shape = (channels, *image_size)

    def source(self, split: Split) -> Source:
        """Find the files of a split; see `Reader.source`."""
        paths = self._files(split)
        images = sum(path.stat().st_size for path in paths) // int(np.prod(self.shape))
        return files_source("imagenet64", self.root, split, paths, images)

    def blocks(self, split: Split) -> Iterator[Block]:
        """Read the images of a split; see `Reader.blocks`."""
        return read_batches(self._files(split), self.shape, "labels", range(1, _CLASSES + 1))

    def _files(self, split: Split) -> list[Path]:
        check_folder(self.root)
        for folder, beginning in _PLACES[split]:
            if files := _numbered(self.root / folder, beginning):
                return files
        places = ", ".join(
            f"{Path(folder) / beginning}{'N' * beginning.endswith('_')}" for folder, beginning in _PLACES[split]
        )
        raise DataError(f"no {split} images in {self.root}: none of {places} is there; set data.root to their folder")


def _numbered(folder: Path, beginning: str) -> list[Path]:
    """Return the files of one of `_PLACES`, by number; raises `DataError` if the numbers have a gap."""
    if not beginning.endswith("_"):
        return [folder / beginning] if (folder / beginning).is_file() else []
    matches = (re.fullmatch(beginning + r"([1-9]\d{0,3})", path.name) for path in folder.glob(f"{beginning}*"))
    numbers = sorted(int(match[1]) for match in matches if match)
    if missing := sorted(set(range(1, max(numbers, default=0) + 1)) - set(numbers)):
        raise DataError(
            f"{folder} has {beginning}{numbers[-1]} but not {', '.join(f'{beginning}{number}' for number in missing)}; "
            "get the missing files, or number those you have from 1 without a gap"
        )
    return [folder / f"{beginning}{number}" for number in numbers]
