"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) as distributed by the author: pickled batches in a tar file."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import shutil
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, ClassVar

import numpy as np

from fragrecon import files
from fragrecon.data.readers.images import Shape, files_source, root_folder
from fragrecon.data.readers.pickles import load_pickle, read_batches
from fragrecon.data.store import Block, Source, Split
from fragrecon.errors import DataError

_TIMEOUT = 30.0  # seconds without a response


class Cifar10:
    """CIFAR-10: 10 classes.

    Args:
        root: the folder of the batches, or its parent.
        download: whether to download the archive into ``root`` if the files are missing.
        url: URL of the archive; by default the official one.
        md5: MD5 checksum of the archive; by default the official one.
    """

    folder = "cifar-10-batches-py"
    batches: ClassVar[dict[Split, tuple[str, ...]]] = {
        "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
        "test": ("test_batch",),
    }
    labels_key = "labels"
    num_classes = 10
    meta = "batches.meta"
    names_key = "label_names"
    official_url = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    official_md5 = "c58f30108f718f92721af3b95e74349a"

    shape: Shape = (3, 32, 32)

    def __init__(
        self, root: str | Path | None = None, download: bool = False, url: str | None = None, md5: str | None = None
    ) -> None:
        self.root = root_folder(root)
        self.download = download
        self.url = url or self.official_url
        self.md5 = (md5 or self.official_md5).lower()

    def source(self, split: Split) -> Source:
        """Find the files of a split; see `Reader.source`."""
        paths = self._files(split)
        images = sum(path.stat().st_size for path in paths) // int(np.prod(self.shape))
        meta = paths[0].with_name(self.meta)
        classes = self._class_names(meta) if meta.is_file() else None
        return files_source(
            f"cifar{self.num_classes}", self.root, split, [*paths, meta] if classes else paths, images, classes
        )

    def blocks(self, split: Split) -> Iterator[Block]:
        """Read the images of a split; see `Reader.blocks`."""
        return read_batches(self._files(split), self.shape, self.labels_key, range(self.num_classes))

    def _files(self, split: Split) -> list[Path]:
        home = self._home()
        if home is None and self.download:
            home = self.root / self.folder
            self._fetch(home)
        if home is None:
            raise DataError(
                f"no file of {self.folder} in {self.root} or {self.root / self.folder}; "
                "set data.root to their folder, or pass data.download=true to download them"
            )
        paths = [home / name for name in self.batches[split]]
        if missing := [path.name for path in paths if not path.is_file()]:
            raise DataError(
                f"{home} lacks {', '.join(missing)}; download them again, "
                "or remove the folder and pass data.download=true"
            )
        return paths

    def _home(self) -> Path | None:
        """Return the folder that contains any of the files."""
        names = [name for batches in self.batches.values() for name in batches]
        places = (self.root / self.folder, self.root)
        return next((place for place in places if any((place / name).is_file() for name in names)), None)

    def _class_names(self, meta: Path) -> tuple[str, ...]:
        names = load_pickle(meta).get(self.names_key)
        if (
            not isinstance(names, list)
            or len(names) != self.num_classes
            or not all(isinstance(name, (str, bytes)) for name in names)
        ):
            raise DataError(f"{meta}: {self.names_key!r} is not a list of {self.num_classes} names; get the file again")
        return tuple(name if isinstance(name, str) else name.decode("utf-8", "replace") for name in names)

    def _fetch(self, home: Path) -> None:
        """Download and unpack the archive to ``home``, or leave nothing behind."""
        made = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        try:
            # The archive has no name on disk, so nothing remains of it however this process ends.
            with files.atomic_folder(home) as folder, tempfile.TemporaryFile(dir=folder) as archive:
                _download(self.url, self.md5, archive)
                self._unpack(archive, folder)
        except OSError as error:
            raise DataError(
                f"cannot write {home} ({error.strerror or error}); set data.root to a folder with room for 400 MB"
            ) from None
        finally:
            for folder in made:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()

    def _unpack(self, archive: IO[bytes], folder: Path) -> None:
        """Write the files of interest to ``folder``, each under its base name; paths in the archive are ignored."""
        archive.seek(0)
        wanted = {*(name for batches in self.batches.values() for name in batches), self.meta}
        try:
            with tarfile.open(fileobj=archive, mode="r:gz") as tar:
                for member in tar:
                    name = Path(member.name).name
                    if name in wanted and (content := tar.extractfile(member)):
                        with (folder / name).open("wb") as file:
                            shutil.copyfileobj(content, file)
                            files.sync(file)
                        wanted.remove(name)
        except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise DataError(f"{self.url} is not a tar.gz archive ({error}); check data.reader.url") from None
        if wanted:
            raise DataError(f"the archive {self.url} lacks {', '.join(sorted(wanted))}; check data.reader.url")


class Cifar100(Cifar10):
    """CIFAR-100: its 100 fine classes."""

    folder = "cifar-100-python"
    batches: ClassVar[dict[Split, tuple[str, ...]]] = {"train": ("train",), "test": ("test",)}
    labels_key = "fine_labels"
    num_classes = 100
    meta = "meta"
    names_key = "fine_label_names"
    official_url = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
    official_md5 = "eb9058c3a382ffc7106e4002c42a8d85"


def _download(url: str, md5: str, target: IO[bytes]) -> None:
    """Stream ``url`` to a file and verify its checksum."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    found = hashlib.md5(usedforsecurity=False)
    with Progress(*columns) as bar:
        task = bar.add_task(f"downloading {url.rpartition('/')[2]}", total=None)
        for piece, total in _pieces(url):
            target.write(piece)
            found.update(piece)
            bar.update(task, advance=len(piece), total=total)
    if found.hexdigest() != md5:
        raise DataError(
            f"{url} has MD5 {found.hexdigest()} ({target.tell():,} bytes), expected {md5}; nothing was saved. "
            "Try again, or give another data.reader.url"
        )


def _pieces(url: str) -> Iterator[tuple[bytes, int | None]]:
    """Yield the bytes at a URL in pieces, each with the total number of bytes if the server reports it."""
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
            length = response.headers.get("Content-Length", "")
            while piece := response.read(1 << 20):
                yield piece, int(length) if length.isdigit() else None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DataError(
            f"cannot download {url} ({error}); nothing was saved. Check the network, or download the files by hand"
        ) from None
