"""A real browser for tests: the machine's Chromium, without display and without network."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def open_page(allowed: tuple[str, ...] = ("file:", "data:", "blob:")) -> Iterator:
    """A page of a fresh browser; the test fails if the page errs or asks for anything else.

    Skips the test where there is no Chromium or no Playwright.
    """
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no Chromium on this machine: none of {', '.join(NAMES)} is found")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    mistakes: list[str] = []

    def look_at(request) -> None:
        if not request.url.startswith(allowed):
            mistakes.append(f"asked for {request.url[:200]}")

    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu"], timeout=120_000
        )
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(120_000)
        page.on("request", look_at)
        page.on("pageerror", lambda error: mistakes.append(f"script error: {error}"))
        page.on("dialog", lambda dialog: mistakes.append(f"dialog: {dialog.message}"))
        yield page
        browser.close()
    assert not mistakes
