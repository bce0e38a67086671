from __future__ import annotations

import builtins
import contextlib
import os
import pickle
import re
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fragrecon.data.readers import pickles
from fragrecon.data.readers.pickles import load_pickle, read_batches
from fragrecon.errors import DataError
from tests import layouts


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "batch"


def refusal(file: Path, content: bytes) -> str:
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_pickle(file)
    assert str(file) in str(caught.value)
    assert "expected" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.uint8).reshape(2, 12),
        np.asfortranarray(np.arange(24, dtype=np.uint8).reshape(2, 12)),
        np.linspace(0, 1, 7),
        np.arange(5, dtype=">i4"),
        np.array([True, False]),
    ],
)
def test_arrays_of_every_protocol(file: Path, protocol: int, array: npt.NDArray[Any]) -> None:
    layouts.dump(file, {"data": array, "labels": [1, 2], "one": array.flat[0]}, protocol)
    loaded = load_pickle(file)
    np.testing.assert_array_equal(loaded["data"], array)
    assert loaded["data"].dtype == array.dtype
    assert loaded["labels"] == [1, 2]
    assert loaded["one"] == array.flat[0]


def test_a_file_of_python_2(file: Path) -> None:
    # {'data': array([[7, 8, 200]], uint8), 'labels': [3], 'name': 'caf\xc3\xa9'} as Python 2.7 and numpy 1 write it.
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    array = empty + b"(K\x01K\x01K\x03\x86" + dtype + b"\x89U\x03\x07\x08\xc8tb"
    file.write_bytes(b"\x80\x02}(U\x04data" + array + b"U\x06labels]K\x03aU\x04nameU\x05caf\xc3\xa9u.")
    loaded = load_pickle(file)
    assert loaded["data"].tolist() == [[7, 8, 200]]
    assert loaded["data"].dtype == np.uint8
    assert (loaded["labels"], loaded["name"]) == ([3], b"caf\xc3\xa9")


def test_numpy_names_of_version_1_and_2(file: Path) -> None:
    content = pickle.dumps({"data": np.arange(3, dtype=np.uint8)}, 2)
    name = b"cnumpy._core.multiarray\n" if b"_core" in content else b"cnumpy.core.multiarray\n"
    for module in (b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"):
        file.write_bytes(content.replace(name, module))
        assert load_pickle(file)["data"].tolist() == [0, 1, 2]


class Call:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_file_runs_nothing(file: Path, protocol: int) -> None:
    marker = file.with_name("ran")
    assert f"{os.system.__module__}.system" in refusal(file, pickle.dumps(Call(os.system, f"touch {marker}"), protocol))
    hidden = {"data": np.zeros((1, 3), np.uint8), "labels": [[1, (Call(os.system, f"touch {marker}"),)]]}
    assert "posix.system" in refusal(file, pickle.dumps(hidden, protocol))
    assert not marker.exists()


NDARRAY = b"cnumpy\nndarray\n"
RECONSTRUCT = b"cnumpy._core.multiarray\n_reconstruct\n"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"cos\nsystem\n(S'touch ran'\ntR.", "os.system"),
        (b"(S'touch ran'\nios\nsystem\n.", "os.system"),
        (b"(cos\nsystem\nS'touch ran'\no.", "os.system"),
        (b"c__builtin__\neval\n(S'1'\ntR.", "__builtin__.eval"),
        (b"cbuiltins\ngetattr\n(cnumpy\nndarray\nS'x'\ntR.", "builtins.getattr"),
        (b"ccopyreg\n_reconstructor\n(cbuiltins\nobject\ncbuiltins\nobject\nNtR.", "copyreg._reconstructor"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.", "numpy.ndarray.tofile"),
        (b"\x80\x04\x8c\x16numpy._core.multiarray\x8c\x18_reconstruct.__globals__\x93.", "_reconstruct.__globals__"),
        (b"cnumpy.f2py.capi_maps\nload_f2cmap_file\n(S'ran'\ntR.", "numpy.f2py.capi_maps.load_f2cmap_file"),
        # An allowed function, abused:
        (b"c_codecs\nencode\n(Vabc\nVzlib_codec\ntR.", "codec 'zlib_codec'"),
        (b"c_codecs\nencode\n}b.", "state of a function"),
        (b"c_codecs\nencode\n(N}S'_call'\ncnumpy\nndarray\nsub.", "where a name belongs"),
        (RECONSTRUCT + b"(cnumpy\ndtype\n(I0\ntS'b'\ntR.", "a custom class"),
        (NDARRAY + b"((I9\ntS'O'\ntR.", "not a readable pickle"),
        (b"\x80\x02" + NDARRAY + b"I9\n\x85\x81.", "not a readable pickle"),
        (NDARRAY + b"}S'value'\nI1\nsb.", "not a readable pickle"),
        (b"cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\ntRS'aaaaaaaa'\ntR.", "Python objects (dtype 'O8')"),
        (b"cnumpy\ndtype\n(S'V8'\ntR.", "other than plain numbers (dtype 'V8')"),
        (b"cnumpy\ndtype\n(S'u1,O'\ntR.", "dtype 'u1,O'"),
        (b"Pos.system\n.", "not a readable pickle"),
        (b"\x82\x01.", "not a readable pickle"),
    ],
)
def test_tricks_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, named: str) -> None:
    monkeypatch.chdir(file.parent)
    assert named in refusal(file, content)
    assert os.listdir(file.parent) == [file.name]  # noqa: PTH208


def test_tricks_leave_nothing_behind_for_the_next_file(file: Path) -> None:
    refusal(file, b"\x80\x02c_codecs\nencode\nN}X\x05\x00\x00\x00_callcnumpy\ndtype\ns\x86b.")
    layouts.dump(file, {"data": np.arange(3, dtype=np.uint8)}, 2)
    assert load_pickle(file)["data"].tolist() == [0, 1, 2]


def test_no_module_is_imported_because_a_file_names_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file.parent / "sly_module.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    monkeypatch.syspath_prepend(str(file.parent))
    assert "sly_module.anything" in refusal(file, b"csly_module\nanything\n(tR.")
    assert "sly_module" not in sys.modules
    assert not (file.parent / "ran").exists()


def test_object_arrays(file: Path) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        objects = np.array([[1, "a"], None], object)
        assert "Python objects (dtype 'O8')" in refusal(file, pickle.dumps({"data": objects}, protocol))
    structured = np.zeros(2, [("a", "u1"), ("b", "O")])
    assert "was not loaded" in refusal(file, pickle.dumps({"data": structured}))
    assert "not plain bytes" in refusal(
        file, RECONSTRUCT + b"(" + NDARRAY + b"(I0\ntS'b'\ntR(I1\n(I2\ntcnumpy\ndtype\n(S'u1'\ntRI00\n(lI1\naI2\natb."
    )


def test_an_array_that_claims_more_than_it_holds(file: Path) -> None:
    header = RECONSTRUCT + b"(" + NDARRAY + b"(I0\ntS'b'\ntR(I1\n"
    claims = header + b"(I1000000000000\ntcnumpy\ndtype\n(S'u1'\ntRI00\nS'abc'\ntb."
    assert "cannot reshape" in refusal(file, claims)
    tracemalloc.start()
    refusal(file, b"]r" + struct.pack("<I", 2**31) + b"0.")  # a memo of 2**31 places
    refusal(file, b"]r" + struct.pack("<I", 2**32 - 1) + b"0B" + struct.pack("<I", 2**20) + b".")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 23


GIB = 1 << 30


TEXT = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20) + b"q\x010"
ENCODE = b"c_codecs\nencode\nq\x02X\x06\x00\x00\x00latin1q\x0300"
HUNGRY = {
    "ends after": [
        b"\x80\x05}X\x04\x00\x00\x00data" + claim + b"abc"
        for claim in (
            b"\x96" + struct.pack("<Q", 4 * GIB),  # a bytearray
            b"\x8e" + struct.pack("<Q", 4 * GIB),  # bytes
            b"\x8d" + struct.pack("<Q", 4 * GIB),  # text
            b"B" + struct.pack("<I", 2 * GIB),
            b"T" + struct.pack("<i", GIB),
            b"\x8b" + struct.pack("<i", GIB),  # an integer
            b"\x95" + struct.pack("<Q", 4 * GIB),  # a frame
        )
    ],
    # A text of a megabyte is encoded 5000 times.
    "more text than it holds": [b"\x80\x02" + TEXT + ENCODE + b"](" + b"h\x02h\x01h\x03\x86R" * 5000 + b"e."],
}
"""Files that ask for much more memory than they hold, by the end of the message."""


def test_memory_is_compared_with_the_size_of_the_file_before_it_is_taken(tmp_path: Path) -> None:
    """In a process that may take half a gigabyte more than it has."""
    for place, contents in enumerate(HUNGRY.values()):
        for number, content in enumerate(contents):
            (tmp_path / f"{place}-{number}").write_bytes(content)
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from fragrecon.data.readers.pickles import load_pickle\n"
        "from fragrecon.errors import DataError\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 29),) * 2)\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    try: print(load_pickle(path))\n"
        "    except DataError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    expected = [part for part, contents in HUNGRY.items() for _ in contents]
    for part, message in zip(expected, done.stdout.splitlines(), strict=True):
        assert part in message


def shared(start: bytes, join: bytes, depth: int = 100) -> bytes:
    """Containers, each of which holds the one before twice: a few hundred bytes that unfold to 2**depth values."""
    return start + b"".join(b"q" + bytes([number]) + b"h" + bytes([number]) + join for number in range(depth))


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "labels",
    [
        shared(b"]K\x01a", b"\x86"),  # in tuples
        b"]K\x01a" + b"".join(b"q%c0]h%cah%ca" % ((number,) * 3) for number in range(100)),  # in lists
        b"}" + shared(b"K\x01\x85", b"\x86") + b"K\x01s",  # a tuple as a key of a dict
        b"}(" + shared(b"K\x01\x85", b"\x86") + b"K\x01u",
        b"(" + shared(b"K\x01\x85", b"\x86") + b"K\x01d",
        b"\x8f(" + shared(b"K\x01\x85", b"\x86") + b"\x90",  # in a set
        b"(" + shared(b"K\x01\x85", b"\x86") + b"\x91",
    ],
)
def test_values_that_contain_one_another_take_no_longer(file: Path, labels: bytes) -> None:
    data = pickle.dumps({"data": np.zeros((2, 12), np.uint8)}, 2)[:-1]
    file.write_bytes(data + b"X\x06\x00\x00\x00labels" + labels + b"s.")
    with pytest.raises(DataError, match=str(file)):
        list(read_batches([file], (3, 2, 2), "labels", range(1, 11)))


def test_the_number_of_opcodes_is_limited(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MOST_STEPS", 100)
    layouts.dump(file, {"labels": [1] * 80})
    assert load_pickle(file)["labels"] == [1] * 80
    assert "100 opcodes" in refusal(file, pickle.dumps({"labels": [1] * 120}))


def test_a_message_is_short_whatever_the_file_holds(file: Path) -> None:
    assert len(refusal(file, b"c" + b"x" * 10**6 + b"\ny\n.")) < 600
    assert len(batch_error(file, {f"{number}": 0 for number in range(10**4)})) < 600


@pytest.mark.fault("truncated, empty and foreign pickles")
def test_truncated_empty_and_foreign_files(file: Path) -> None:
    content = pickle.dumps({"data": np.zeros((10, 12), np.uint8), "labels": list(range(10))}, 4)
    assert "is empty" in refusal(file, b"")
    for length in (2, 20, len(content) // 2, len(content) - 1):
        assert f"cut short: it ends after {length} bytes" in refusal(file, content[:length])
    assert "not a readable pickle" in refusal(file, b"<html><body>404 Not Found</body></html>")
    assert "it holds a list" in refusal(file, pickle.dumps([1, 2]))
    assert "value of type int where a name belongs" in refusal(file, pickle.dumps({1: 2}))
    assert "value of type int where a name belongs" in refusal(file, pickle.dumps({"data": {"a": 0, 1: 2}}, 0))
    file.unlink()
    with pytest.raises(DataError, match=re.escape(f"{file} cannot be read (No such file or directory)")):
        load_pickle(file)
    with pytest.raises(DataError, match=re.escape(f"{file.parent} cannot be read (Is a directory)")):
        load_pickle(file.parent)


VALID = [pickle.dumps({"data": np.arange(6, dtype=np.uint8), "labels": [1, 2]}, protocol) for protocol in range(6)]


@given(st.sampled_from(VALID), st.data())
@pytest.mark.fault("damaged pickles")
def test_a_damaged_file_is_a_data_error_or_a_dict(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 4)))
    file = tmp_path_factory.getbasetemp() / "damaged"
    file.write_bytes(content[:start] + data.draw(st.binary(max_size=6)) + content[end:])
    with contextlib.suppress(DataError):
        assert type(load_pickle(file)) is dict


def batch_error(file: Path, batch: dict[str, Any]) -> str:
    layouts.dump(file, batch)
    with pytest.raises(DataError) as caught:
        list(read_batches([file], (3, 2, 2), "labels", range(1, 11)))
    assert str(caught.value).startswith(str(file))
    return str(caught.value)


def test_malformed_batches(file: Path) -> None:
    data, labels = np.zeros((2, 12), np.uint8), [1, 10]
    assert "no 'data' and no 'labels', only 'mean'" in batch_error(file, {"mean": data})
    assert "no 'labels', only 'data'" in batch_error(file, {"data": data})
    assert "only nothing" in batch_error(file, {})
    for wrong, found in (
        (data.astype(np.float32), "float32 (2, 12)"),
        (data[:, :9], "uint8 (2, 9)"),
        (data.reshape(2, 3, 2, 2), "uint8 (2, 3, 2, 2)"),
        ([[0] * 12], "list"),
    ):
        message = batch_error(file, {"data": wrong, "labels": labels})
        assert f"'data' is {found}, expected uint8 (n, 12)" in message
        assert "3 channels and 2x2 pixels" in message
    for wrong_labels, found in (
        ([1, 0], "label 1 (from 0) is 0, expected 1..10"),
        ([11, 0], "label 0 (from 0) is 11, expected 1..10 (2 of 2"),
        (np.array([1, 2, 3]), "3 labels for 2 images"),
        ([1], "1 labels for 2 images"),
        ([1.0, 2.0], "list of integers, found list with a value of type float"),
        (["1", "2"], "type str"),
        (np.array([[1], [2]]), "ndarray of int64 with shape (2, 1)"),
        (np.array([1.0, 2.0]), "ndarray of float64 with shape (2,)"),
        ([[1], [2]], "type list"),
        ([1, 2**70], "64 bits"),
        ([True, False], "type bool"),
        (None, "found NoneType"),
    ):
        assert found in batch_error(file, {"data": data, "labels": wrong_labels})


def test_only_one_file_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "block_length", lambda shape: 8)  # small beside the file, as for real ones
    files = [tmp_path / f"batch_{number}" for number in range(4)]
    for file in files:
        layouts.dump(file, {"data": np.zeros((80, 3 * 64 * 64), np.uint8), "labels": [1] * 80})
    size = files[0].stat().st_size
    tracemalloc.start()
    count = 0
    for block in read_batches(files, (3, 64, 64), "labels", range(1, 2)):
        count += len(block.labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 320
    assert peak < 1.5 * size


def test_a_large_file_comes_in_several_blocks(file: Path) -> None:
    images = layouts.pictures(5000, (1, 8, 8))
    layouts.dump(file, {"data": layouts.rows(images), "labels": [label % 10 for label in range(5000)]})
    blocks = list(read_batches([file], (1, 8, 8), "labels", range(10)))
    assert [len(block.labels) for block in blocks] == [4096, 904]
    np.testing.assert_array_equal(np.concatenate([block.images for block in blocks]), images)
    assert np.concatenate([block.labels for block in blocks]).tolist() == [label % 10 for label in range(5000)]


def test_the_tests_themselves_would_notice() -> None:
    # The plain loader does run what the malicious files ask for.
    assert pickle.loads(pickle.dumps(Call(builtins.len, "four"))) == 4  # noqa: S301


@pytest.mark.fault("a Git LFS pointer instead of a pickle")
def test_a_git_lfs_pointer_is_named(tmp_path: Path) -> None:
    (tmp_path / "batch").write_bytes(layouts.LFS_POINTER)
    with pytest.raises(DataError, match="Git LFS"):
        load_pickle(tmp_path / "batch")
