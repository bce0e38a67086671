from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fragrecon import files
from fragrecon.errors import RunError

# Examples overwrite one file.
in_one_folder = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
unhurried = settings(deadline=None, max_examples=30)
# The csv module of older Pythons neither quotes a lone carriage return nor reads a NUL. What a spreadsheet would take
# for a formula is changed.
text = st.text(st.characters(codec="utf-8", exclude_characters="\r\0=+-@\t\n"), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


class Interrupted(BaseException):
    """Stands for KeyboardInterrupt and SystemExit, which are no Exception either."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_half(path: Path, error: type[BaseException]) -> None:
    with files.atomic_file(path) as file:
        file.write(b"half of the ne")
        raise error


def build_half(path: Path, error: type[BaseException]) -> None:
    with files.atomic_folder(path) as folder:
        (folder / "sub").mkdir()
        (folder / "sub/a").write_text("half")
        assert not path.exists()
        raise error


@pytest.mark.parametrize("error", [ValueError, Interrupted])
def test_a_failed_write_leaves_the_old_content_and_no_stray_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "status.json"
    with pytest.raises(error):
        write_half(path, error)
    assert names(tmp_path) == []
    path.write_bytes(b"old")
    with pytest.raises(error):
        write_half(path, error)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["status.json"]


def test_the_old_content_stands_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.write_text(path, "old")
    with files.atomic_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a"]


def test_a_write_that_is_killed_leaves_a_whole_file(tmp_path: Path) -> None:
    """A process rewrites a file of a megabyte without end and is killed in the middle; the file is always whole."""
    path = tmp_path / "status.json"
    code = (
        "import sys; from pathlib import Path; from fragrecon.files import write_json\n"
        "number = 1000\n"
        "while True:\n"
        "    number += 1\n"
        "    write_json(Path(sys.argv[1]), {'number': number, 'copies': str(number) * 250_000})\n"
    )
    killed_midway = 0
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", code, str(path)]) as process:
            try:
                wait_for(path.exists)
                for _ in range(20):  # a reader never sees half a file either
                    assert_whole(path)
                wait_for(lambda: len(names(tmp_path)) > 1)
            finally:
                process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert_whole(path)
        strays = [other for other in tmp_path.iterdir() if other != path]
        killed_midway += len(strays)
        for stray in strays:
            stray.unlink()
        path.unlink()
    assert killed_midway > 0, "no write was under way when its process was killed: nothing was tested"


def assert_whole(path: Path) -> None:
    value = json.loads(path.read_text())
    assert value["copies"] == str(value["number"]) * 250_000


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "os.umask(int(sys.argv[2]))\n"
        "from fragrecon import files\n"
        "here = Path(sys.argv[1])\n"
        "files.write_text(here / 'file', 'x')\n"
        "with files.atomic_folder(here / 'folder') as folder: (folder / 'file').write_text('x')\n"
        "(here / 'other').write_text('x'); (here / 'other folder').mkdir()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path), str(umask)], check=True)

    def mode(name: str) -> int:
        return (tmp_path / name).stat().st_mode & 0o777

    assert mode("file") == mode("folder/file") == mode("other") == 0o666 & ~umask
    assert mode("folder") == mode("other folder") == 0o777 & ~umask


@in_one_folder
@given(json_values)
def test_json_comes_back(tmp_path: Path, value: Any) -> None:
    files.write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text()) == value


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_json_refuses_what_is_no_number_and_keeps_the_old_file(tmp_path: Path, bad: float) -> None:
    files.write_json(tmp_path / "a.json", {"loss": 1.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "a.json", {"scores": [{"loss": bad}]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"loss": 1.5}
    assert names(tmp_path) == ["a.json"]


@in_one_folder
@given(st.lists(st.dictionaries(text.filter(bool), text.filter(bool), max_size=4), max_size=5))
def test_csv_comes_back(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    files.write_csv(tmp_path / "a.csv", rows)
    assert files.read_csv(tmp_path / "a.csv") == (rows if any(rows) else [])


def test_csv_has_the_union_of_columns_in_order_of_appearance(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"epoch": 0, "b": 0.1}, {"epoch": 1, "a": 1e-17, "b": None}, {"c": 'say "a, b"'}]
    files.write_csv(tmp_path / "a.csv", rows)
    assert (tmp_path / "a.csv").read_text() == 'epoch,b,a,c\n0,0.1,,\n1,,1e-17,\n,,,"say ""a, b"""\n'
    expected = [{"epoch": "0", "b": "0.1"}, {"epoch": "1", "a": "1e-17"}, {"c": 'say "a, b"'}]
    assert files.read_csv(tmp_path / "a.csv") == expected


@in_one_folder
@given(st.floats())
def test_csv_keeps_every_bit_of_a_float(tmp_path: Path, value: float) -> None:
    files.write_csv(tmp_path / "a.csv", [{"loss": value}])
    (row,) = files.read_csv(tmp_path / "a.csv")
    assert repr(float(row["loss"])) == repr(value)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\n"])
def test_no_cell_of_a_csv_file_is_a_formula(tmp_path: Path, start: str) -> None:
    evil = f"{start}HYPERLINK(1)"
    files.write_csv(tmp_path / "a.csv", [{evil: evil, "b": 1}])
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [[f"'{evil}", "b"], [f"'{evil}", "1"]]


def test_numbers_in_a_csv_file_are_not_changed(tmp_path: Path) -> None:
    values = ["-1", "+2.5", "-1e-05", "-inf", "a=b", "a-b"]
    files.write_csv(tmp_path / "a.csv", [{"x": value, "y": -0.5} for value in values])
    assert files.read_csv(tmp_path / "a.csv") == [{"x": value, "y": "-0.5"} for value in values]


@pytest.mark.parametrize("content", [b"a,b\n1,2,3\n", b"a\n\xff\n", b'a\n"' + b"x" * 200_000 + b'"\n'])
def test_a_damaged_csv_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ValueError):  # noqa: PT011
        files.read_csv(tmp_path / "a.csv")


@pytest.mark.parametrize("content", [b"[" * 10**6, b"\xff", b'{"a": ', b"", b"9" * 10**5])
def test_a_damaged_json_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError):  # noqa: PT011
        files.read_json(tmp_path / "a.json")


def npy(shape: tuple[int, ...], kind: str = "<f8", content: bytes = b"") -> bytes:
    """A ``.npy`` file whose header states a shape, whatever it holds."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
    return file.getvalue() + content


def test_sizes_of_arrays_are_compared_with_the_file_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    monkeypatch.setattr(files, "MOST_UNPACKED", 1000)
    for content in (npy((1 << 40,)), npy((-1, -1), content=bytes(8)), npy((2,), content=bytes(24)), b"", b"\x93NUMPY"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.npy", content)
        (tmp_path / "a.npy").write_bytes(content)
        for read, name in ((files.read_arrays, "a.npz"), (files.read_array, "a.npy")):
            with pytest.raises(ValueError):  # noqa: PT011
                read(tmp_path / name)
    files.write_arrays(path, {"a": np.zeros(100)}, compressed=True)
    assert files.read_arrays(path)["a"].shape == (100,)
    files.write_arrays(path, {"a": np.zeros(10**6)}, compressed=True)  # a bomb
    with pytest.raises(ValueError, match="8,000"):
        files.read_arrays(path)
    files.write_arrays(path, {"a": np.zeros(10**4)})  # as large on disk as in memory
    assert files.read_arrays(path)["a"].shape == (10**4,)


def test_links_that_lead_out_of_a_folder_are_refused(tmp_path: Path) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    (run / "checkpoints").mkdir(parents=True)
    outside.mkdir()
    (outside / "a").touch()
    (run / "b").touch()
    files.check_links(tmp_path / "absent")
    (run / "checkpoints/inside").symlink_to("../b")
    (tmp_path / "link").symlink_to(run)
    files.check_links(run)
    files.check_links(tmp_path / "link")  # a run may itself be linked
    for name, target in (
        ("figures", outside),
        ("status.json", "../outside/a"),
        ("checkpoints/last.ckpt", outside / "absent"),
        ("checkpoints/self", "self"),
    ):
        (run / name).symlink_to(target)
        if name != "checkpoints/self":
            with pytest.raises(RunError, match=f"{tmp_path / 'link' / name} "):
                files.check_links(tmp_path / "link")
        (run / name).unlink()


ARRAYS: dict[str, npt.NDArray[Any]] = {
    "model/kmeans_ari": np.random.default_rng(0).random(7),
    "none": np.zeros((0, 3), np.float32),
    "counts": np.arange(6).reshape(2, 3),
}


def test_arrays_come_back(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a/b/c.txt", "äöü\n")  # missing folders are made
    assert (tmp_path / "a/b/c.txt").read_bytes() == "äöü\n".encode()
    files.write_arrays(tmp_path / "new" / "scores.npz", ARRAYS)
    found = files.read_arrays(tmp_path / "new" / "scores.npz")
    assert list(found) == list(ARRAYS)
    for name, expected in ARRAYS.items():
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)
    with np.load(tmp_path / "new" / "scores.npz", allow_pickle=False) as arrays:
        assert set(arrays) == set(ARRAYS)
    assert names(tmp_path / "new") == ["scores.npz"]


def test_arrays_that_fail_to_be_written_leave_the_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write_arrays(tmp_path / "scores.npz", ARRAYS)

    def fail(*arguments: Any) -> None:
        raise Interrupted

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(Interrupted):
        files.write_arrays(tmp_path / "scores.npz", {"other": np.zeros(3)})
    assert names(tmp_path) == ["scores.npz"]
    assert list(files.read_arrays(tmp_path / "scores.npz")) == list(ARRAYS)


def test_arrays_of_objects_are_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "evil.npz", evil=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="plain numbers"):
        files.read_arrays(tmp_path / "evil.npz")


@pytest.mark.parametrize("error", [ValueError, Interrupted])
def test_a_folder_that_fails_midway_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        build_half(tmp_path / "store", error)
    assert names(tmp_path) == []


def test_who_finishes_a_folder_first_wins_and_the_other_drops_its_work(tmp_path: Path) -> None:
    target = tmp_path / "store"
    with files.atomic_folder(target) as slow:
        (slow / "who").write_text("slow")
        with files.atomic_folder(target) as quick:
            assert quick != slow
            (quick / "who").write_text("quick")
    assert (target / "who").read_text() == "quick"
    assert names(tmp_path) == ["store"]


def test_many_builders_at_once_leave_one_whole_folder(tmp_path: Path) -> None:
    start = threading.Barrier(8)
    failures: list[BaseException] = []

    def build(name: str) -> None:
        try:
            start.wait(10)
            with files.atomic_folder(tmp_path / "store") as folder:
                for part in range(20):
                    (folder / f"{part}").write_text(name)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=build, args=[f"{number}"]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert names(tmp_path) == ["store"]
    assert len(list((tmp_path / "store").iterdir())) == 20
    assert len({path.read_text() for path in (tmp_path / "store").iterdir()}) == 1


def test_a_folder_does_not_take_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(OSError, match="Not a directory"), files.atomic_folder(tmp_path / "store"):
        pass
    assert (tmp_path / "store").read_text() == "a file"
    assert names(tmp_path) == ["store"]


@unhurried
@given(st.dictionaries(st.text(max_size=5), json_values, min_size=2, max_size=5))
def test_a_digest_does_not_depend_on_the_order_of_keys(value: dict[str, Any]) -> None:
    backwards = dict(reversed(value.items()))
    assert files.digest({"deep": [value]}) == files.digest({"deep": [backwards]})


def test_a_digest_is_the_sha256_of_compact_sorted_ascii_json() -> None:
    expected = hashlib.sha256(rb'{"a":[1,2.5,null,true],"\u00fc":"x"}').hexdigest()
    assert files.digest({"ü": "x", "a": (1, 2.5, None, True)}) == expected


@pytest.mark.parametrize("size", [0, 2**20, 3 * 2**20 + 5])
def test_a_files_digest_is_the_sha256_of_its_bytes(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "a").write_bytes(content)
    assert files.file_digest(tmp_path / "a") == hashlib.sha256(content).hexdigest()
