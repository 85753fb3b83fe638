"""The talk page in a browser: somebody talks, reads along, hangs up and sees what it cost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from flow.api.pages import STATIC
from flow.bot.rtvi import MAX_TEXT_CHARS
from tests.browser.conftest import QUESTION, REPLIES, House, say
from tests.browser.watched_page import AXE, WatchedPage, dollars
from tests.chromium import chromium

MICROPHONE = Path(__file__).parent / "page" / "microphone.js"
# What the browser and Pipecat's client say of requests that a test blocks.
BLOCKED = ("net::ERR_FAILED", "TypeError: Failed to fetch")
AGENT = {"name": "doors", "bot": {"greeting": "Hello {{name}}! What can I do for you?"}}

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(
        not (STATIC / "talk.html").is_file() or not AXE.is_file(),
        reason="the pages are not built: `make web` builds them, with npm",
    ),
]


class TalkPage(WatchedPage):
    """The talk page of a service for development."""

    async def start(self) -> None:
        await self.page.get_by_role("button", name="Start talking").click()

    async def expect_said(self, who: str, words: str) -> None:
        said = self.page.locator(f".live-transcript .said-{who}", has_text=words)
        await expect(said).to_be_visible(timeout=10_000)


@asynccontextmanager
async def talk_page(browser: Browser, url: str, **context: Any) -> AsyncIterator[TalkPage]:
    """The page as ``/`` leads to it, which must ask nobody else and break no rule."""
    async with await browser.new_context(**context) as tabs:
        shown = TalkPage(await tabs.new_page(), url)
        yield shown
        assert (shown.errors, shown.foreign) == ([], [])


@pytest.mark.parametrize("way", ["WebRTC", "WebSocket"])
async def test_somebody_talks_and_sees_the_account(
    house: House, browser: Browser, way: str
) -> None:
    served = house.served
    async with talk_page(browser, served.url) as shown:
        page = shown.page
        await page.add_init_script(path=MICROPHONE)
        if way == "WebSocket":
            # As behind a firewall that lets no WebRTC through.
            await page.route("**/offer?*", lambda route: route.abort())
            made = await served.http.post("/api/agents", json=AGENT)
            assert made.status_code == 201, made.text
            await page.goto(f"{served.url}/talk?agent=doors")
            await expect(page.get_by_label("Agent").locator(":checked")).to_have_text("doors")
            await page.get_by_label("name", exact=True).fill("Ada")
        else:
            await page.goto(served.url)
            await page.get_by_label("Recording").select_option("Recorded")
        assert await shown.violations() == []
        await shown.start()
        mute = page.get_by_role("button", name="Mute")
        await expect(mute).to_be_enabled(timeout=15_000)
        await expect(page.get_by_text(way, exact=True)).to_be_visible()
        if way == "WebSocket":
            shown.errors[:] = [one for one in shown.errors if not one.endswith(BLOCKED)]
        greeting = "Hello Ada! What" if way == "WebSocket" else "What can I do for you?"
        await shown.expect_said("bot", greeting)
        await expect(page.get_by_role("status").first).to_have_text("It's your turn")
        await say(page, QUESTION)
        await shown.expect_said("caller", QUESTION)
        await shown.expect_said("bot", REPLIES[0][:12])
        await expect(page.locator(".said-bot .badge", has_text="after")).to_be_visible()
        await page.keyboard.press("m")
        await expect(page.get_by_role("button", name="Muted")).to_have_attribute(
            "aria-pressed", "true"
        )
        assert await shown.violations() == []
        typed = page.get_by_label("Type instead of speaking")
        await typed.evaluate("(field) => field.removeAttribute('maxlength')")
        await typed.fill("a" * (MAX_TEXT_CHARS + 1))
        await typed.press("Enter")
        await expect(page.get_by_role("alert")).to_contain_text(f"longer than {MAX_TEXT_CHARS}")
        await page.get_by_role("button", name="Hang up").click()
        await expect(page.get_by_text("You hung up. Its account is settled.")).to_be_visible(
            timeout=15_000
        )
        assert await shown.violations() == []
        player = page.get_by_label("Recording of the call")
        await expect(player).to_have_count(0 if way == "WebSocket" else 1, timeout=15_000)
        if way == "WebRTC":
            await page.get_by_role("button", name="Play from").nth(1).click()
            playing = page.locator(".said[aria-current=true]")
            await expect(playing).to_contain_text(QUESTION)
            assert await player.evaluate("(audio) => !audio.paused")
        link = await page.get_by_role("link", name="Open in the console").get_attribute("href")
        assert link is not None
        thread_id = link.rpartition("/")[2]
        usage = await served.http.get(f"/api/threads/{thread_id}/usage")
        total = sum(Decimal(event["total_cost_usd"]) for event in usage.json()["events"])
        assert total > 0
        ledger = page.get_by_role("region", name="Ledger of the call")
        await expect(ledger.locator("tfoot")).to_contain_text(dollars(total, 6))
        await expect(ledger.locator("tbody tr")).to_have_count(len(usage.json()["events"]))
        await page.goto(f"{served.url}{link}")
        await expect(page.get_by_text(QUESTION, exact=True)).to_be_visible()
        agents = page.get_by_role("link", name="doors")
        await expect(agents).to_have_count(1 if way == "WebSocket" else 0)
    await house.conserved()


async def test_the_api_s_own_page_can_be_read(house: House, browser: Browser) -> None:
    async with await browser.new_context() as tabs:
        shown = WatchedPage(await tabs.new_page(), house.served.url)
        await shown.page.goto(f"{shown.url}/docs")
        await expect(shown.page.locator(".information-container[role=banner]")).to_be_visible()
        broken = [one.partition(" at ")[0] for one in await shown.violations()]
        # Buttons of Swagger UI's have links in them.
        assert (broken, shown.errors, shown.foreign) == (["nested-interactive"], [], [])


async def test_a_microphone_that_is_denied_is_explained_on_a_phone_in_the_dark(
    house: House,
) -> None:
    phone: Any = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}
    # Without a flag that answers for the user, a browser without windows lets nobody listen.
    async with (
        chromium("--use-fake-device-for-media-stream") as browser,
        talk_page(browser, house.served.url, **phone) as shown,
    ):
        await shown.page.goto(f"{house.served.url}/talk?agent=nobody")
        alert = shown.page.get_by_role("alert")
        await expect(alert).to_contain_text("There is no agent called nobody")
        await shown.page.get_by_label("Instructions").fill("It is {{flow.date}} in {{place|Ulm}}.")
        await expect(shown.page.get_by_label("place")).to_have_attribute("placeholder", "Ulm")
        await expect(shown.page.locator(".variables input")).to_have_count(1)
        await shown.start()
        await expect(alert).to_contain_text("The microphone is blocked for this page")
        await expect(shown.page.get_by_role("button", name="Start talking")).to_be_focused()
        await shown.page.get_by_text("Models", exact=False).first.click()
        await expect(shown.page.get_by_label("Vendor")).to_have_count(3)
        await shown.page.get_by_text("Microphone and connection").click()
        assert await shown.violations() == []
        assert await shown.width() == 390
