"""The system's Chromium without a window, driven by Playwright: what a page requests, computes and complains about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

SECONDS = 240.0  # that an answer may take on a busy machine


class Browser:
    """A browser with one page."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requests: list[str] = []  # URLs since the page was opened, beside what it holds itself
        self.complaints: list[str] = []  # errors and warnings of the console, and exceptions of scripts
        page.set_default_timeout(1000 * SECONDS)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))

    def open(self, page: Path, *, width: int, height: int = 900, scheme: Any = "light") -> None:
        """Shows a file in a window of so many pixels, to a reader who prefers `light` or `dark`."""
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.emulate_media(color_scheme=scheme)
        self.page.goto("about:blank")
        self.requests.clear()
        self.complaints.clear()
        self.page.goto(page.as_uri())

    def run(self, script: str) -> Any:
        """The value of an expression in the page, awaited."""
        return self.page.evaluate(script)


@contextmanager
def browser_of(chromium: str) -> Iterator[Browser]:
    """A browser for a while; `chromium` is the program's path."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, timeout=1000 * SECONDS)
        try:
            yield Browser(browser.new_page())
        finally:
            browser.close()
