"""Whole calls in rooms: the bot waits, a caller comes or nobody does, and the call is accounted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

import jwt
import pytest

from flow.domain.calls.room import room_name
from flow.domain.calls.thread import Status, Thread
from flow.sandbox import daily as dy
from flow.sandbox import livekit as lk
from flow.sandbox.callers.caller import call
from flow.sandbox.callers.frames import Audio, decode, encode
from flow.sandbox.callers.script import AfterBot
from flow.sandbox.daily import DailySandbox
from flow.sandbox.faults import Fault
from flow.sandbox.livekit import LiveKitSandbox
from flow.sandbox.server import Served
from tests.calls.building import Building, ByRoom, Guest
from tests.calls.conftest import SETTLE_SECS, Serve, Serving, quantity
from tests.calls.test_call import JOIN, LONG, SHORT, stood_in

KINDS: tuple[str, ...] = ("daily", "livekit")
QUIET = replace(SHORT, greeting="", lines=(), hang_up=AfterBot(60), patience_secs=60)
SILENCE = encode(Audio(bytes(640), 16_000))


class House:
    """The service with a vendor of rooms beside it."""

    def __init__(self, served: Serving, building: Building, vendor: Any, kind: str) -> None:
        self.served, self.building, self.vendor, self.kind = served, building, vendor, kind
        self.carrier = ByRoom(building, kind)
        self.join_request = {**JOIN, "transport": {"type": kind}}

    async def join(self, **given: Any) -> dict[str, Any]:
        request = {"transport": {"type": self.kind}} | given
        answer = await self.served.http.post("/api/bot/join", json=request)
        assert answer.status_code == 201, answer.text
        joined: dict[str, Any] = answer.json()
        return joined

    async def thread(self, joined: dict[str, Any]) -> Thread:
        thread_id = UUID(joined["workflow_thread_id"])
        return await self.served.service.database.get_workflow_thread_data(thread_id)

    async def until(self, joined: dict[str, Any], status: Status) -> None:
        async with asyncio.timeout(SETTLE_SECS):
            while (await self.thread(joined)).status is not status:
                await asyncio.sleep(0.02)

    async def closed(self, name: str) -> None:
        """Wait until the vendor has deleted the room."""
        async with asyncio.timeout(SETTLE_SECS):
            while name not in self.vendor.deleted:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def house(
    serving: Serve, standing: Any, kind: str = "daily", **settings: Any
) -> AsyncIterator[House]:
    vendor: Any = DailySandbox() if kind == "daily" else LiveKitSandbox()
    building = Building(vendor, **settings.pop("building", {}))
    async with Served(vendor) as url:
        known = {
            "daily_api_key": dy.API_KEY,
            "daily_api_url": f"{url}/v1",
            "livekit_url": url.replace("http", "ws"),
            "livekit_api_key": lk.API_KEY,
            "livekit_api_secret": lk.API_SECRET,
        }
        async with serving(standing, media=building, **(known | settings)) as served:
            yield House(served, building, vendor, kind)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_in_a_room_is_held_and_accounted_to_the_last_token(
    kind: str, serving: Serve
) -> None:
    async with stood_in(SHORT) as standing, house(serving, standing, kind) as at:
        if isinstance(at.vendor, LiveKitSandbox):
            at.vendor.rooms = Everything()
        report = await call(
            at.served.url, standing.api_key, SHORT, join=at.join_request, carrier=at.carrier
        )
        thread = await at.served.settled(report.workflow_thread_id)
        rows = await at.served.conserved(thread)
        await at.closed(room_name(thread.id))
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "caller_hung_up")
    assert [(turn.role, turn.content) for turn in thread.transcript] == [
        ("assistant", SHORT.greeting),
        ("user", SHORT.lines[0].text),
        ("assistant", SHORT.lines[0].reply),
    ]
    assert {row["kind"] for row in rows} == {"llm", "tts", "stt", "call"}
    assert thread.usage_stats["estimated_events"] == 0
    assert report.seconds_heard > 1


class Everything(set[str]):
    """Rooms that somebody has entered, whatever they are called."""

    def __contains__(self, name: object) -> bool:
        return True


@pytest.mark.parametrize("hangup", ["close", "end_api"])
async def test_whoever_hangs_up_in_mid_sentence_the_call_is_accounted(
    hangup: Literal["close", "end_api"], serving: Serve
) -> None:
    async with stood_in(LONG) as standing, house(serving, standing) as at:
        report = await call(
            at.served.url,
            standing.api_key,
            LONG,
            join=at.join_request,
            hangup=hangup,
            carrier=at.carrier,
        )
        thread = await at.served.settled(report.workflow_thread_id)
        await at.served.conserved(thread)
        await at.closed(room_name(thread.id))
    assert thread.status is Status.COMPLETED
    assert thread.end_reason == ("ended_by_api" if hangup == "end_api" else "caller_hung_up")
    assert thread.usage_stats["interrupted_generations"] == 1


async def test_a_thread_to_which_nobody_comes_expires_and_costs_nothing(serving: Serve) -> None:
    async with (
        stood_in(QUIET) as standing,
        # Silence before anybody has come is no silence on the line.
        house(serving, standing, join_token_secs=5, idle_timeout_secs=1) as at,
    ):
        joined = await at.join()
        await at.building.arrived(joined["connection"]["room"])
        assert (await at.thread(joined)).status is Status.CONNECTING
        thread = await at.served.settled(joined["workflow_thread_id"])
        rows = await at.served.conserved(thread)
        await at.closed(joined["connection"]["room"])
        again = (await at.served.http.get("/api/limits")).json()["limits"]
    assert (thread.status, thread.end_reason) == (Status.EXPIRED, "nobody_came")
    assert thread.error is None
    assert rows == []
    assert {Decimal(limit["reserved"]) for limit in again if limit.get("reserved")} <= {Decimal(0)}


async def test_the_longest_duration_counts_from_the_callers_coming(serving: Serve) -> None:
    async with stood_in(QUIET) as standing, house(serving, standing) as at:
        joined = await at.join(max_duration_secs=5)
        await at.building.arrived(joined["connection"]["room"])
        await asyncio.sleep(2)
        came = time.monotonic()
        await at.building.enter(joined["connection"]["token"])
        thread = await at.served.settled(joined["workflow_thread_id"])
        lasted = time.monotonic() - came
        (row,) = await at.served.conserved(thread)
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "max_duration")
    assert 4 < quantity(row, "call_seconds") < lasted


async def test_a_caller_who_came_late_is_not_hung_up_on_for_the_silence_before(
    serving: Serve,
) -> None:
    async with stood_in(QUIET) as standing, house(serving, standing, idle_timeout_secs=2) as at:
        joined = await at.join()
        await at.building.arrived(joined["connection"]["room"])
        await asyncio.sleep(1.5)
        await at.building.enter(joined["connection"]["token"])
        await at.until(joined, Status.IN_CALL)
        thread = await at.served.settled(joined["workflow_thread_id"])
        (row,) = await at.served.conserved(thread)
    assert thread.end_reason == "idle_timeout"
    assert quantity(row, "call_seconds") > Decimal("1.7")


async def test_a_caller_who_is_there_first_is_met(serving: Serve) -> None:
    """Vendors name whoever is in a room already when the bot comes in."""
    async with stood_in(QUIET) as standing, house(serving, standing) as at:
        own = "https://acme.daily.co/standup"
        token = dy_token("standup")
        guest = Guest(at.building, "standup", "early")
        at.building.guests["standup"] = {"early": guest}
        joined = await at.join(transport={"type": "daily", "room_url": own, "token": token})
        await at.until(joined, Status.IN_CALL)
        await guest.close()
        thread = await at.served.settled(joined["workflow_thread_id"])
        await at.served.conserved(thread)
    assert thread.end_reason == "caller_hung_up"
    # It is the caller's own: Flow neither made it nor closes it.
    assert list(at.vendor.requests) == []
    assert joined["connection"]["url"] == own
    assert {"token", "room"}.isdisjoint(joined["connection"])


def dy_token(room: str) -> str:
    return jwt.encode({"r": room, "exp": 4102444800}, dy.API_KEY, algorithm="HS256")


async def test_the_bot_talks_with_the_first_who_comes_and_hears_nobody_else(
    serving: Serve,
) -> None:
    async with stood_in(QUIET) as standing, house(serving, standing) as at:
        joined = await at.join()
        token = joined["connection"]["token"]
        bot = await at.building.arrived(joined["connection"]["room"])
        first, second = [await at.building.enter(token, name) for name in ("ann", "bob")]
        await at.until(joined, Status.IN_CALL)
        heard: list[str] = []
        queue = bot.input()._audio_in_queue  # type: ignore[attr-defined]
        put = queue.put

        async def listen(frame: Any) -> None:
            heard.append(frame.user_id)
            await put(frame)

        queue.put = listen
        for guest in (second, first, second):
            await guest.send(SILENCE)
        await second.close()
        await asyncio.sleep(0.3)
        assert (await at.thread(joined)).status is Status.IN_CALL
        await first.close()
        thread = await at.served.settled(joined["workflow_thread_id"])
    assert heard == ["ann"]
    assert thread.end_reason == "caller_hung_up"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_room_the_bot_cannot_enter_fails_the_thread(kind: str, serving: Serve) -> None:
    async with (
        stood_in(QUIET) as standing,
        house(serving, standing, kind, building={"broken": True}) as at,
    ):
        joined = await at.join()
        thread = await at.served.settled(joined["workflow_thread_id"])
        rows = await at.served.conserved(thread)
    assert thread.status is Status.FAILED
    assert thread.error == {"code": "room_lost", "message": "the bot did not get in"}
    assert rows == []


@pytest.mark.parametrize("came", [False, True])
async def test_a_bot_that_loses_its_room_ends_the_call_and_says_so(
    came: bool, serving: Serve
) -> None:
    async with stood_in(QUIET) as standing, house(serving, standing) as at:
        joined = await at.join()
        bot = await at.building.arrived(joined["connection"]["room"])
        if came:
            await at.building.enter(joined["connection"]["token"])
            await at.until(joined, Status.IN_CALL)
        await bot.tell("on_gone")
        thread = await at.served.settled(joined["workflow_thread_id"])
        rows = await at.served.conserved(thread)
        await at.closed(joined["connection"]["room"])
    assert thread.status is Status.FAILED
    assert thread.error == {"code": "room_lost", "message": "the bot was put out of the room"}
    assert len(rows) == came


async def test_ending_a_call_puts_the_caller_out_and_a_vendor_that_is_down_holds_up_nothing(
    serving: Serve,
) -> None:
    async with stood_in(QUIET) as standing, house(serving, standing) as at:
        joined = await at.join()
        name = joined["connection"]["room"]
        guest = await at.building.enter(joined["connection"]["token"])
        at.vendor.rooms[name].present.add("caller")
        await at.until(joined, Status.IN_CALL)
        at.vendor.faults.add(Fault(kind="status", status=500, route="DELETE *"))
        ended = await at.served.http.post(f"/api/bot/{joined['workflow_thread_id']}/end")
        thread = await at.served.settled(joined["workflow_thread_id"])
        assert [wire async for wire in guest if isinstance(decode(wire), Audio)] == []
    assert ended.json()["end_requested"] is True
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "ended_by_api")
    assert at.vendor.rooms[name].present == set()


async def test_a_call_that_finds_its_process_full_waits_for_a_place(serving: Serve) -> None:
    async with stood_in(QUIET) as standing, house(serving, standing, max_calls=1) as at:
        first = await at.join()
        await at.until(first, Status.CONNECTING)
        second = await at.join()
        await asyncio.sleep(1)
        assert (await at.thread(second)).status is Status.CREATED
        await at.served.http.post(f"/api/bot/{first['workflow_thread_id']}/end")
        await at.until(second, Status.CONNECTING)
        await at.served.http.post(f"/api/bot/{second['workflow_thread_id']}/end")
        await at.served.settled(second["workflow_thread_id"])


async def test_leaving_the_service_leaves_the_calls_in_rooms_to_other_processes(
    serving: Serve,
) -> None:
    async with stood_in(QUIET) as standing, house(serving, standing) as at:
        joined = await at.join()
        await at.building.arrived(joined["connection"]["room"])
    # The vendor outlives the service: the room is there for the next bot.
    assert at.vendor.deleted == []
