"""Pickled batches of images, read without trusting them.

A pickle is a program that may call whatever it can import. This unpickler offers only replacements of the few names
that real files use, and these check their arguments. numpy's own ``__setstate__`` methods, which can be made to build
objects or to point outside their memory, are never called. The unpickler is the standard library's in Python: the one
in C allocates whatever memory a file of ten bytes claims to need, and is no faster on large arrays.

Time and memory are bounded by the size of the file: a length that a file states is compared with the bytes that are
left before memory is allocated, and nothing is done whose cost grows faster than the file, such as hashing tuples that
contain one another.
"""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NoReturn

import numpy as np
import numpy.typing as npt

from fragrecon import files
from fragrecon.data.readers.images import FITS, LFS_REASON, Shape, block_length, check_labels, is_lfs_pointer
from fragrecon.data.store import Block
from fragrecon.errors import DataError

LONGEST = 200
"""Maximum length of text from a file in a message."""
MOST_STEPS = 5_000_000
"""Maximum number of opcodes in a file; a batch of 128,000 images has about 300,000."""

_EXPECTED = "a pickled dict of numpy arrays and lists was expected; get the file again from its source"


def load_pickle(path: Path) -> dict[str, Any]:
    """Load a dict of arrays, lists, numbers and strings, written by Python 2 or 3.

    Args:
        path: path of the pickle.

    Returns:
        The dict. Strings of Python 2 are bytes, except for the keys. Arrays are read-only.

    Raises:
        DataError: the file is missing, empty, truncated or not such a dict, or it requests other objects or calls.
    """  # noqa: DOC501  # what is raised inside is caught inside
    try:
        with path.open("rb") as file:
            value = _Unpickler(file, path.stat().st_size).load()
        if type(value) is not dict:
            raise _RefusedError(f"it holds a {type(value).__name__}")
        return {_text(key): item.value if isinstance(item, _Array) else item for key, item in value.items()}
    except _RefusedError as error:
        trouble = f"was not loaded: {_short(str(error))}"
    except OSError as error:
        trouble = f"cannot be read ({error.strerror or error})"
    except Exception as error:  # a malformed pickle can cause any exception
        if path.stat().st_size == 0:
            trouble = "is empty"
        elif is_lfs_pointer(path):
            trouble = f"is {LFS_REASON}"
        elif isinstance(error, (EOFError, struct.error)) or "exhausted" in str(error):
            trouble = f"is cut short: it ends after {path.stat().st_size:,} bytes"
        else:
            trouble = f"is not a readable pickle ({_short(f'{type(error).__name__}: {error}')})"
    raise DataError(f"{path} {trouble}; {_EXPECTED}")


def read_batches(
    paths: Iterable[Path], shape: Shape, labels_key: str, labels: range, advice: str = FITS
) -> Iterator[Block]:
    """Read batches, pickled or in ``.npz`` files, one file in memory at a time.

    Args:
        paths: paths of the files: dicts with ``data``, uint8 (n, C*H*W) rows of planar pixels, and labels.
        shape: (C, H, W).
        labels_key: key of the labels.
        labels: allowed labels; the first becomes class 0.
        advice: what to check if labels are out of range, for messages.

    Yields:
        Blocks.

    Raises:
        DataError: a file is malformed.
    """
    for path in paths:
        yield from _read_batch(path, shape, labels_key, labels, advice)


def _load_arrays(path: Path) -> dict[str, Any]:
    try:
        return files.read_arrays(path)
    except Exception as error:  # a malformed file can cause any exception
        reason = LFS_REASON if path.is_file() and is_lfs_pointer(path) else f"{type(error).__name__}: {error}"
        raise DataError(f"{path} is not a readable .npz file ({reason}); get the file again from its source") from None


def _read_batch(path: Path, shape: Shape, labels_key: str, labels: range, advice: str) -> Iterator[Block]:
    batch = _load_arrays(path) if path.suffix == ".npz" else load_pickle(path)
    if missing := [key for key in ("data", labels_key) if key not in batch]:
        raise DataError(f"{path} has no {' and no '.join(map(repr, missing))}, only {_listed(batch)}; {_EXPECTED}")
    data, width = batch["data"], int(np.prod(shape))
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != width:
        found = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(
            f"{path}: 'data' is {found}, expected uint8 (n, {width}): a row for each image of {shape[0]} channels and "
            f"{shape[1]}x{shape[2]} pixels; choose the reader and the image size that fit this file"
        )
    classes = check_labels(batch[labels_key], len(data), labels, path, advice) - labels.start
    step = block_length(shape)
    for start in range(0, len(data), step):
        # A copy, because a view would keep this file in memory while the next one is loaded.
        yield Block(data[start : start + step].reshape(-1, *shape).copy(), classes[start : start + step])


class _RefusedError(pickle.UnpicklingError):
    """A request that no data file needs to make."""


class _Function:
    """A function that a pickle may call, but whose state it may not set."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: object) -> NoReturn:
        raise _RefusedError("it sets the state of a function")


class _DType:
    """Replacement of `numpy.dtype`: plain numbers only."""

    __slots__ = ("value",)

    def __init__(self, code: str | bytes, align: object = False, copy: object = False) -> None:
        if not re.fullmatch(r"[<>=|]?[biuf][1248]", name := _text(code)):
            kind = "Python objects" if name.lstrip("<>=|").startswith("O") else "something other than plain numbers"
            raise _RefusedError(f"it holds an array of {kind} (dtype {name!r})")
        self.value: np.dtype[Any] = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.value = self.value.newbyteorder(_text(state[1]))  # type: ignore[arg-type]  # numpy checks it


class _Array:
    """Replacement of `numpy.ndarray`."""

    __slots__ = ("value",)
    value: npt.NDArray[Any]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, by_column, raw = state
        self.value = _values(raw, dtype, shape, "F" if by_column else "C")


def _values(raw: object, dtype: _DType, shape: tuple[int, ...], order: Any) -> npt.NDArray[Any]:
    if not isinstance(raw, bytes):
        raise _RefusedError("it holds an array whose values are not plain bytes")
    if not isinstance(shape, tuple) or len(shape) > 8 or not all(type(side) is int for side in shape):
        raise _RefusedError("it holds an array whose shape is not a tuple of up to 8 integers")
    return np.frombuffer(raw, dtype.value).reshape(shape, order=order)


def _reconstruct(kind: object, shape: object, code: object) -> _Array:
    if kind is not _Array:
        raise _RefusedError("it builds an array of a custom class")
    return _Array()


def _frombuffer(raw: object, dtype: _DType, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.value = _values(raw, dtype, shape, order)
    return array


def _scalar(dtype: _DType, raw: object) -> Any:
    return _values(raw, dtype, (), "C").item()


# All names in pickles of plain arrays and numbers, by numpy 1 ("core") and 2 ("_core"). Modules that a file names are
# never imported.
_GLOBALS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    **{
        (f"numpy.{core}.{module}", name): _Function(function)
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _frombuffer),
        )
    },
}


class _Bounded:
    """A file that raises EOFError, without allocating memory, if more bytes are asked for than are left."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def read(self, count: int) -> bytes:
        if count > self._left:
            raise EOFError
        self._left -= count
        return self._file.read(count)

    def readline(self) -> bytes:
        line = self._file.readline()
        self._left -= len(line)
        return line


_Step = Callable[[Any], None]


def _counted(step: _Step) -> _Step:
    def counted(unpickler: _Unpickler) -> None:
        unpickler.steps += 1
        if unpickler.steps > MOST_STEPS:
            raise _RefusedError(f"it has more than {MOST_STEPS:,} opcodes")
        step(unpickler)

    return counted


def _refused(name: str) -> _Step:
    def refuse(unpickler: _Unpickler) -> NoReturn:
        raise _RefusedError(f"it uses {name}, which no data file needs")

    return refuse


def _with_names_as_keys(step: _Step, keys: slice) -> _Step:
    """Have a step check the keys, a slice of the stack, that it adds to a dict: hashing shared tuples may never end."""

    def checked(unpickler: _Unpickler) -> None:
        for key in unpickler.stack[keys]:
            _text(key)
        step(unpickler)

    return checked


class _Unpickler(pickle._Unpickler):
    """The unpickler of a file of ``size`` bytes."""

    stack: list[Any]
    read: Callable[[int], bytes]
    append: Callable[[Any], None]

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__(_Bounded(file, size), encoding="bytes")
        self.steps, self._encodable = 0, size

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _Function(self._encode)
        if (module, name) not in _GLOBALS:
            raise _RefusedError(
                f"it asks for {module}.{name}, which no data file needs and which could run anything on this machine"
            )
        return _GLOBALS[module, name]

    def _encode(self, text: str, encoding: str | bytes) -> bytes:
        if _text(encoding) != "latin1":
            raise _RefusedError(f"it asks for the codec {_text(encoding)!r}")
        self._encodable -= len(text)
        if self._encodable < 0:
            raise _RefusedError("it encodes more text than it holds")
        return text.encode("latin-1")

    def _load_bytearray(self) -> None:
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(self.read(length))  # as bytes, whose length is checked before they are read

    dispatch: ClassVar = {
        code: _counted(step)
        for code, step in (
            pickle._Unpickler.dispatch
            | {pickle.BYTEARRAY8[0]: _load_bytearray}
            | {
                code[0]: _with_names_as_keys(pickle._Unpickler.dispatch[code[0]], keys)
                for code, keys in (
                    (pickle.SETITEM, slice(-2, -1)),
                    (pickle.SETITEMS, slice(0, None, 2)),
                    (pickle.DICT, slice(0, None, 2)),
                )
            }
            | {code[0]: _refused("sets") for code in (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET)}
            | {code[0]: _refused("buffers") for code in (pickle.NEXT_BUFFER, pickle.READONLY_BUFFER)}
        ).items()
    }


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if not isinstance(value, str):
        raise _RefusedError(f"it has a value of type {type(value).__name__} where a name belongs")
    return value


def _listed(batch: dict[str, Any]) -> str:
    return _short(", ".join(map(repr, sorted(batch)[:LONGEST]))) or "nothing"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
