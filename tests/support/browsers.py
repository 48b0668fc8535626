"""A real browser for tests of the page: Debian's chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Page, async_playwright, expect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PageOf = Callable[..., AbstractAsyncContextManager[Page]]
expect.set_options(timeout=30_000)


@pytest.fixture
def page_of() -> PageOf:
    """`async with page_of(url, width=360) as page`: open in a new browser, live.

    Nothing may be loaded from other origins, and the console may show no error except those in `expected`.
    """
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")

    @asynccontextmanager
    async def make(
        url: str, *, width: int = 1280, expected: str | None = None, **context: Any
    ) -> AsyncIterator[Page]:
        faults: list[str] = []
        async with async_playwright() as driver:
            browser = await driver.chromium.launch(executable_path=CHROMIUM)
            page = await browser.new_page(viewport={"width": width, "height": 900}, **context)
            page.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on("request", lambda asked: None if asked.url.startswith(url) else faults.append(asked.url))
            await page.goto(url)
            yield page
            await browser.close()
        assert [fault for fault in faults if expected is None or expected not in fault] == []

    return make
