"""A headless Chromium for the tests, cut off from any network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Route, expect, sync_playwright

VARIABLE = "FRAGRECON_CHROMIUM"
LOCAL = ("file:", "data:", "blob:")
OPENING = 60_000
"""Most milliseconds until a page is open, on a busy machine."""


def executable() -> str:
    """Where Chromium is; without one, tests are skipped, but in CI they fail."""
    named = os.environ.get(VARIABLE)
    found = named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None or not Path(found).is_file():
        what = f"{VARIABLE}={named} is not a file" if named else f"no chromium is installed, and {VARIABLE} names none"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{what}: apt-get install chromium")
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    path = executable()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page from a file, with all that went wrong on it."""

    page: Page
    troubles: list[str] = field(default_factory=list)

    def evaluate(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)


@contextmanager
def opened(browser: Browser, path: Path, width: int = 1280, height: int = 900) -> Iterator[Opened]:
    """Open a page and, in the end, hold that nothing went wrong on it and that it asked for no other file."""
    context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce", offline=True)
    page = context.new_page()
    page.set_default_timeout(10_000)
    found = Opened(page)

    def asked(request: Request) -> None:
        if not request.url.startswith(LOCAL) or (request.url.startswith("file:") and request.url != path.as_uri()):
            found.troubles.append(f"asks for {request.url}")

    def said(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            found.troubles.append(message.text)

    def refuse(route: Route) -> None:
        route.continue_() if route.request.url.startswith(LOCAL) else route.abort()

    page.on("request", asked)
    page.on("pageerror", lambda error: found.troubles.append(str(error)))
    page.on("console", said)
    context.route("**/*", refuse)
    page.goto(path.as_uri(), timeout=OPENING)
    expect(page.locator("table.sorted:not(.dataTable)")).to_have_count(0, timeout=OPENING)
    yield found
    context.close()
    assert not found.troubles
