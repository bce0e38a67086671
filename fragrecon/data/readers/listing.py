"""Lists of the image files in a folder and its subfolders."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fragrecon.data.readers.images import SUFFIXES
from fragrecon.errors import DataError

log = logging.getLogger(__name__)

_UNREADABLE = {".heic", ".heif", ".jxl", ".svg", ".psd", ".exr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".dcm"}
"""Suffixes of image files that Pillow cannot read; skipping them is worth a warning."""


@dataclass(frozen=True)
class Folder:
    """The images of one folder, without those of its subfolders.

    Attributes:
        path: path below the root, "" for the root itself.
        images: names of the image files, sorted.
        stamp: hash of the names, sizes and modification times of the image files.
    """

    path: str
    images: list[str]
    stamp: str


class Listing:
    """The image files below a folder, found without opening them.

    Hidden files and folders are ignored. Links to folders are followed, except to a folder below the root, which is
    listed anyway, and to a folder that contains the root or the link.

    Args:
        root: the resolved path of the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._entries: dict[str, tuple[Folder, list[str]]] = {}
        self._skipped: Counter[str] = Counter()

    def entries(self, path: str = "") -> tuple[Folder, list[str]]:
        """List one folder.

        Args:
            path: path below the root.

        Returns:
            Its images, and the sorted names of its subfolders.

        Raises:
            DataError: the folder cannot be read.
        """
        if path not in self._entries:
            try:
                self._entries[path] = self._scan(path)
            except OSError as error:
                raise DataError(
                    f"the folder {self.root / path} cannot be read ({error.strerror}); repair or remove it"
                ) from None
        return self._entries[path]

    def walk(self, path: str = "", above: tuple[Path, ...] = ()) -> Iterator[Folder]:
        """List a folder and its subfolders that contain images, in order.

        Args:
            path: path below the root.
            above: resolved paths of the folders that contain it.

        Yields:
            The folders.
        """
        real = (self.root / path).resolve()
        if real in above:
            return
        folder, names = self.entries(path)
        if folder.images:
            yield folder
        for name in names:
            yield from self.walk(join(path, name), (*above, real))

    @property
    def skipped(self) -> str:
        """Number of other files by suffix, such as ``40 .heic, 1 .txt``."""
        return ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in self._skipped.most_common())

    def report_skipped(self) -> None:
        """Log the number of other files by suffix, if there are any; as a warning if they are images."""
        if self._skipped:
            level = logging.WARNING if self._skipped.keys() & _UNREADABLE else logging.INFO
            log.log(level, "files in %s that are not read as images: %s", self.root, self.skipped)

    def _scan(self, path: str) -> tuple[Folder, list[str]]:
        images, folders = [], []
        with os.scandir(self.root / path) as entries:
            for entry in entries:
                if entry.name.startswith((".", "__MACOSX")):
                    continue
                if entry.is_dir():
                    if not (entry.is_symlink() and self._is_listed(Path(entry.path))):
                        folders.append(entry.name)
                elif entry.name.lower().endswith(SUFFIXES) and (entry.is_file() or not Path(entry.path).exists()):
                    images.append((entry.name, _stamp(entry)))
                else:
                    self._skipped[Path(entry.name).suffix.lower()] += 1
        images.sort()
        stamp = hashlib.sha256("\n".join(f"{name}\0{stamp}" for name, stamp in images).encode("utf-8", "surrogatepass"))
        return Folder(path, [name for name, _ in images], stamp.hexdigest()), sorted(folders)

    def _is_listed(self, link: Path) -> bool:
        """Whether a link leads to a folder that is listed without it, or to one that contains the root."""
        real = link.resolve()
        if not real.is_relative_to(self.root):
            return self.root.is_relative_to(real)
        return not any(part.startswith(".") for part in real.relative_to(self.root).parts)


def join(path: str, name: str) -> str:
    """Return the path of an entry of a folder, both below the root."""
    return f"{path}/{name}" if path else name


def image_paths(folder: Path) -> list[Path]:
    """List all image files in a folder and its subfolders, in the order of ``data=folder``.

    Args:
        folder: the folder.

    Returns:
        Paths of the files.

    Raises:
        DataError: there are none, or a folder cannot be read.
    """
    listing = Listing(folder.resolve())
    found = [folder / part.path / name for part in listing.walk() for name in part.images]
    if not found:
        raise DataError(
            f"{folder} holds no image ({', '.join(SUFFIXES)}), nor do its folders; "
            f"it holds {listing.skipped or 'nothing'}"
        )
    listing.report_skipped()
    return found


def _stamp(entry: os.DirEntry[str]) -> str:
    try:
        stat = entry.stat()
    except OSError:  # a link to nothing, which cannot be decoded either
        stat = entry.stat(follow_symlinks=False)
    return f"{stat.st_size} {stat.st_mtime_ns}"
