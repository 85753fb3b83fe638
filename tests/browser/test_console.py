"""The console in a browser: it shows what the API says, so that everybody can read it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import httpx
import pytest
from playwright.async_api import expect

from flow.api.pages import STATIC
from tests import call_history
from tests.api.conftest import Api
from tests.browser.watched_page import AXE, WatchedPage, dollars
from tests.chromium import CHROMIUM, chromium

TEAM = "bell & sons/berlin"
PAGES = ("", "/calls", "/usage", "/requests", "/limits", "/nowhere")
OPERATOR_PAGES = ("calls", "usage", "keys", "keys/new", "teams", "webhooks", "hosts", "ledger")

pytestmark = [
    pytest.mark.skipif(
        CHROMIUM is None, reason="Chromium is missing (Debian: apt install chromium)"
    ),
    pytest.mark.skipif(
        not (STATIC / "console.html").is_file() or not AXE.is_file(),
        reason="the pages are not built: `make web` builds them, with npm",
    ),
]


class Console(WatchedPage):
    """A page of the console."""

    async def sign_in(self, key: str) -> None:
        await self.page.goto(f"{self.url}/console")
        await self.page.get_by_label("API key").fill(key)
        await self.page.get_by_role("button", name="Sign in").click()

    async def show(self, path: str) -> None:
        """Go to a page and wait until it has all that it asked for."""
        await self.page.goto(f"{self.url}/console{path}", wait_until="domcontentloaded")
        await expect(self.page.locator("main h1")).to_be_visible()
        await expect(self.page.locator(".loading")).to_have_count(0)


@asynccontextmanager
async def console(api: Api, **context: Any) -> AsyncIterator[Console]:
    """The console in a browser of its own, which must ask nobody but the API and break no rule."""
    async with chromium() as browser, await browser.new_context(**context) as tabs:
        shown = Console(await tabs.new_page(), api.url)
        yield shown
        assert (shown.errors, shown.foreign) == ([], [])


async def a_history(api: Api, postgres_url: str, key: str) -> httpx.AsyncClient:
    """A client of a key with two calls, one of which goes on, and requests to the gateway."""
    client = api.as_key(key)
    row = await api.key_of(client)
    now = datetime.now(UTC)
    hour_ago = now - timedelta(hours=1)
    await call_history.conversation(api.database, postgres_url, row, hour_ago)
    await call_history.conversation(
        api.database, postgres_url, row, now, lines=call_history.CONVERSATION[:3],
        still_running=True,
    )  # fmt: skip
    await call_history.requests(api.database, row, 10)
    await api.database.operating.set_budget(row.id, Decimal("0.01"))
    return client


async def test_a_customer_finds_the_sums_of_the_api(api: Api, postgres_url: str) -> None:
    key = api.new_key(TEAM)
    client = await a_history(api, postgres_url, key)
    done = (await client.get("/api/threads?status=completed")).json()["threads"][0]
    total = (await client.get("/api/usage")).json()["rows"][0]["total_cost_usd"]
    events = (await client.get(f"/api/threads/{done['workflow_thread_id']}/usage")).json()["events"]
    async with console(api) as shown:
        page = shown.page
        await shown.sign_in(key)
        await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
        spend = page.locator(".stat", has_text="Spend")
        await expect(spend).to_contain_text(dollars(total, 4 if Decimal(total) < 1 else 2))
        await expect(page.get_by_text("Budget exceeded")).to_be_visible()
        await expect(page.get_by_role("link", name="Keys")).to_have_count(0)

        await page.get_by_role("link", name="Calls", exact=True).click()
        await page.get_by_label("Status").select_option("completed")
        await expect(page.get_by_role("table").get_by_role("link")).to_have_count(1)
        await page.get_by_role("table").get_by_role("link").click()
        await expect(page.get_by_text("Ada Lovelace. And one of us is vegetarian.")).to_be_visible()
        ledger = page.get_by_role("region", name="Ledger of the call")
        await expect(ledger.locator("tbody tr")).to_have_count(len(events))
        sum_of_ledger = sum(Decimal(event["total_cost_usd"]) for event in events)
        await expect(ledger.locator("tfoot")).to_contain_text(dollars(sum_of_ledger, 6))

        await page.get_by_role("link", name="Usage", exact=True).click()
        async with page.expect_download() as downloading:
            await page.get_by_role("button", name="Download CSV").click()
        file = await (await downloading.value).path()
        report = await client.get("/api/usage?group_by=model", headers={"Accept": "text/csv"})
        assert Path(file).read_bytes() == report.content


async def test_a_key_that_is_not_good_is_refused_in_words_and_not_kept(api: Api) -> None:
    key = api.new_key(TEAM)
    async with console(api) as shown:
        await shown.sign_in("flow_nobody_knows_this_key")
        await expect(shown.page.get_by_role("alert")).not_to_be_empty()
        kept = "sessionStorage.length + localStorage.length"
        assert await shown.page.evaluate(kept) == 0
        # The browser's own word for an answer of 401.
        assert len(shown.errors) == 1
        assert "401" in shown.errors.pop()
        await shown.page.get_by_label("API key").fill(key)
        await shown.page.keyboard.press("Enter")
        await expect(shown.page.get_by_text("No calls yet")).to_be_visible()
        await shown.page.get_by_role("button", name="Sign out").click()
        await expect(shown.page.get_by_label("API key")).to_be_visible()
        assert await shown.page.evaluate(kept) == 0


async def test_an_operator_sets_a_budget_and_is_told_what_is_wrong_with_one(api: Api) -> None:
    customer = await api.key_of(api.client)
    async with console(api) as shown:
        page = shown.page
        await shown.sign_in(api.new_key(TEAM, permissions=["flow.admin"]))
        await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
        await shown.show(f"/operator/keys/{customer.id}")
        budget = page.get_by_label("Budget a month")
        await budget.fill("-5")
        await page.get_by_role("button", name="Save").click()
        await expect(page.get_by_role("alert")).to_contain_text("greater than 0")
        assert "422" in shown.errors.pop()
        await budget.fill("7.5")
        await page.get_by_role("button", name="Save").click()
        await expect(page.get_by_text("of $7.50")).to_be_visible()
    account = await api.database.operating.get_api_key(str(customer.id))
    assert account.budget.cap_usd == Decimal("7.5")


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 390)])
async def test_every_page_can_be_read_by_everybody(
    api: Api,
    postgres_url: str,
    theme: Literal["light", "dark"],
    width: int,
    subtests: pytest.Subtests,
) -> None:
    key = api.new_key(TEAM, permissions=["flow.admin", "flow.content"])
    client = await a_history(api, postgres_url, key)
    threads = (await client.get("/api/threads")).json()["threads"]
    key_id = (await client.get("/api/key")).json()["api_key_id"]
    paths = [
        *PAGES,
        *(f"/calls/{thread['workflow_thread_id']}" for thread in threads),
        *(f"/operator/{name}" for name in OPERATOR_PAGES),
        f"/operator/calls/{threads[-1]['workflow_thread_id']}",
        f"/operator/keys/{key_id}",
        f"/operator/teams/{quote(TEAM, safe='')}",
    ]
    size: Any = {"width": width, "height": 900}
    async with console(api, color_scheme=theme, viewport=size) as shown:
        await shown.page.goto(f"{api.url}/console")
        assert await shown.violations() == []
        await shown.sign_in(key)
        await expect(shown.page.get_by_role("heading", name="Overview")).to_be_visible()
        for path in paths:
            with subtests.test(path):
                await shown.show(path)
                assert await shown.page.get_by_role("alert").count() == 0
                assert await shown.violations() == []
                assert await shown.width() == width
