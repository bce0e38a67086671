"""``mode=demo`` as its user has it: the real command serves a page, which a headless Chromium works on."""

from __future__ import annotations

import io
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, Route, expect

from fragrecon.data.readers.images import decode
from fragrecon.errors import ConfigError
from fragrecon.jobs.demo import example_files
from fragrecon.runs.read import load_run
from tests.cli import ROOT, Cli, fingerprint, finish, job, names, shared_run, status, wait_until
from tests.jobs.reassembled import CHINA, FLOWER
from tests.jobs.reassembled import TINY as MOSAIC
from tests.jobs.test_reconstruction import TINY, WHOLE

pytestmark = pytest.mark.timeout(240)
Pixels = npt.NDArray[np.uint8]
"""(H, W, 3)."""
PATCH = 16
LISTENER = """
import sys
LOCAL = ("127.0.0.1", "localhost", "::1")
def hear(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        address = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[0]
        host = address[0] if isinstance(address, tuple) else address
        if host not in LOCAL:
            with open({path!r}, "a") as file:
                print(event, host, file=file)
sys.addaudithook(hear)
"""
"""Notes, in a process of its own, whom that process asks for anything; it is imported before all else."""


@dataclass
class Server:
    """The command that serves a page."""

    process: subprocess.Popen[str]
    address: str
    home: Path
    asked: Path

    @property
    def folder(self) -> Path:
        """Of its record."""
        (found,) = (self.home / "outputs").glob("*/*-demo")
        return found


def listening(folder: Path) -> dict[str, str]:
    """An environment in which a process notes in ``folder`` whom it asks."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(LISTENER.format(path=str(folder / "asked.txt")))
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


@contextmanager
def serving(home: Path, cache: Path, run: Path, *more: str) -> Iterator[Server]:
    """Start the command, and end it by Ctrl-C; it must then have asked for nothing but the page, and ended well."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cli, before = Cli(home, cache), fingerprint(run)
    changes = listening(home / "listener")
    scratch = home / "temporary"
    scratch.mkdir()
    line = ["mode=demo", f"run={run}", f"demo.port={port}", "demo.open=false", *more]
    process = cli.start(*line, **changes, TMPDIR=str(scratch), http_proxy="http://127.0.0.1:9")  # which nobody is
    assert process.stdout is not None
    try:
        for told in process.stdout:
            if told.startswith("demo: "):
                break
        address = f"http://127.0.0.1:{port}/"
        assert told == f"demo: {address} (Ctrl-C ends it)\n", process.communicate()
        server = Server(process, address, home, home / "listener" / "asked.txt")
        assert status(server.folder)["status"] == "running"
        yield server
        process.send_signal(signal.SIGINT)
        result = finish(process).ok()
    finally:
        process.kill()
    assert "Traceback" not in result.stderr
    assert not server.asked.exists(), server.asked.read_text()
    assert not [path for path in scratch.iterdir() if path.name.startswith(("gradio", "fragrecon"))]
    assert status(server.folder)["status"] == "done"
    assert fingerprint(run) == before


@dataclass
class Visit:
    """A page in a browser, with all that went wrong on it."""

    page: Page
    troubles: list[str] = field(default_factory=list)

    def shown(self, name: str) -> Pixels:
        """The picture under a caption."""
        source = self.page.locator(f"#{name} img").get_attribute("src")
        assert source is not None
        return self.fetched(source)

    def fetched(self, source: str) -> Pixels:
        response = self.page.request.get(source)
        assert response.ok, f"{response.status} {source}: {response.text()}"
        return np.asarray(Image.open(io.BytesIO(response.body())).convert("RGB"))

    def image(self, name: str, size: int = 64) -> Pixels:
        """The same as large as the model sees it."""
        return self.shown(name)[:: self.shown(name).shape[0] // size, :: self.shown(name).shape[1] // size]

    def click(self, name: str, row: float, column: float) -> None:
        """On a picture, at a share of its height and width."""
        picture = self.page.locator(f"#{name} img")
        picture.scroll_into_view_if_needed()
        box = picture.bounding_box()
        assert box is not None
        picture.click(position={"x": column * box["width"], "y": row * box["height"]})

    def number(self, name: str) -> Locator:
        """The field of a slider."""
        return self.page.locator(f"#{name} input[type=number]")

    def set(self, name: str, value: int) -> None:
        self.number(name).fill(str(value))
        self.number(name).press("Enter")

    def upload(self, *paths: Path) -> None:
        with self.page.expect_file_chooser() as chooser:
            self.page.locator("#upload").click()
        chooser.value.set_files(list(paths))

    def facts(self, *texts: str | re.Pattern[str]) -> None:
        """Wait until the page tells this."""
        for text in texts:
            expect(self.page.locator("#facts")).to_contain_text(text)

    def waits_for_another(self, name: str, before: str | None) -> None:
        expect(self.page.locator(f"#{name} img")).not_to_have_attribute("src", before or "")

    def source(self, name: str) -> str | None:
        return self.page.locator(f"#{name} img").get_attribute("src")


@contextmanager
def visiting(browser: Browser, server: Server, width: int = 1280) -> Iterator[Visit]:
    """Open a page and, in the end, hold that nothing went wrong on it and that it asked nobody but its server."""
    context = browser.new_context(viewport={"width": width, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(30_000)
    expect.set_options(timeout=30_000)
    visit = Visit(page)

    def refuse(route: Route) -> None:
        own = route.request.url.startswith((server.address, "data:", "blob:"))
        route.continue_() if own else route.abort()

    def asked(request: Request) -> None:
        if not request.url.startswith((server.address, "data:", "blob:")):
            visit.troubles.append(f"asks for {request.url}")

    def said(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            visit.troubles.append(message.text)

    page.on("request", asked)
    page.on("pageerror", lambda error: visit.troubles.append(str(error)))
    page.on("console", said)
    context.route("**/*", refuse)
    page.goto(server.address)
    yield visit
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    context.close()
    assert not visit.troubles


def hidden_patches(visible: Pixels) -> set[int]:
    """Those of a grid of 4 x 4 that are hatched: lines between patches aside."""
    side = visible.shape[0] // 4
    inside = [
        visible[row * side + 4 : (row + 1) * side - 4, column * side + 4 : (column + 1) * side - 4]
        for row in range(4)
        for column in range(4)
    ]
    return {number for number, patch in enumerate(inside) if np.isin(patch, (102, 217)).all()}


def check_pictures(visit: Visit) -> set[int]:
    """The composite is the image where that was visible and the output elsewhere, and the PSNR theirs; returns what is
    hidden.
    """
    image, output, composite = (visit.image(name) for name in ("image", "output", "composite"))
    hidden = hidden_patches(visit.shown("visible"))
    pixels = np.kron(np.array([n in hidden for n in range(16)]).reshape(4, 4), np.ones((PATCH, PATCH), bool))
    np.testing.assert_array_equal(composite[~pixels], image[~pixels])
    np.testing.assert_array_equal(composite[pixels], output[pixels])
    error = np.mean((composite[pixels] / 255 - image[pixels] / 255) ** 2)
    told = visit.page.locator("#facts").inner_text()
    ratio = re.search(r"masked PSNR ([\d.]+) dB", told)
    assert ratio
    assert float(ratio[1]) == pytest.approx(-10 * np.log10(error), abs=0.1)
    assert f"hidden {len(hidden)} of 16 patches" in told
    return hidden


# Masked images --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small finished runs by model; only to be read."""
    short = (*WHOLE, "data.epochs=1", "evaluation.puzzles=0")
    found = {name: shared_run(tmp_path_factory, name, *TINY[name], *short) for name in ("energy_transformer", "mae")}
    return found | {"mosaic": shared_run(tmp_path_factory, "mosaic", *MOSAIC)}


@pytest.fixture(scope="module")
def descending(tmp_path_factory: pytest.TempPathFactory, cache: Path, runs: dict[str, Path]) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("descending"), cache, runs["energy_transformer"]) as server:
        yield server


def test_an_example_is_picked_and_its_mask_drawn_by_share_and_again(
    browser: Browser, descending: Server, cache: Path, runs: dict[str, Path]
) -> None:
    with visiting(browser, descending) as visit:
        visit.facts("hidden 14 of 16 patches")  # 85%
        first = check_pictures(visit)
        thumbnails = visit.page.locator("#examples img")
        assert thumbnails.count() == 12
        before = visit.source("image")
        thumbnails.nth(3).click()
        visit.waits_for_another("image", before)
        np.testing.assert_array_equal(visit.image("image"), visit.fetched(thumbnails.nth(3).get_attribute("src") or ""))
        assert check_pictures(visit) == first
        visit.set("share", 50)
        visit.facts("hidden 8 of 16 patches")
        half = check_pictures(visit)
        assert half < first
        before = visit.source("visible")
        visit.page.locator("#again").click()
        visit.waits_for_another("visible", before)
        other = check_pictures(visit)
        assert len(other) == 8
        assert other != half
        visit.page.locator("#share input[type=range]").press("ArrowRight")
        expect(visit.number("share")).to_have_value("51")
        for share, hidden in ((0, 1), (100, 15)):
            visit.set("share", share)
            visit.facts(f"hidden {hidden} of 16 patches")
            assert len(check_pictures(visit)) == hidden


def test_a_mask_is_painted_patch_by_patch(browser: Browser, descending: Server) -> None:
    with visiting(browser, descending, width=900) as visit:
        visit.facts("hidden 14 of 16 patches")
        visit.set("share", 0)
        visit.facts("hidden 1 of 16 patches")
        (last,) = check_pictures(visit)
        painted = {0, 3, 12, 15} - {last}
        for count, patch in enumerate(sorted(painted), 2):
            visit.click("visible", (patch // 4 + 0.9) / 4, (patch % 4 + 0.1) / 4)
            visit.facts(f"hidden {count} of 16 patches")
        assert check_pictures(visit) == painted | {last}
        expect(visit.number("share")).to_have_value(str(round(100 * (len(painted) + 1) / 16)))
        for patch in sorted(painted):
            visit.click("visible", (patch // 4 + 0.5) / 4, (patch % 4 + 0.5) / 4)
            count -= 1
            visit.facts(f"hidden {count} of 16 patches")
        visit.click("visible", (last // 4 + 0.5) / 4, (last % 4 + 0.5) / 4)
        expect(visit.page.get_by_text("At least one patch stays hidden, and one visible.")).to_be_visible()
        assert check_pictures(visit) == {last}


def test_the_descent_is_followed_step_by_step(browser: Browser, descending: Server) -> None:
    with visiting(browser, descending) as visit:
        visit.facts("masked PSNR")
        expect(visit.number("step")).to_have_value("3")
        expect(visit.page.locator("#course svg")).to_be_visible()
        seen = {3: visit.image("output")}
        for step in (0, 2, 1):
            before = visit.source("output")
            visit.set("step", step)
            visit.waits_for_another("output", before)
            seen[step] = visit.image("output")
            check_pictures(visit)
        assert len({picture.tobytes() for picture in seen.values()}) == 4
        before = visit.source("output")
        visit.page.locator("#play").click()
        expect(visit.number("step")).to_have_value("3")
        visit.waits_for_another("output", before)
        wait_until(lambda: np.array_equal(visit.image("output"), seen[3]))


def test_a_patch_is_clicked_to_see_what_it_attends_to(browser: Browser, descending: Server) -> None:
    with visiting(browser, descending) as visit:
        visit.facts("masked PSNR")
        heads = visit.page.locator("#heads figure")
        expect(heads).to_have_count(2)
        for number in (1, 2):
            expect(heads.nth(number - 1)).to_contain_text(re.compile(rf"{number}, up to \d+%"))
        for patch in (3, 8):
            before = visit.source("patch"), visit.source("attention")
            visit.click("patch", (patch // 4 + 0.5) / 4, (patch % 4 + 0.5) / 4)
            for name, source in zip(("patch", "attention"), before, strict=True):
                visit.waits_for_another(name, source)
                picture = visit.shown(name)
                side = picture.shape[0] // 4
                framed = np.argwhere((picture == [26, 102, 242]).all(2))
                assert (framed.min(0) // side).tolist() == (framed.max(0) // side).tolist() == [patch // 4, patch % 4]
        check_pictures(visit)


def test_an_own_image_is_fitted_to_the_model_and_another_file_refused(
    browser: Browser, descending: Server, tmp_path: Path
) -> None:
    with visiting(browser, descending) as visit:
        visit.facts("masked PSNR")
        before = visit.source("image")
        visit.upload(FLOWER)
        visit.waits_for_another("image", before)
        np.testing.assert_array_equal(visit.image("image"), decode(FLOWER, (3, 64, 64)).transpose(1, 2, 0))
        check_pictures(visit)
        note = tmp_path / "note.png"
        note.write_text("no image")
        visit.upload(note)
        expect(visit.page.get_by_text("note.png is not a readable image")).to_be_visible()
        check_pictures(visit)


def test_without_test_images_and_descent_there_is_still_a_page(
    browser: Browser, tmp_path: Path, cache: Path, runs: dict[str, Path]
) -> None:
    absent = ["data=folder", "data.root=absent", "data.fragment_size=64", "data.images_per_puzzle=1"]
    with serving(tmp_path / "home", cache, runs["mae"], *absent) as server, visiting(browser, server) as visit:
        expect(visit.page.locator("#upload")).to_be_visible()
        expect(visit.page.locator("#examples")).to_have_count(0)
        visit.page.locator("#again").click()  # there is nothing to hide yet
        visit.upload(CHINA)
        visit.facts("hidden 14 of 16 patches")
        np.testing.assert_array_equal(visit.image("image"), decode(CHINA, (3, 64, 64)).transpose(1, 2, 0))
        check_pictures(visit)
        for share, hidden in ((100, 15), (0, 1)):
            visit.set("share", share)
            visit.facts(f"hidden {hidden} of 16 patches")
            check_pictures(visit)
        for name in ("step", "course"):
            expect(visit.page.locator(f"#{name}")).not_to_be_visible()


# Mosaic ---------------------------------------------------------------------------------------------------------------


def fragments_of(picture: Pixels, count: int) -> Counter[bytes]:
    """Of 16 x 16 pixels, in a square with a pixel between them."""
    columns = int(np.ceil(np.sqrt(count)))
    times = picture.shape[1] // (columns * 17 + 1)
    small = picture[::times, ::times]
    corners = [(1 + n // columns * 17, 1 + n % columns * 17) for n in range(count)]
    return Counter(small[top : top + 16, left : left + 16].tobytes() for top, left in corners)


def cut(image: Pixels) -> Counter[bytes]:
    corners = [(top, left) for top in range(0, 64, 16) for left in range(0, 64, 16)]
    return Counter(image[top : top + 16, left : left + 16].tobytes() for top, left in corners)


def test_images_are_picked_shuffled_and_rebuilt(
    browser: Browser, tmp_path: Path, cache: Path, runs: dict[str, Path]
) -> None:
    with serving(tmp_path / "home", cache, runs["mosaic"]) as server, visiting(browser, server) as visit:
        examples, chosen = (visit.page.locator(f"#{name} img") for name in ("examples", "chosen"))
        visit.facts(re.compile(r"at the correct cell \d+ of 64 fragments.*perfect \d of 4 images"))
        assert (examples.count(), chosen.count()) == (12, 4)
        examples.nth(7).click()
        visit.facts("of 80 fragments")
        expect(chosen).to_have_count(5)
        check_rebuilt(visit, 5)
        examples.nth(7).click()
        expect(visit.page.get_by_text("This image is already in the puzzle.")).to_be_visible()
        for left in (4, 3, 2, 1):
            chosen.first.click()
            expect(chosen).to_have_count(left)
            visit.facts(f"of {16 * left} fragments")
        own = visit.fetched(examples.nth(7).get_attribute("src") or "")
        assert fragments_of(visit.shown("shuffled"), 16) == cut(own)
        before, order = visit.source("shuffled"), visit.shown("shuffled").tobytes()
        visit.page.locator("#again").click()
        visit.waits_for_another("shuffled", before)
        assert visit.shown("shuffled").tobytes() != order
        assert fragments_of(visit.shown("shuffled"), 16) == cut(own)
        visit.facts("of 16 fragments")
        check_rebuilt(visit, 1)
        visit.upload(CHINA, FLOWER)
        visit.facts("of 48 fragments")
        check_rebuilt(visit, 3)
        visit.page.locator("#clear").click()
        expect(chosen).to_have_count(0)
        expect(visit.page.locator("#rebuilt img")).to_have_count(0)
        expect(visit.page.locator("#facts")).to_have_text("")
        visit.page.locator("#again").click()
        visit.upload(FLOWER)
        visit.facts("of 16 fragments")


def check_rebuilt(visit: Visit, images: int) -> None:
    """As many fragments have red frames as are told to be out of place."""
    told = re.search(r"at the correct cell (\d+) of (\d+) fragments", visit.page.locator("#facts").inner_text())
    assert told
    assert int(told[2]) == 16 * images
    picture, columns = visit.shown("rebuilt"), 2 * max(1, round(np.sqrt(images)))
    times = picture.shape[1] // (columns * 65 + 1)
    small, red = picture[::times, ::times], 0
    for number in range(1, 2 * images, 2):
        top, left = 1 + number // columns * 65, 1 + number % columns * 65
        for row in range(4):
            for column in range(4):
                edge = small[top + 16 * row, left + 16 * column : left + 16 * column + 16]
                red += bool((edge == [217, 26, 26]).all())
    assert red == 16 * images - int(told[1])


# Refusals -------------------------------------------------------------------------------------------------------------


def test_the_listener_hears_what_is_asked_elsewhere(tmp_path: Path) -> None:
    changes = listening(tmp_path / "listener")
    code = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 9))"
    subprocess.run([sys.executable, "-c", code], env=changes, check=False, capture_output=True)
    assert "socket.connect 192.0.2.1" in (tmp_path / "listener" / "asked.txt").read_text()


def test_a_model_without_a_page_and_no_run_are_refused(tmp_path: Path, cache: Path, finished: Path) -> None:
    with pytest.raises(ConfigError, match="run"):
        job(tmp_path / "none", cache, "mode=demo")
    with pytest.raises(ConfigError, match=r"model=energy_transformer or model=mae.*model=mosaic; .* does neither"):
        job(tmp_path / "conv", cache, "mode=demo", f"run={finished}")
    assert status(tmp_path / "conv")["status"] == "failed"


def test_a_mosaic_of_another_grid_and_normalised_patches_are_refused(
    tmp_path: Path, cache: Path, runs: dict[str, Path]
) -> None:
    with pytest.raises(ConfigError, match=r"data\.image_size gives 2x4"):
        job(tmp_path / "grid", cache, "mode=demo", f"run={runs['mosaic']}", "data.image_size=[32,64]")
    line = [*TINY["mae"], *WHOLE, "evaluation.reconstruction=null", "objective.normalize=true", "evaluation.puzzles=0"]
    job(tmp_path / "mae", cache, *line)
    with pytest.raises(ConfigError, match=r"objective\.normalize=true"):
        job(tmp_path / "normalized", cache, "mode=demo", f"run={tmp_path / 'mae'}")


def test_without_gradio_the_page_is_refused_before_any_work(
    tmp_path: Path, cache: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr("fragrecon.jobs.demo.open_model", None)  # nor is the run opened
    with pytest.raises(ConfigError, match=r'pip install "fragrecon\[demo\]"'):
        job(tmp_path / "run", cache, "mode=demo", f"run={finished}")


def test_a_port_that_is_taken_or_none_is_refused(tmp_path: Path, cache: Path, runs: dict[str, Path]) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = ["mode=demo", f"run={runs['mae']}", "demo.open=false"]
        with pytest.raises(ConfigError, match=rf"demo\.port={port} is in use on 127\.0\.0\.1"):
            job(tmp_path / "taken", cache, *line, f"demo.port={port}")
    for number in (0, 65536):
        with pytest.raises(ConfigError, match=rf"demo\.port={number}"):
            job(tmp_path / str(number), cache, *line, f"demo.port={number}")


def test_nothing_is_downloaded_for_test_images(
    tmp_path: Path, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = load_run(runs["mae"]).config
    places: Any = {"root": str(tmp_path / "absent"), "cache_dir": str(tmp_path / "cache"), "download": True}
    reader = {"_target_": "fragrecon.data.readers.cifar.Cifar10"}
    config = replace(config, data=replace(config.data, reader=reader, image_size=[32, 32], fragment_size=32, **places))
    asked: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda *arguments: asked.append(arguments))
    assert example_files(config, (32, 32), tmp_path) == []
    assert "no test images to choose from: " in caplog.text
    assert str(tmp_path / "absent") in caplog.text
    unknown = replace(config, data=replace(config.data, root=None))  # as in an export
    assert example_files(unknown, (32, 32), tmp_path) == []
    assert not asked
    assert names(tmp_path) == []
