"""Fixtures of more than one module."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

# One thread a process, set before torch reads it: tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Collecting garbage goes through all objects of the libraries; drawing a figure makes enough for that many times.
gc.set_threshold(50_000, 20, 20)


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print a table of the faults and their outcomes if only these were tested (``make faults``)."""
    if config.getoption("markexpr") != "fault":
        return
    outcomes: dict[str, str] = {}
    for outcome in ("passed", "skipped", "failed", "error"):  # the worst counts
        for report in terminalreporter.getreports(outcome):
            outcomes |= {str(case): outcome for name, case in report.user_properties if name == "fault"}
    width = max(map(len, outcomes), default=0)
    for case, outcome in sorted(outcomes.items()):
        terminalreporter.write_line(f"{case:<{width}}  {outcome}")


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
