"""The console in a browser: it shows what the API says, so that everybody can read it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Literal
from urllib.parse import quote
from uuid import uuid4

import av
import httpx
import numpy as np
import pytest
from playwright.async_api import expect
from pydantic import SecretStr

from flow.api.pages import STATIC
from flow.bot.calls.caller_calls import MediaStreamCalls
from flow.bot.transports.twilio import TRANSPORT, TwilioCarrier
from flow.domain.calls.command import SayRequest
from flow.domain.calls.phone_call import CarrierStatus, Direction, caller_leg
from flow.domain.calls.recording import RecordingPart
from flow.domain.calls.thread import Thread, Turn
from flow.domain.calls.tool_call import ThreadToolCall, ToolCall, ToolOutcome
from flow.domain.usage.events import Cost, Kind, Quantities
from flow.sandbox.twilio.app import AUTH_TOKEN
from flow.vendors.recording_storage.folder import Folder
from flow.vendors.twilio import Twilio
from tests import call_history
from tests.api.conftest import Api, ServeApi
from tests.browser.watched_page import AXE, WatchedPage, dollars
from tests.chromium import CHROMIUM, chromium
from tests.events import an_event

TEAM = "bell & sons/berlin"
PAGES = ("", "/calls", "/agents", "/usage", "/requests", "/limits")
GO = "(path) => { history.pushState(null, '', path); dispatchEvent(new PopStateEvent('popstate')) }"
AGENT = {
    "name": "reservations",
    "bot": {
        "system_prompt": "You take reservations for {{restaurant}}.\nIt is {{flow.date}}.",
        "greeting": "Good evening, {{name|and welcome}}!",
        "llm": {"provider": "openai", "model": "gpt-4.1", "temperature": 0.3},
        "timezone": "Europe/Berlin",
    },
    "tools": [
        {
            "type": "http",
            "name": "find_table",
            "description": "Finds a free table.",
            "url": "https://example.com/tables/{{restaurant}}",
            "headers": {"Authorization": "Bearer the-secret-of-the-restaurant"},
            "parameters": {"type": "object", "properties": {"people": {"type": "integer"}}},
        },
        {"type": "end_call"},
    ],
    "insights": {"instructions": "Note the date and the number of people."},
    "recording": {"retention_days": 14},
    "max_duration_secs": 600,
}
OPERATOR_PAGES = (
    "calls", "usage", "keys", "keys/new", "teams", "numbers", "numbers/new", "webhooks", "hosts",
    "ledger",
)  # fmt: skip
OURS, THEIRS = "+4930111111", "+4930222222"
CALL_SECS = 31.0

pytestmark = [
    pytest.mark.skipif(
        CHROMIUM is None, reason="Chromium is missing (Debian: apt install chromium)"
    ),
    pytest.mark.skipif(
        not (STATIC / "console.html").is_file() or not AXE.is_file(),
        reason="the pages are not built: `make web` builds them, with npm",
    ),
]


@pytest.fixture
async def api(serve_api: ServeApi, tmp_path: Path) -> Api:
    """A service that records calls and places them; it has another name for those outside."""
    carrier = TwilioCarrier(Twilio("ACx", SecretStr(AUTH_TOKEN), "http://127.0.0.1:9"))
    nobody: Any = None
    return await serve_api(
        streams={"twilio": MediaStreamCalls(TRANSPORT, carrier, nobody, nobody)},
        recordings=Folder(tmp_path),
        public_url="https://flow.example.com",
        dial_prefixes=("+49",),
    )


class Console(WatchedPage):
    """A page of the console."""

    async def sign_in(self, key: str) -> None:
        await self.page.goto(f"{self.url}/console")
        await self.page.get_by_label("API key").fill(key)
        await self.page.get_by_role("button", name="Sign in").click()

    async def show(self, path: str) -> None:
        """Go to a page as a link does, and wait until it has all that it asked for."""
        title = self.page.locator("main h1")
        # By way of a page that has nothing to wait for, so that the next one is known to be there.
        await self.page.evaluate(GO, "/console/nowhere")
        await expect(title).to_have_text("Not found")
        await self.page.evaluate(GO, f"/console{path}")
        await expect(title).not_to_have_text("Not found")
        await expect(self.page.locator(".loading")).to_have_count(0)


@asynccontextmanager
async def console(api: Api, **context: Any) -> AsyncIterator[Console]:
    """The console in a browser of its own, which must ask nobody but the API and break no rule."""
    async with chromium() as browser, await browser.new_context(**context) as tabs:
        shown = Console(await tabs.new_page(), api.url)
        yield shown
        assert (shown.errors, shown.foreign) == ([], [])


async def a_history(api: Api, postgres_url: str, key: str) -> httpx.AsyncClient:
    """A client of a key with an agent, two calls, and requests to the gateway.

    The first call is the agent's in its first of two versions, came by telephone, is recorded, and
    used a tool; the other goes on.
    """
    client = api.as_key(key)
    row = await api.key_of(client)
    now = datetime.now(UTC)
    hour_ago = now - timedelta(hours=1)
    made = (await client.post("/api/agents", json=AGENT)).json()
    again = await client.put(f"/api/agents/{made['id']}", json={**AGENT, "product": "voice_bot"})
    assert again.json()["version"] == 2, again.text
    said = {
        "agent": {"id": made["id"], "version": 1},
        "variables": {"restaurant": "Luigi's"},
        "transport": {"type": "twilio"},
        "recording": True,
    }
    done = await call_history.conversation(api.database, postgres_url, row, hour_ago, said=said)
    await a_telephone_call(api, done)
    await a_recording(api, done, hour_ago)
    used = ToolCall(
        uuid4(), "find_table", {"people": 4}, hour_ago + timedelta(seconds=6), ToolOutcome.OK,
        seconds=1.4, status=200, result={"free": True},
    )  # fmt: skip
    await api.database.save_tool_calls([ThreadToolCall(done.id, used)])
    await call_history.conversation(
        api.database, postgres_url, row, now, lines=call_history.CONVERSATION[:3],
        still_running=True,
    )  # fmt: skip
    await call_history.requests(api.database, row, 4)
    await api.database.operating.set_budget(row.id, Decimal("0.01"))
    return client


async def a_telephone_call(api: Api, thread: Thread) -> None:
    """The number that the thread's caller rang, and the leg of the call with its price."""
    legs = api.database.telephony
    await legs.put_number(OURS, thread.api_key_id, agent=None, product="voice_bot")
    leg = await legs.bind(
        caller_leg(thread.id), thread.id, "twilio", "CA1",
        direction=Direction.INBOUND, numbers=(THEIRS, OURS), due_secs=60,
    )  # fmt: skip
    await legs.note(leg.id, status=CarrierStatus.COMPLETED, answered_by="human")
    price = an_event(
        id=leg.id, owner=thread.owner, kind=Kind.TELEPHONY, source="carrier", provider="twilio",
        model="inbound", quantities=Quantities(phone_seconds=25),
        cost=Cost(phone_seconds=Decimal("0.0137")),
    )  # fmt: skip
    await api.database.record_usage([price])


async def a_recording(api: Api, thread: Thread, began: datetime) -> None:
    """Both sides of the thread's call as a sound file, in the folder of the service."""
    part = RecordingPart(
        uuid4(), began, f"{thread.id}/a.flac", seconds=CALL_SECS, size=1, complete=True
    )
    storage = api.services.recordings
    assert storage is not None
    with NamedTemporaryFile(suffix=".flac") as file:
        with av.open(file.name, "w") as container:
            stream = container.add_stream("flac", rate=8_000, layout="stereo")
            sound = np.zeros((1, 2 * round(8_000 * CALL_SECS)), np.int16)
            frame = av.AudioFrame.from_ndarray(sound, format="s16", layout="stereo")
            frame.sample_rate = 8_000
            container.mux([*stream.encode(frame), *stream.encode(None)])
        await storage.put(str(part.path), Path(file.name))
    assert await api.database.recordings.store_part(thread.id, part, 30)
    assert await api.database.recordings.settle(thread.id, [part.id])


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
        await expect(page.locator(".fact", has_text="Agent")).to_contain_text("version 1")
        await expect(page.get_by_text("Luigi's", exact=True)).to_be_visible()
        used = page.get_by_role("region", name="Tools used in the call").locator("tbody tr")
        await expect(used).to_contain_text(["find_tableOk2001.40 s"])
        lane = page.locator(".lane", has_text="Tools").locator(".span")
        await expect(lane).to_have_count(1)
        sum_of_ledger = sum(Decimal(event["total_cost_usd"]) for event in events)
        await expect(ledger.locator("tfoot")).to_contain_text(dollars(sum_of_ledger, 6))
        legs = page.get_by_role("region", name="Legs of the telephone call").locator("tbody tr")
        shown_leg = ["Caller, inbound", THEIRS, OURS, "Completed", "Human"]
        cells = [*shown_leg, "\N{EN DASH}", "$0.013700"]
        await expect(legs.locator("td")).to_have_text(cells)

        await page.get_by_role("button", name="Play from 0:11").press("Enter")
        said = page.locator(".said[aria-current=true]")
        await expect(said).to_contain_text("For four.")
        player = page.get_by_label("Recording of the call")
        at = await player.evaluate("(audio) => audio.paused ? null : audio.currentTime")
        assert 11 < at < 14
        await player.evaluate("(audio) => audio.pause()")
        assert await shown.violations() == []

        await page.get_by_role("link", name="reservations", exact=True).click()
        await expect(page.get_by_label("Version")).to_have_value("1")
        await expect(page.locator(".fact", has_text="Product")).to_contain_text("The join's")
        await page.get_by_label("Version").select_option("2, the newest")
        await expect(page.locator(".fact", has_text="Product")).to_contain_text("voice_bot")
        await expect(page.get_by_text("You take reservations for {{restaurant}}.")).to_be_visible()
        tool = page.locator(".tool", has_text="find_table")
        await expect(tool).to_contain_text("Authorization")
        assert "the-secret" not in await page.content()
        variables = page.get_by_role("region", name="Variables of the agent")
        await expect(variables.locator("tbody tr")).to_contain_text(
            ["restaurantrefused", "flow.dateFlow gives it", "nameand welcome"]
        )
        calls = page.get_by_role("region", name="Calls with this agent")
        await expect(calls.get_by_role("link")).to_have_count(1)
        talk = page.get_by_role("link", name="Talk with it")
        await expect(talk).to_have_attribute("href", "/talk?agent=reservations")
        await api.database.operating.set_budget((await api.key_of(client)).id, None)
        await page.get_by_text("Have it call somebody").click()
        await page.get_by_label("Number to call").fill(THEIRS)
        await page.get_by_label("From").fill(OURS)
        await page.get_by_label("restaurant").fill("Luigi's")
        await page.get_by_role("button", name="Call", exact=True).click()
        await expect(legs).to_contain_text([f"Called, outbound{OURS}{THEIRS}"])

        await page.get_by_role("link", name="Usage", exact=True).click()
        async with page.expect_download() as downloading:
            await page.get_by_role("button", name="Download CSV").click()
        file = await (await downloading.value).path()
        report = await client.get("/api/usage?group_by=model", headers={"Accept": "text/csv"})
        assert Path(file).read_bytes() == report.content


async def test_a_running_call_is_followed_and_spoken_through(api: Api, postgres_url: str) -> None:
    key = api.new_key(TEAM)
    now = datetime.now(UTC)
    thread = await call_history.conversation(
        api.database, postgres_url, await api.key_of(api.as_key(key)), now,
        lines=call_history.CONVERSATION[:3], still_running=True,
    )  # fmt: skip
    asked: list[str] = []
    path = f"/api/threads/{thread.id}"
    async with console(api) as shown:
        page = shown.page
        page.on("request", lambda request: asked.append(request.url.removeprefix(api.url)))
        await shown.sign_in(key)
        await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
        await shown.show("/calls/nonsense")
        await expect(page.get_by_text("There is no call with this id")).to_be_visible()
        assert await shown.violations() == []
        assert "404" in shown.errors.pop()

        # The events that change the account lead to a request, together; what is said, to none.
        async with page.expect_response(f"**{path}/usage"):
            await shown.show(f"/calls/{thread.id}")
        async with page.expect_response(f"**{path}/usage"):
            pass
        before = asked.count(path)
        turn = Turn(3, "user", "Do you have a terrace?", now + timedelta(seconds=9))
        await api.database.save_workflow_thread_data(thread.id, turns=[turn])
        await expect(page.get_by_text("Do you have a terrace?")).to_be_visible()
        assert (asked.count(path), asked.count(f"{path}/events")) == (before, 1)

        await page.get_by_role("textbox", name="Text").fill("Your table is ready.")
        await page.get_by_role("button", name="Send").click()
        async with asyncio.timeout(5):
            while not (
                orders := await api.database.during_calls.take_commands(
                    {thread.id: "voice-1/call"}, uuid4()
                )
            ):
                await asyncio.sleep(0.05)
        assert [one.order for one in orders] == [SayRequest(text="Your table is ready.")]
        await expect(page.get_by_text("The bot has it.")).to_be_visible()
        assert await shown.violations() == []


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


async def test_an_operator_sets_a_budget_and_numbers_and_is_told_what_is_wrong_with_them(
    api: Api,
) -> None:
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
        await page.get_by_role("link", name="Numbers").click()
        await expect(page.get_by_text("No numbers yet")).to_be_visible()
        await page.get_by_role("link", name="Add a number").click()
        await page.get_by_role("textbox", name="Number").fill(OURS)
        await page.get_by_role("textbox", name="Key").fill(str(customer.id))
        await page.get_by_role("textbox", name="Agent").fill("doors")
        await page.get_by_role("button", name="Add the number").click()
        await expect(page.get_by_role("alert")).to_contain_text("has no agent doors")
        assert "422" in shown.errors.pop()
        made = await api.client.post("/api/agents", json={"name": "doors"})
        assert made.status_code == 201, made.text
        await page.get_by_role("button", name="Add the number").click()
        numbers = page.get_by_role("region", name="Numbers").locator("tbody tr")
        await expect(numbers).to_contain_text([f"{OURS}doors"])
        await numbers.get_by_role("link", name=OURS).click()
        await page.get_by_label("It rings").select_option("product")
        await page.get_by_role("button", name="Save").click()
        await expect(numbers).to_contain_text([f"{OURS}voice_bot"])
        kept = await api.database.telephony.find_number(OURS)
        assert kept is not None
        assert (kept.key.id, kept.agent, kept.product) == (customer.id, None, "voice_bot")
        await numbers.get_by_role("link", name=OURS).click()
        await page.get_by_role("button", name="Remove").click()
        await page.get_by_role("button", name="Remove").click()
        await expect(page.get_by_text("No numbers yet")).to_be_visible()
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
    agent_id = (await client.get("/api/agents")).json()["agents"][0]["id"]
    paths = [
        *PAGES,
        *(f"/calls/{thread['workflow_thread_id']}" for thread in threads),
        *(f"/operator/{name}" for name in OPERATOR_PAGES),
        f"/agents/{agent_id}",
        f"/operator/calls/{threads[-1]['workflow_thread_id']}",
        f"/operator/keys/{key_id}",
        f"/operator/numbers/{quote(OURS)}",
        f"/operator/teams/{quote(TEAM, safe='')}",
    ]
    size: Any = {"width": width, "height": 900}
    async with console(api, color_scheme=theme, viewport=size) as shown:
        await shown.page.goto(f"{api.url}/console")
        assert await shown.violations() == []
        await shown.sign_in(key)
        await expect(shown.page.get_by_role("heading", name="Overview")).to_be_visible()
        await shown.page.evaluate(GO, "/console/nowhere")
        await expect(shown.page.get_by_text("There is no such page")).to_be_visible()
        assert await shown.violations() == []
        for path in paths:
            with subtests.test(path):
                await shown.show(path)
                assert await shown.page.get_by_role("alert").count() == 0
                assert await shown.violations() == []
                assert await shown.width() == width
