from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import numpy as np
import numpy.typing as npt
import pytest

from fragrecon.data import check, digests
from fragrecon.data.digests import PIECE, first_damage, write_digests
from fragrecon.data.store import (
    DIGESTS,
    FORMAT,
    IMAGES,
    LABELS,
    MANIFEST,
    SKIPPED,
    Block,
    Source,
    Split,
    Store,
    open_or_build,
    store_folder,
)
from fragrecon.errors import DataError

ROOT = Path(__file__).parents[2]
COUNT = 23
SPLITS: tuple[Split, ...] = ("train", "test")


class Toy:
    """Images that tell their own index, read in blocks of five.

    Args:
        count: of images.
        shape: of each.
        during: called before each block with the number of blocks already yielded.
        options: more of the identity.
    """

    def __init__(
        self,
        count: int = COUNT,
        shape: tuple[int, int, int] = (3, 4, 6),
        during: Callable[[int], None] = lambda number: None,
        classes: tuple[str, ...] | None = None,
        **options: Any,
    ) -> None:
        self.count, self.shape, self.during, self.classes, self.options = count, shape, during, classes, options

    def source(self, split: Split) -> Source:
        return Source({"reader": "toy", "count": self.count, **self.options}, self.count, self.classes)

    def images(self, split: Split) -> npt.NDArray[np.uint8]:
        seed = [self.count, split == "test"]
        return np.random.default_rng(seed).integers(0, 256, (self.count, *self.shape), np.uint8)

    def labels(self) -> npt.NDArray[np.int64]:
        return np.arange(self.count, dtype=np.int64) % 4 - 1

    def blocks(self, split: Split) -> Iterator[Block]:
        images, labels = self.images(split), self.labels()
        for start in range(0, self.count, 5):
            self.during(start // 5)
            yield Block(images[start : start + 5], labels[start : start + 5])


def fail(error: BaseException) -> Callable[[int], None]:
    """Raise in the middle of reading."""

    def during(number: int) -> None:
        if number == 2:
            raise error

    return during


def never(number: int) -> None:
    raise AssertionError("the source was read again")


def build(cache: Path, reader: Toy | None = None, split: Split = "train") -> Store:
    return open_or_build(reader or Toy(), "toy", split, cache)


def folder_of(cache: Path, reader: Toy | None = None, split: Split = "train") -> Path:
    reader = reader or Toy()
    return store_folder(cache, "toy", reader.source(split), reader.shape, split)


def left_behind(cache: Path) -> list[str]:
    """All files and folders in the cache but for the locks and the folder of the data set."""
    return sorted(str(path) for path in cache.glob("*/*") if path.suffix != ".lock")


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


@pytest.mark.parametrize("shape", [(3, 4, 6), (1, 5, 2)])
def test_a_store_holds_what_the_reader_yielded(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    reader = Toy(shape=shape, classes=("a", "b", "c"))
    for split in SPLITS:
        store = build(tmp_path, reader, split)
        assert len(store) == COUNT
        assert store.images.shape == (COUNT, *shape)
        assert store.images.dtype == np.uint8
        assert (store.images == reader.images(split)).all()
        assert store.labels.dtype == np.int64
        assert (store.labels == reader.labels()).all()
        assert store.manifest.split == split
        assert store.manifest.shape == shape
        assert store.manifest.classes == ("a", "b", "c")
        assert store.manifest.num_classes == 3
        some = np.array([22, 0, 7, 7])
        assert (store.images[some] == reader.images(split)[some]).all()
        assert isinstance(store.images, np.memmap)
        assert not store.images.flags.writeable
    assert (build(tmp_path, reader, "train").images != build(tmp_path, reader, "test").images).any()


def test_blocks_may_be_views_into_other_arrays(tmp_path: Path) -> None:
    class Strided(Toy):
        def blocks(self, split: Split) -> Iterator[Block]:
            images, labels = self.images(split), self.labels()
            turned = np.ascontiguousarray(images.transpose(2, 3, 1, 0)).transpose(3, 2, 0, 1)
            assert not turned.flags.c_contiguous
            frozen = images[9:].copy()
            frozen.flags.writeable = False
            yield Block(turned[:9], labels[:9])
            yield Block(images[:0], labels[:0])
            yield Block(frozen, labels[9:].astype(np.int16))

    store = build(tmp_path, Strided())
    assert (store.images == Toy().images("train")).all()
    assert (store.labels == Toy().labels()).all()


def test_a_second_opening_reads_nothing_of_the_source(tmp_path: Path) -> None:
    built = build(tmp_path)
    opened = build(tmp_path, Toy(during=never))
    assert opened.folder == built.folder
    assert opened.manifest == built.manifest
    assert (opened.images == Toy().images("train")).all()
    with pytest.raises(AssertionError, match="read again"):
        build(tmp_path, Toy(during=never), "test")  # the other split was not built


def test_another_source_or_shape_is_another_store(tmp_path: Path) -> None:
    readers = [Toy(), Toy(count=24), Toy(root="elsewhere"), Toy(shape=(3, 6, 4)), Toy(shape=(1, 4, 6))]
    assert len({build(tmp_path, reader).folder for reader in readers}) == 5
    assert len(left_behind(tmp_path)) == 5
    for reader in readers:
        reader.during = never
        assert build(tmp_path, reader).images.shape == (reader.count, *reader.shape)
        assert build(tmp_path, reader).manifest.num_classes == 3  # found in the labels, where classes have no names
    assert open_or_build(Toy(), "other", "train", tmp_path).folder != folder_of(tmp_path)


# Damage ---------------------------------------------------------------------------------------------------------------


def cut_short(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def change_byte(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def change_manifest(folder: Path, **values: Any) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def foreign(folder: Path) -> None:
    """Put a store of another source under this one's name."""
    other = build(folder.parents[1], Toy(root="elsewhere")).folder
    shutil.rmtree(folder)
    other.rename(folder)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "images short": (lambda folder: cut_short(folder / IMAGES, 1000), "truncated: 1,000 bytes where 1,656 are"),
    "images longer": (lambda folder: cut_short(folder / IMAGES, 1657), "1,657 bytes where 1,656 are"),
    "images missing": (lambda folder: (folder / IMAGES).unlink(), "truncated: 0 bytes"),
    "labels changed": (lambda folder: change_byte(folder / LABELS, -3), "missing or damaged"),
    "digests missing": (lambda folder: (folder / DIGESTS).unlink(), "missing or damaged"),
    "pixel changed": (lambda folder: change_byte(folder / IMAGES, 700), "is damaged: its bytes from 0 on"),
    "labels missing": (lambda folder: (folder / LABELS).unlink(), "missing or damaged"),
    "manifest missing": (lambda folder: (folder / MANIFEST).unlink(), "is not a store of images"),
    "manifest short": (lambda folder: cut_short(folder / MANIFEST, 50), "is not a store of images"),
    "manifest a list": (lambda folder: (folder / MANIFEST).write_text("[1, 2]"), "is not a store of images"),
    "manifest without keys": (
        lambda folder: (folder / MANIFEST).write_text(f'{{"format": {FORMAT}}}'),
        "not a store of images",
    ),
    "manifest of more": (lambda folder: change_manifest(folder, colour="red"), "is not a store of images"),
    "of a later format": (lambda folder: change_manifest(folder, format=FORMAT + 1, more=1), f"format {FORMAT}"),
    "all missing": (empty, "is not a store of images"),
    "foreign": (foreign, "was built from another source"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.fault("a half-built or truncated store")
def test_a_damaged_store_is_refused_and_the_message_says_how_to_mend_it(tmp_path: Path, damage: str) -> None:
    folder = build(tmp_path).folder
    harm, message = DAMAGES[damage]
    harm(folder)
    with pytest.raises(DataError, match=message) as error:
        build(tmp_path, Toy(during=never))
    assert str(error.value).endswith(f"; delete the folder {folder}; the next run builds it again")
    assert error.value.__cause__ is None
    shutil.rmtree(folder)
    assert (build(tmp_path).images == Toy().images("train")).all()


@pytest.mark.fault("a store whose pixels were lost")
@pytest.mark.parametrize("part", ["second half", "first half", "last byte", "one piece"])
def test_lost_pixels(tmp_path: Path, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    reader = Toy(count=60, shape=(3, 1000, 600))  # 103 pieces
    folder = build(tmp_path, reader).folder
    assert check.main(tmp_path) == 0
    size = 60 * 3 * 1000 * 600
    start, end = {
        "second half": (size // 2, size),
        "first half": (0, size // 2),
        "last byte": (size - 1, size),
        "one piece": (51 * PIECE, 52 * PIECE),
    }[part]
    with (folder / IMAGES).open("r+b") as file:
        file.seek(start)
        found = file.read(end - start)
        file.seek(start)
        file.write(bytes(byte ^ 1 for byte in found[:1]) + bytes(end - start - 1))
    if part != "one piece":
        with pytest.raises(DataError, match=str(folder)):
            build(tmp_path, Toy(count=60, shape=(3, 1000, 600), during=never))
    capsys.readouterr()
    assert check.main(folder) == 1
    first = start // PIECE * PIECE
    assert f"{folder / IMAGES} is damaged: its bytes from {first:,} on" in capsys.readouterr().out


def test_a_few_pieces_are_checked_at_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "PIECE", 4)
    (tmp_path / "values").write_bytes(bytes(range(200)))
    write_digests(tmp_path / "values", tmp_path / "digests")
    (tmp_path / "values").write_bytes(bytes(range(100)) + b"x" + bytes(range(101, 200)))
    found = [first_damage(tmp_path / "values", tmp_path / "digests") for _ in range(200)]
    # One of the 50 pieces is damaged, and 17 are read: each time others.
    assert {*found} == {None, 100}
    assert first_damage(tmp_path / "values", tmp_path / "digests", thorough=True) == 100


@pytest.mark.fault("all stores checked by a command")
def test_the_command_that_checks_stores(tmp_path: Path) -> None:
    folders = [build(tmp_path, split=split).folder for split in SPLITS]
    command = [sys.executable, "-m", "fragrecon.data.check"]

    def run(*arguments: object) -> tuple[int, str]:
        done = subprocess.run([*command, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    code, text = run(tmp_path)
    assert code == 0
    assert all(f"{folder}: {COUNT} images" in text for folder in folders)
    change_byte(folders[1] / IMAGES, 1000)
    code, text = run(tmp_path)
    assert code == 1
    assert f"{folders[0]}: {COUNT} images" in text
    assert f"{folders[1] / IMAGES} is damaged" in text
    assert run(tmp_path / "nothing")[0] == 1
    assert run()[0] == 1


@pytest.mark.fault("images skipped with data.on_bad_image=skip are listed")
def test_skipped_images_are_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Skipping(Toy):
        def blocks(self, split: Split) -> Iterator[Block]:
            for number, block in enumerate(super().blocks(split)):
                yield replace(block, skipped=(f"file {number} is bad",) * (number % 2))

    store = build(tmp_path, Skipping())
    assert (store.folder / SKIPPED).read_text() == "file 1 is bad\nfile 3 is bad\n"
    for reader in (Skipping(), Toy()):  # also when the store is opened again
        caplog.clear()
        assert build(tmp_path, reader).manifest.skipped == 2
        (record,) = [one for one in caplog.records if one.levelname == "WARNING"]
        assert str(store.folder / SKIPPED) in record.getMessage()
    assert not (build(tmp_path, split="test").folder / SKIPPED).exists()


# Failing to build -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [DataError("bad.bin is malformed"), RuntimeError("bug"), KeyboardInterrupt("^C")])
def test_a_reader_that_fails_midway_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        build(tmp_path, Toy(during=fail(error)))
    assert raised.value is error
    assert left_behind(tmp_path) == []
    assert (build(tmp_path).images == Toy().images("train")).all()


def test_a_source_that_cannot_be_read_is_not_taken_for_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        build(tmp_path, Toy(during=fail(OSError(5, "Input/output error", "/data/batch_3"))))
    assert "cannot read the train images" in str(error.value)
    assert "/data/batch_3" in str(error.value)
    assert "cache_dir" not in str(error.value)
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    "block",
    [
        Block(np.zeros((2, 3, 4, 5), np.uint8), np.zeros(2, np.int64)),
        Block(np.zeros((2, 3, 4, 6), np.uint8), np.zeros(3, np.int64)),
        Block(np.zeros((2, 3, 4, 6), np.float32), np.zeros(2, np.int64)),
    ],
)
def test_a_block_that_breaks_the_contract_is_refused(tmp_path: Path, block: Block) -> None:
    class Wrong(Toy):
        def blocks(self, split: Split) -> Iterator[Block]:
            yield block

    with pytest.raises(TypeError, match="a reader yielded"):
        build(tmp_path, Wrong())
    assert left_behind(tmp_path) == []


def test_a_source_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="/data/pictures"):
        build(tmp_path, Toy(count=0, root="/data/pictures"))
    assert left_behind(tmp_path) == []


@pytest.mark.fault("a disk too small for the converted images")
def test_a_disk_that_is_too_small_is_refused_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    needed = COUNT * (3 * 4 * 6 + 8)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(needed - 1))
    with pytest.raises(DataError, match=r"need 0\.00 GB, but .* has 0\.00 GB free; .* data\.cache_dir="):
        build(tmp_path, Toy(during=never))
    assert left_behind(tmp_path) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(needed))
    build(tmp_path)


FULL_DISK = """
import json, resource, sys
from pathlib import Path
from fragrecon.errors import DataError
from tests.data.test_store import Toy, build

cache, limit, options = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    build(cache, Toy(**options))
except DataError as error:
    print(error)
    assert error.__cause__ is None and error.__suppress_context__
"""


@pytest.mark.parametrize(
    ("limit", "options"),
    [
        pytest.param(1655, {"shape": (3, 4, 6)}, id="at the end of the images"),
        pytest.param(200, {"shape": (1, 1, 1)}, id="amid the labels"),
    ],
)
@pytest.mark.fault("a disk that fills up while images are converted")
def test_a_disk_that_fills_up_while_writing_gives_a_plain_error_and_leaves_nothing(
    tmp_path: Path, limit: int, options: dict[str, Any]
) -> None:
    """A limit on the size of files makes the kernel refuse to write, as a full disk does."""
    process = python(FULL_DISK, tmp_path, limit, json.dumps(options))
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    place = folder_of(tmp_path, Toy(**options)).parent
    advice = "choose another folder with data.cache_dir=FOLDER"
    assert output == f"cannot write the converted data to {place} (File too large); {advice}\n"
    assert left_behind(tmp_path) == []
    assert len(build(tmp_path, Toy(**options))) == COUNT


def test_a_cache_folder_under_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        DataError, match=r"cannot write .*/file/cache/.* \(Not a directory\); .* data\.cache_dir="
    ) as error:
        build(tmp_path / "file/cache")
    assert error.value.__cause__ is None


@contextmanager
def unprivileged() -> Iterator[None]:
    """Give up root's right to write anywhere, for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.fault("a cache folder that cannot be written")
def test_a_cache_folder_without_permission_is_refused_but_a_store_in_it_is_opened() -> None:
    # Not tmp_path: it lies in a folder that others than its owner may not enter.
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name)
        built = build(cache)
        for path in (built.folder.parent, cache):
            path.chmod(0o555)
        try:
            with unprivileged():
                opened = build(cache, Toy(during=never))
                assert (opened.images == Toy().images("train")).all()
                for reader, split in ((Toy(), "test"), (Toy(count=2), "train")):
                    with pytest.raises(DataError, match=r"cannot write .* \(Permission denied\); .*data\.cache_dir="):
                        build(cache, reader, split)  # type: ignore[arg-type]
        finally:
            for path in (cache, built.folder.parent):
                path.chmod(0o755)
        assert left_behind(cache) == [str(built.folder)]


def test_a_file_in_the_place_of_the_store_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    folder.parent.mkdir(parents=True)
    folder.write_text("in the way")
    with pytest.raises(DataError, match=r"cannot write .* \(Not a directory\)"):
        build(tmp_path)
    assert left_behind(tmp_path) == [str(folder)]


# Several builders -----------------------------------------------------------------------------------------------------

BUILDERS = """
import sys, time
from contextlib import nullcontext
from pathlib import Path
import filelock
from tests.data.test_store import Toy, build, wait_for

cache, meeting, name, locked = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4] == "locked"

def meet(number):
    if number == (-1 if locked else 3):
        (meeting / name).touch()
        wait_for(lambda: len(list(meeting.iterdir())) == 4)

class NoLock:
    def __init__(self, path): pass
    def acquire(self): pass
    def release(self): pass

if not locked:
    filelock.FileLock = NoLock
builds = []
def during(number):
    builds.append(number)
    meet(number)
    time.sleep(0.02)
meet(-1)
store = build(cache, Toy(during=during))
assert (store.images == Toy().images("train")).all() and (store.labels == Toy().labels()).all()
print(len(builds))
"""


@pytest.mark.parametrize("lock", ["locked", "without locks"])
@pytest.mark.fault("four builders of a store at once")
def test_processes_that_build_at_once_all_get_the_one_store(tmp_path: Path, lock: str) -> None:
    """Without locks all are made to meet in the middle of their work, so that only the rename keeps them apart."""
    cache, meeting = tmp_path / "cache", tmp_path / "meeting"
    meeting.mkdir()
    processes = [python(BUILDERS, cache, meeting, name, lock) for name in "abcd"]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    blocks = sorted(int(output) for output, _ in outputs)
    assert blocks == ([0, 0, 0, 5] if lock == "locked" else [5] * 4)
    assert left_behind(cache) == [str(folder_of(cache))]
    assert (build(cache, Toy(during=never)).images == Toy().images("train")).all()


class BrokenLock:
    """As on a file system that refuses to lock."""

    error: BaseException = OSError(37, "No locks available")

    def __init__(self, path: str) -> None:
        pass

    def acquire(self) -> None:
        raise self.error

    def release(self) -> None:
        pass


@pytest.mark.parametrize("error", [OSError(37, "No locks available"), NotImplementedError("use SoftFileLock instead")])
def test_a_file_system_without_locks_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(BrokenLock, "error", error)
    monkeypatch.setattr(filelock, "FileLock", BrokenLock)
    assert (build(tmp_path).images == Toy().images("train")).all()
    assert left_behind(tmp_path) == [str(folder_of(tmp_path))]


STUCK = """
import sys, time
from pathlib import Path
from tests.data.test_store import Toy, build

def during(number):
    if number == 3:
        Path(sys.argv[2]).touch()
        time.sleep(600)

build(Path(sys.argv[1]), Toy(during=during))
"""


@pytest.mark.parametrize("torn", ["nothing", "pixels", "line", "zeros for a line", "pixels of a line"])
@pytest.mark.fault("a builder of a store killed")
def test_a_builder_that_is_killed_leaves_no_store_and_the_next_one_resumes_it(tmp_path: Path, torn: str) -> None:
    """Two bytes of the killed builder's pixels are changed: only those that are not written again keep the change."""
    cache, marker = tmp_path / "cache", tmp_path / "midway"
    process = python(STUCK, cache, marker)
    try:
        wait_for(lambda: marker.exists() or process.poll() is not None)
    finally:
        process.send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == -signal.SIGKILL, errors
    assert not folder_of(cache).exists()
    (stale,) = (cache / name for name in left_behind(cache))
    assert stale.suffix == ".part"
    pixels, (lines,) = stale / IMAGES, stale.glob("*.jsonl")
    image = Toy().images("train")[0].size
    assert pixels.stat().st_size == 15 * image
    changed = bytearray(pixels.read_bytes())
    for first_of_block in (0, 2):
        changed[5 * first_of_block * image] ^= 255
    pixels.write_bytes(changed[: -image if torn == "pixels of a line" else None] + b"torn" * (torn == "pixels"))
    added = {"line": b'{"labels": [1', "zeros for a line": b"\0\0\n"}  # the latter as after a power failure
    lines.write_bytes(lines.read_bytes() + added.get(torn, b""))
    expected = Toy().images("train")
    expected[0].reshape(-1)[0] ^= 255
    if torn != "pixels of a line":
        expected[10].reshape(-1)[0] ^= 255
    store = build(cache)
    assert (store.images == expected).all()
    assert (store.labels == Toy().labels()).all()
    assert left_behind(cache) == [str(folder_of(cache))]
    assert {path.name for path in store.folder.iterdir()} == {IMAGES, LABELS, MANIFEST, DIGESTS}


def test_waiting_for_another_builder_ends_with_its_store(tmp_path: Path) -> None:
    """Who waited for the lock finds the store and does not build it again."""
    folder = folder_of(tmp_path)
    folder.parent.mkdir(parents=True)
    other = build(tmp_path / "other").folder
    code = """
import sys
from pathlib import Path
from tests.data.test_store import Toy, build, never
print("started", flush=True)
print(len(build(Path(sys.argv[1]), Toy(during=never))))
"""
    with filelock.FileLock(f"{folder}.lock"):
        process = python(code, tmp_path)
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(0.2)
        assert process.poll() is None, "it did not wait"
        other.rename(folder)
    output, errors = process.communicate(timeout=30)
    assert output == f"{COUNT}\n", errors


# Memory ---------------------------------------------------------------------------------------------------------------

MEMORY = """
import sys, threading
import numpy as np
from fragrecon.data.module import FragmentData
from fragrecon.data.store import Block, Source
from fragrecon.config.schema import DataConfig

def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024

class Many:
    shape = (3, 64, 64)
    def source(self, split):
        return Source({"reader": "many", "images": count}, count)
    def blocks(self, split):
        noise = np.random.default_rng(0).integers(0, 256, (3000, *self.shape), np.uint8)
        for start in range(0, count, 3000):
            indices = np.arange(start, start + 3000)
            noise.reshape(3000, -1)[:, :4] = indices.astype("<u4").view(np.uint8).reshape(-1, 4)
            yield Block(noise, indices % 1000)

peak, ended = 0.0, threading.Event()
def watch():
    global peak
    while not ended.wait(0.005):
        peak = max(peak, anonymous())

cache, count = sys.argv[1], int(sys.argv[2])
config = DataConfig("many", {}, None, [64, 64], 3, 16, 10, 8, None, 1, cache, {})
data = FragmentData(config, Many(), seed=0, puzzle_seed=0, validation_puzzles=10)
watcher = threading.Thread(target=watch)
watcher.start()
assert len(data.store("train")) == count
random = np.random.default_rng(1)
for number in range(100):
    ids = random.integers(0, count, (8, 10))
    images, labels = data._read("train", ids)
    found = images.numpy().reshape(8, 10, -1)[:, :, :4].copy().view("<u4")[:, :, 0]
    assert (found == ids).all() and (labels.numpy() == ids % 1000).all()
for number in range(3):
    data.train_batch(number)
ended.set()
watcher.join()
print(peak)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads the memory in use from Linux' /proc")
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """15,000 images of 64x64, 180 MB, are converted and read at random in the anonymous memory that 3,000 take."""
    peaks = []
    for count in (3_000, 15_000):
        process = python(MEMORY, tmp_path / "cache", count)
        output, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        peaks.append(float(output.splitlines()[-1]))
    shutil.rmtree(tmp_path / "cache")
    assert peaks[1] - peaks[0] < 60  # MB
