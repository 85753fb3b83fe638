"""A page of Flow's in a browser: what goes wrong on it, and whom it asks."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

from playwright.async_api import ConsoleMessage, Page, Request

AXE = Path(__file__).parents[2] / "flow" / "web" / "node_modules" / "axe-core" / "axe.min.js"


@dataclass
class WatchedPage:
    """A page that is to ask nobody but the service at ``url``, and to break no rule.

    ``errors`` are what the browser complains about, a refusal by the content security policy among
    it; ``foreign`` are the requests to elsewhere.
    """

    page: Page
    url: str
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._note)
        self.page.on("request", self._watch)

    async def violations(self) -> list[str]:
        """What axe finds wrong with the page as it is."""
        if not await self.page.evaluate("'axe' in window"):
            await self.page.evaluate(AXE.read_text("utf-8"))
        # Details of what is right take longer than to find what is wrong.
        found = await self.page.evaluate("axe.run({resultTypes: ['violations']})")
        return [f"{one['id']} at {one['nodes'][0]['target']}" for one in found["violations"]]

    async def width(self) -> int:
        """How wide the page is, with what can only be seen by scrolling sideways."""
        width: int = await self.page.evaluate("document.documentElement.scrollWidth")
        return width

    def _note(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _watch(self, request: Request) -> None:
        if not request.url.startswith((self.url, "blob:")):
            self.foreign.append(request.url)


def dollars(amount: str | Decimal | int, digits: int) -> str:
    """An amount as the pages write it."""
    step = Decimal(1).scaleb(-digits)
    return f"${Decimal(amount).quantize(step, ROUND_HALF_UP):,f}"
