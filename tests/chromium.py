"""The system's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, async_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


@asynccontextmanager
async def chromium(*flags: str) -> AsyncIterator[Browser]:
    """A browser without windows, started with ``flags``.

    Raises:
        FileNotFoundError: there is none on this machine.
    """
    if CHROMIUM is None:
        raise FileNotFoundError("Chromium is missing (Debian: apt install chromium)")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=flags, chromium_sandbox=os.geteuid() != 0
        )
        yield browser
        await browser.close()
