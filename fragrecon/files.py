"""Atomic files and folders, complete or absent; files of others, read within bounds; and hashes."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from fragrecon.errors import RunError, causes

LONGEST_TEXT = 1 << 28
"""Maximum size in bytes of a JSON or CSV file."""
MOST_UNPACKED = 1 << 29
"""Maximum number of bytes by which the arrays of a compressed file may exceed its size."""

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
            if not isinstance(cause, Exception):  # a Ctrl-C, after which torch cannot close its archive
                raise cause from None
            if isinstance(cause, OSError) and cause.errno:  # of a write, which knows no name
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


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows under the union of their keys, in order of first appearance; a missing value is an empty cell.

    A spreadsheet takes text for a formula that starts with ``=``, ``+``, ``-``, ``@`` or a control character; such text
    is written with an apostrophe before it, unless it is a number.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_without_formula, columns))
    writer.writerows([_without_formula(row.get(column)) for column in columns] for row in rows)
    write_text(path, text.getvalue())


def _without_formula(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r", "\n"):
        try:
            float(value)
        except ValueError:
            return f"'{value}"
    return value


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read a file written by `write_csv`.

    Args:
        path: CSV file.

    Returns:
        The rows, without empty cells.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path), newline="")))
    except csv.Error as error:
        raise ValueError(str(error)) from None
    if any(None in row for row in rows):
        raise ValueError("a row has more cells than the first")
    return [{key: value for key, value in row.items() if value} for row in rows]


def read_text(path: Path, most: int = LONGEST_TEXT) -> str:
    """Read a text file of at most ``most`` bytes as UTF-8; raises ValueError if it is larger or damaged."""
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it is larger than {most:,} bytes")
    return content.decode()


def read_json(path: Path) -> Any:
    """Read a JSON file of limited size and depth; raises ValueError if it is damaged."""
    try:
        return json.loads(read_text(path))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]], *, compressed: bool = False) -> None:
    """Write named arrays as an ``.npz`` file."""
    content = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(content, **arrays)  # type: ignore[arg-type]
    with atomic_file(path) as file:
        file.write(content.getbuffer())


def read_arrays(path: Path, names: Collection[str] | None = None) -> dict[str, npt.NDArray[Any]]:
    """Read a file written by `write_arrays`.

    Args:
        path: ``.npz`` file.
        names: the arrays to read, of those that it has; by default all.

    Returns:
        The arrays by name.

    Raises:
        ValueError: the file is damaged, its arrays are not plain numbers, or it would unpack to far more than its size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_size(archive, path, MOST_UNPACKED)
            found = {}
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if names is None or name in names:
                    with archive.open(member) as file:
                        found[name] = _array(file, member.file_size)
            return found
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, KeyError) as error:
        raise ValueError(f"it is no readable archive of arrays ({error})") from None


def check_zip(path: Path, most: int) -> None:
    """Check the sizes of a zip archive before it is unpacked.

    Args:
        path: zip archive.
        most: maximum number of bytes by which its unpacked files may exceed its size.

    Raises:
        ValueError: it is not a zip archive, or it would unpack to more.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_size(archive, path, most)
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise ValueError(f"it is no archive ({error})") from None


def _check_size(archive: zipfile.ZipFile, path: Path, most: int) -> None:
    """Raise ValueError if an archive would unpack to more than ``most`` bytes beyond its size."""
    size = sum(member.file_size for member in archive.infolist())
    if size > path.stat().st_size + most:
        raise ValueError(f"it would unpack to {size:,} bytes, far more than its {path.stat().st_size:,}")


def read_array(path: Path) -> npt.NDArray[Any]:
    """Read a ``.npy`` file; raises ValueError if it is damaged or holds other than plain numbers."""
    with path.open("rb") as file:
        return _array(file, path.stat().st_size)


def _array(file: IO[bytes], size: int) -> npt.NDArray[Any]:
    """Read an array from a file of a size in bytes, after comparing its header with that size."""
    version = np.lib.format.read_magic(file)
    header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if header is None:
        raise ValueError(f"it has an array in format {version}")
    shape, _, dtype = header(file)
    if dtype.hasobject or dtype.names:
        raise ValueError("it holds an array of other values than plain numbers")
    if math.prod(shape) * dtype.itemsize != size - file.tell() or min(shape, default=0) < 0:
        raise ValueError(f"it holds an array of {dtype} {shape}, which does not fit its size of {size:,} bytes")
    file.seek(0)
    found: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return found


def check_links(folder: Path, names: Collection[str] | None = None) -> None:
    """Check that below a run folder are only files and folders, and links between them; it may be a link itself.

    Args:
        folder: run folder; if it does not exist, nothing is checked.
        names: the entries of the folder to check; by default all.

    Raises:
        RunError: there is a link that leads out of the folder, or something else, such as a pipe, which would block.
    """
    inside = Path(os.path.realpath(folder))
    left = [inside]
    while left:  # no recursion, because folders can be deeper than Python's stack
        place = left.pop()
        with suppress(OSError), os.scandir(place) as entries:
            for entry in entries:
                if place == inside and names is not None and entry.name not in names:
                    continue
                here = folder / Path(entry.path).relative_to(inside)
                if entry.is_symlink():
                    if not Path(os.path.realpath(entry.path)).is_relative_to(inside):
                        raise RunError(
                            f"{here} is a link that leads out of the run; put what it links to in its place, or "
                            "delete it"
                        )
                elif entry.is_dir():
                    if here != folder / "wandb":  # the client of Weights & Biases has links in its own folder
                        left.append(Path(entry.path))
                elif not entry.is_file():
                    raise RunError(f"{here} is neither a file nor a folder; delete it")


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

    check_zip(path, 0)
    with path.open("rb") as file:
        with zipfile.ZipFile(file) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} differs; some bytes have changed since it was written")
        file.seek(0)
        return torch.load(file, map_location=map_location, weights_only=True)


@contextmanager
def atomic_folder(path: Path, begun: Path | None = None) -> Iterator[Path]:
    """Build a folder atomically.

    No lock is needed: each process builds its own folder, and the first to rename it wins; later ones discard their
    equal results.

    Args:
        path: path of the folder.
        begun: temporary folder that a killed process has left; by default, it is a new one.

    Yields:
        A temporary folder next to it, which is renamed to ``path`` if the block succeeds.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = begun or Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
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
