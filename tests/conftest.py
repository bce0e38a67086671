"""Fixtures of more than one module."""

from __future__ import annotations

import gc
import json
import os
import platform
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.cli import Cli

# One thread a process, set before torch reads it: tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Collecting garbage goes through all objects of the libraries; drawing a figure makes enough for that many times.
gc.set_threshold(50_000, 20, 20)


STARTED = pytest.StashKey[float]()

# What a module imports if its tests do whole jobs, or look at pages in a browser.
WHOLE_JOBS = {"Cli", "job", "shared_run", "opened"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of whole jobs as slow; workers begin with the modules that have slow tests."""
    for item in items:
        item.user_properties += [("fault", mark.args[0]) for mark in item.iter_markers("fault")]
        if isinstance(item, pytest.Function) and vars(item.module).keys() & WHOLE_JOBS:
            item.add_marker(pytest.mark.slow)
    if "PYTEST_XDIST_WORKER" in os.environ:  # so that none is left with a long module at the end
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", metavar="FILE", type=Path, help="print a table of the faults, and write it as JSON")


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[STARTED] = time.monotonic()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """With ``--faults``, print the outcomes of the faults, and write them with the time and the machine."""
    if (path := config.getoption("faults")) is None:
        return
    outcomes: dict[str, str] = {}
    for outcome in ("passed", "skipped", "failed", "error"):  # the worst counts
        for report in terminalreporter.getreports(outcome):
            outcomes |= {str(case): outcome for name, case in report.user_properties if name == "fault"}
    outcomes = dict(sorted(outcomes.items()))
    width = max(map(len, outcomes), default=0)
    for case, outcome in outcomes.items():
        terminalreporter.write_line(f"{case:<{width}}  {outcome}")
    machine = f"{config.getoption('numprocesses', None) or 1} processes on {processor()}"
    seconds = round(time.monotonic() - config.stash[STARTED])
    facts = {"date": date.today().isoformat(), "seconds": seconds, "machine": machine, "outcomes": outcomes}
    path.write_text(json.dumps(facts, indent=2) + "\n")


def processor() -> str:
    """Name of the processor, where the system says it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache folder of all tests of jobs."""
    from tests.cli import shared_cache  # which imports torch

    return shared_cache(tmp_path_factory)


@pytest.fixture
def cli(tmp_path: Path, cache: Path) -> Cli:
    """The command line in an empty folder."""
    from tests.cli import Cli

    return Cli(tmp_path, cache)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of crops of real photographs, in several widths; only to be read."""
    from tests.data.photos import crops

    folder = tmp_path_factory.mktemp("photos")
    crops(folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser to open pages in."""
    from tests.report.browser import chromium

    with chromium() as found:
        yield found


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real image files named by FRAGRECON_TEST_DATA."""
    name = os.environ.get("FRAGRECON_TEST_DATA")
    if not name:
        pytest.skip("FRAGRECON_TEST_DATA is not set: no real image files to test on")
    folder = Path(name)
    if not folder.is_dir():
        pytest.fail(f"FRAGRECON_TEST_DATA={name} is not a folder")
    return folder
