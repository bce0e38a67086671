"""Atomic files and folders, complete or absent, and hashes."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import yaml

from fragrecon.errors import causes

# Temporary files are private; final files get the permissions of any new file.
_UMASK = os.umask(0)
os.umask(_UMASK)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file atomically.

    Args:
        path: path of the file.

    Yields:
        A temporary file in the same folder. If the block succeeds, it is synced to disk and renamed to ``path``.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            sync(file)
        temporary.chmod(0o666 & ~_UMASK)
        temporary.replace(path)
        sync_folder(path.parent)
    except Exception as error:
        for cause in causes(error):
            if isinstance(cause, OSError):  # of a write, which knows no name
                cause.filename = cause.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8; bytes of file names that are no UTF-8 are written as escapes."""
    with atomic_file(path) as file:
        file.write(text.encode(errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON; NaN raises an error, because it is not valid JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_yaml(path: Path) -> Any:
    """Return the plain values of a YAML file; the parser in C is ten times as fast as the others."""
    return yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows under the union of their keys, in order of first appearance; a missing value is an empty cell."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a file written by `write_csv`, without empty cells."""
    with path.open(newline="") as file:
        return [{key: value for key, value in row.items() if value != ""} for row in csv.DictReader(file)]


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]], *, compressed: bool = False) -> None:
    """Write named arrays as an ``.npz`` file."""
    content = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(content, **arrays)  # type: ignore[arg-type]
    with atomic_file(path) as file:
        file.write(content.getbuffer())


def read_arrays(path: Path, names: Collection[str] | None = None) -> dict[str, npt.NDArray[Any]]:
    """Return the named arrays of a file written by `write_arrays`, or those of ``names`` that it has."""
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files if names is None or name in names}


def read_tensors(path: Path, map_location: Any = "cpu") -> Any:
    """Read a file written by `torch.save`, after comparing all its checksums, which `torch.load` does not.

    Args:
        path: path of the file; it may hold only tensors and plain containers.
        map_location: device to load tensors to, as in `torch.load`.

    Returns:
        The contents.

    Raises:
        ValueError: a checksum differs. A file that is damaged otherwise may raise anything.
    """
    import torch

    with path.open("rb") as file:
        with zipfile.ZipFile(file) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} differs; some bytes have changed since it was written")
        file.seek(0)
        return torch.load(file, map_location=map_location, weights_only=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Build a folder atomically.

    No lock is needed: each process builds its own folder, and the first to rename it wins; later ones discard their
    equal results.

    Args:
        path: path of the folder.

    Yields:
        A temporary folder next to it, which is renamed to ``path`` if the block succeeds.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
    try:
        yield temporary
        sync_folder(temporary)
        temporary.chmod(0o777 & ~_UMASK)
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():
                raise
        sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync(file: BinaryIO) -> None:
    """Flush a file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make renames in ``path`` survive a power failure, where the file system can sync folders."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def digest(value: Any) -> str:
    """Hex SHA-256 of the canonical JSON of ``value``."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in pieces."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            sha.update(piece)
    return sha.hexdigest()
