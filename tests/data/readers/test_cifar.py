from __future__ import annotations

import hashlib
import io
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from fragrecon.data.readers import cifar
from fragrecon.data.readers.cifar import Cifar10, Cifar100
from fragrecon.data.store import Split
from fragrecon.errors import ConfigError, DataError
from tests import layouts

KINDS = [(Cifar10, layouts.cifar10), (Cifar100, layouts.cifar100)]
Reader = type[Cifar10] | type[Cifar100]
Layout = Callable[[Path], layouts.Written]


@pytest.mark.parametrize(("reader", "layout"), KINDS)
def test_both_splits_from_either_folder(tmp_path: Path, reader: Reader, layout: Layout) -> None:
    written = layout(tmp_path)
    for root in (tmp_path, tmp_path / reader.folder):
        for split, expected in written.items():
            layouts.assert_holds(reader(root), split, expected)
            assert reader(root).source(split).images == pytest.approx(len(expected.labels), abs=2)


def test_pixels_and_fine_labels(tmp_path: Path) -> None:
    row = np.zeros((1, 3072), np.uint8)
    row[0, [0, 31, 1024 + 32, 3071]] = 1, 2, 3, 4
    for name in ("train", "test"):
        layouts.dump(tmp_path / name, {b"data": row, b"coarse_labels": [7], b"fine_labels": [99]}, 2)
    found = layouts.read(Cifar100(tmp_path), "test")
    image = found.images[0]
    assert [image[0, 0, 0], image[0, 0, 31], image[1, 1, 0], image[2, 31, 31]] == [1, 2, 3, 4]
    assert np.count_nonzero(image) == 4
    assert found.labels.tolist() == [99]


def test_class_names(tmp_path: Path) -> None:
    layouts.cifar10(tmp_path)
    layouts.cifar100(tmp_path)
    assert Cifar10(tmp_path).source("train").classes == layouts.CIFAR10
    assert Cifar100(tmp_path).source("test").classes == tuple(f"class {label}" for label in range(100))
    (tmp_path / "cifar-100-python/meta").unlink()
    assert Cifar100(tmp_path).source("test").classes is None
    for names in ([b"one"], None, [1] * 10):
        layouts.dump(tmp_path / "cifar-10-batches-py/batches.meta", {b"label_names": names}, 2)
        with pytest.raises(DataError, match=r"batches\.meta: 'label_names' is not a list of 10 names"):
            Cifar10(tmp_path).source("train")


def test_a_split_needs_only_its_own_files(tmp_path: Path) -> None:
    written = layouts.cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py/test_batch").unlink()
    layouts.assert_holds(Cifar10(tmp_path), "train", written["train"])


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        Cifar10(tmp_path).source("train")
    home = tmp_path / "cifar-10-batches-py"
    assert f"no file of cifar-10-batches-py in {tmp_path} or {home}; " in str(caught.value)
    assert "data.download=true" in str(caught.value)
    layouts.cifar10(tmp_path)
    for name in ("data_batch_2", "data_batch_5"):
        (home / name).unlink()
    for download in (False, True):
        with pytest.raises(DataError, match="cifar-10-batches-py lacks data_batch_2, data_batch_5"):
            list(Cifar10(tmp_path, download=download).blocks("train"))
    with pytest.raises(ConfigError, match=r"set data\.root=FOLDER"):
        Cifar10()


@pytest.mark.parametrize(("reader", "layout"), KINDS)
def test_malformed_batches(tmp_path: Path, reader: Reader, layout: Layout) -> None:
    layout(tmp_path)
    file = tmp_path / reader.folder / reader.batches["test"][0]
    data, top = np.zeros((2, 3072), np.uint8), reader.num_classes
    for batch, message in (
        ({b"data": data, b"coarse_labels": [0, 0]}, f"no '{reader.labels_key}', only 'coarse_labels', 'data'"),
        ({b"data": data, reader.labels_key: [0, top]}, rf"label 1 \(from 0\) is {top}, expected 0\.\.{top - 1}"),
        ({b"data": data[:, :3000], reader.labels_key: [0, 0]}, r"'data' is uint8 \(2, 3000\).* \(n, 3072\)"),
    ):
        layouts.dump(file, batch)
        with pytest.raises(DataError, match=message) as caught:
            layouts.read(reader(tmp_path), "test")
        assert str(caught.value).startswith(str(file))


class Server:
    """Serves one archive at 127.0.0.1, or breaks off in the middle of it."""

    def __init__(self) -> None:
        self.content = b""
        self.send = 1.0
        self.requests = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests += 1
                if self.path != "/archive.tar.gz":
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(outer.content)))
                self.end_headers()
                self.wfile.write(outer.content[: int(outer.send * len(outer.content))])

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/archive.tar.gz"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def serve(self, members: dict[str, bytes]) -> str:
        """Serve a tar file of these; returns its MD5."""
        self.content = archive(members)
        return hashlib.md5(self.content).hexdigest()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def archive(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = Server()
    yield running
    running.close()


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(("reader", "layout"), KINDS)
def test_download(tmp_path: Path, server: Server, reader: Reader, layout: Layout) -> None:
    written = layout(tmp_path / "made")
    members = contents(tmp_path / "made")
    # The real archives hold more files than are needed; a wicked one might try to leave the folder.
    md5 = server.serve({**members, f"{reader.folder}/readme.html": b"<p>", "../escaped": b"x", "/tmp/escaped": b"x"})
    root = tmp_path / "deep" / "root"
    fetching = reader(root, download=True, url=server.url, md5=md5.upper())
    assert not root.exists()
    for split, expected in written.items():
        assert fetching.source(split).classes is not None
        layouts.assert_holds(fetching, split, expected)
    assert contents(root) == members
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "made"]
    assert server.requests == 1
    layouts.assert_holds(reader(root), "test", written["test"])


def test_a_name_that_leads_elsewhere_is_written_inside(tmp_path: Path, server: Server) -> None:
    layouts.cifar100(tmp_path / "made")
    members = {f"../../{Path(name).name}": content for name, content in contents(tmp_path / "made").items()}
    root = tmp_path / "root"
    Cifar100(root, download=True, url=server.url, md5=server.serve(members)).source("train")
    assert sorted(contents(tmp_path / "root")) == [f"cifar-100-python/{name}" for name in ("meta", "test", "train")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "root"]


def fetch_error(root: Path, url: str, md5: str | None) -> str:
    with pytest.raises(DataError) as caught:
        Cifar10(root, download=True, url=url, md5=md5).source("train")
    assert not root.exists()
    assert list(root.parent.iterdir()) in ([], [root.parent / "made"])
    assert url in str(caught.value)
    return str(caught.value)


def test_a_failed_download_leaves_nothing_behind(tmp_path: Path, server: Server) -> None:
    layouts.cifar10(tmp_path / "made")
    root = tmp_path / "root"
    md5 = server.serve(contents(tmp_path / "made"))
    message = fetch_error(root, server.url, None)
    assert f"has MD5 {md5} ({len(server.content):,} bytes), expected c58f30108f718f92721af3b95e74349a" in message
    server.send = 0.5
    message = fetch_error(root, server.url, md5)
    assert "cannot download" in message or f"expected {md5}" in message
    assert "HTTP Error 404" in fetch_error(root, server.url + "x", md5)
    server.send = 1.0
    names = [name for name in contents(tmp_path / "made") if not name.endswith(("data_batch_3", "batches.meta"))]
    md5 = server.serve(dict.fromkeys(names, b"x"))
    assert "lacks batches.meta, data_batch_3" in fetch_error(root, server.url, md5)
    server.content = b"no archive"
    assert "is not a tar.gz archive" in fetch_error(root, server.url, hashlib.md5(b"no archive").hexdigest())
    whole = archive(contents(tmp_path / "made"))
    for server.content in (whole[: len(whole) // 2], whole[: len(whole) // 2] + bytes(len(whole) // 2)):
        message = fetch_error(root, server.url, hashlib.md5(server.content).hexdigest())
        assert "is not a tar.gz archive" in message or "test_batch; check data.reader.url" in message


def test_servers_that_do_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/archive.tar.gz"
        assert "Connection refused" in fetch_error(tmp_path / "root", url, None)
        listener.listen()
        monkeypatch.setattr(cifar, "_TIMEOUT", 0.2)
        assert "timed out" in fetch_error(tmp_path / "root", url, None)
    assert "unknown url type" in fetch_error(tmp_path / "root", "archive.tar.gz", None)


def test_a_folder_that_cannot_be_written(tmp_path: Path, server: Server) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot write .*file/root/cifar-10-batches-py \(Not a directory\)"):
        Cifar10(tmp_path / "file" / "root", download=True, url=server.url).source("train")


@pytest.mark.real
@pytest.mark.parametrize(("reader", "train", "test"), [(Cifar10, 50_000, 10_000), (Cifar100, 10_000, 2_000)])
def test_real_files(real_data: Path, reader: Reader, train: int, test: int) -> None:
    root = layouts.real(real_data, reader.folder)
    counts: dict[Split, int] = {"train": train, "test": test}
    for split, count in counts.items():
        found = layouts.read(reader(root), split)
        assert found.images.shape == (count, 3, 32, 32)
        np.testing.assert_array_equal(np.bincount(found.labels), count // reader.num_classes)
        # As known of CIFAR-10 (0.491, 0.482, 0.447) and CIFAR-100 (0.507, 0.487, 0.441).
        known = (0.491, 0.482, 0.447) if reader is Cifar10 else (0.507, 0.487, 0.441)
        assert found.images.mean((0, 2, 3)) / 255 == pytest.approx(known, abs=0.01)
        classes = reader(root).source(split).classes
        assert classes is not None
        assert {"apple", "bicycle"} <= set(classes) or classes == layouts.CIFAR10
    # Independent of the reader: the rows lie in the file one after the other, each as long as an image.
    content = (root / reader.batches["test"][0]).read_bytes()
    first, later = (content.index(found.images[at].tobytes()) for at in (0, 7))
    assert later - first == 7 * 3072
