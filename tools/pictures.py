"""Draws docs/pictures: the page at rest, under load, with a failed event, on a phone, in the dark, and in trouble.

It starts a stack of its own, sends it earthquakes, and looks at the page with a headless Chromium: `make pictures`.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
from playwright.async_api import Browser, Page, async_playwright, expect

from oncecast.embedded import Stack

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
WIDE = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
BURSTS = (20, 80, 40, 160, 60, 240, 90, 30, 120, 200, 50, 10)
"""The number of events that are sent in each second."""


async def main() -> int:
    """Start a stack, draw all pictures, and stop."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        print("there is no chromium: apt-get install chromium", file=sys.stderr)
        return 1
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as data:
        async with (
            Stack(Path(data) / "stack", producer_port=0, listener_port=0) as stack,
            async_playwright() as driver,
        ):
            browser = await driver.chromium.launch(executable_path=chromium)
            await draw(browser, stack.publish_url)
            await draw_trouble(browser, stack)
            await browser.close()
    return 0


async def draw(browser: Browser, url: str) -> None:
    """Draw all pictures: earthquakes arrive, an order is published, and an event fails."""
    async with opened(browser, url, WIDE) as light, opened(browser, url, WIDE, color_scheme="dark") as dark:
        await send_earthquakes(url)
        for page, name in ((light, "rest"), (dark, "dark")):
            await page.check("[value=order]")
            await page.click("#send")
            await expect(page.locator("#way .done")).to_have_count(3)
            await take(page, name)
    async with opened(browser, url, WIDE) as page, opened(browser, url, PHONE, is_mobile=True) as phone:
        await send_earthquakes(url, BURSTS[:3])
        for each in (page, phone):
            await each.click("#fail")
        for each, name in ((page, "failing"), (phone, "narrow")):
            await expect(each.locator("#edit")).to_be_visible(timeout=30_000)
            await each.locator(".failing").evaluate("card => card.scrollIntoView({ block: 'end' })")
            await take(each, name)


async def draw_trouble(browser: Browser, stack: Stack) -> None:
    """Draw the page under load, with a listener gone, and with PostgreSQL down."""
    async with opened(browser, stack.publish_url, WIDE) as page:
        load = asyncio.create_task(send_earthquakes(stack.publish_url, (150,) * 8))
        await page.wait_for_timeout(5_000)
        await take(page, "load")
        await load
        await stack.kill("listener-b")
        await expect(page.locator("#health")).to_contain_text("listener-b")
        await take(page, "gone")
        await stack.stop("postgres")
        await send_earthquakes(stack.publish_url, (20,))
        await expect(page.locator("#health")).to_contain_text("PostgreSQL")
        await take(page, "down")


@asynccontextmanager
async def opened(browser: Browser, url: str, viewport: Any, **context: Any) -> AsyncIterator[Page]:
    """Open the page, and wait until it shows both listeners."""
    page = await browser.new_page(viewport=viewport, **context)
    await page.goto(url)
    await expect(page.locator("#connection")).to_have_text("Live")
    await expect(page.locator("#listeners tr")).to_have_count(2)
    yield page
    await page.close()


async def send_earthquakes(url: str, bursts: tuple[int, ...] = BURSTS) -> None:
    """Send the earthquakes of the examples in bursts of one second each."""
    lines = iter((ROOT / "examples" / "earthquakes.ndjson").read_text("utf-8").splitlines())
    async with httpx2.AsyncClient(headers={"Content-Type": "application/x-ndjson"}) as client:
        for burst in bursts:
            content = "\n".join(next(lines) for _ in range(burst))
            answer = await client.post(
                f"{url}/events", content=content, headers={"Content-Type": "application/x-ndjson"}
            )
            answer.raise_for_status()
            await asyncio.sleep(1)


async def take(page: Page, name: str) -> None:
    """Take a picture of the viewport, with nothing hovered or focused."""
    await page.mouse.move(0, 0)
    await page.evaluate("document.activeElement.blur()")
    await page.wait_for_timeout(1_500)  # until the next report has arrived and every transition is over
    await page.screenshot(path=PICTURES / f"{name}.png", animations="disabled")


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
