"""The machine's Chromium as a browser for tests, without a display or a network."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def open_page(allowed: tuple[str, ...] = ("file:", "data:", "blob:")) -> Iterator:
    """Open a page of a new browser; fail on a script error, a dialog or any other request.

    The test is skipped without Chromium or Playwright.

    Args:
        allowed: prefixes of the addresses that the page may request.
    """
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no Chromium: found none of {', '.join(NAMES)}")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    mistakes: list[str] = []

    def check(request) -> None:
        if not request.url.startswith(allowed):
            mistakes.append(f"requested {request.url[:200]}")

    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu"], timeout=120_000
        )
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(120_000)
        page.on("request", check)
        page.on("pageerror", lambda error: mistakes.append(f"script error: {error}"))
        page.on("dialog", lambda dialog: mistakes.append(f"dialog: {dialog.message}"))
        yield page
        browser.close()
    assert not mistakes
