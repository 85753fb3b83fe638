"""Whole calls that are spoken through, steered and watched while they run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import httpx
import pytest
from websockets.asyncio.client import connect

from flow.domain.calls.thread import Status, Thread
from flow.sandbox.all_vendors import vendors
from flow.sandbox.callers.frames import Audio, decode
from flow.sandbox.openai.chat import Pace
from tests.calls.conftest import SETTLE_SECS, Serve, Serving
from tests.calls.test_call import SHORT
from tests.calls.test_realtime import MODELS, all_stood_in, by

GREETING = "Hello!"
TOLD = "Your table is ready."
TALE = " ".join(f"On day {n} we went up the river." for n in range(12))
STEER = "Offer the soup, it is free today."
WORDS = "What is there to eat?"
REPLIES = ["We have soup today.", "There is soup and bread."]
QUICK = Pace(first_token_secs=0.02, token_secs=0.002)


@asynccontextmanager
async def talking(served: Serving, **bot: Any) -> AsyncIterator[tuple[str, Listener]]:
    """A call whose caller says nothing, once the bot has greeted, and what the caller hears."""
    join = {"transport": {"type": "websocket"}, "bot": {"greeting": GREETING, **bot}}
    answer = (await served.http.post("/api/bot/join", json=join)).json()
    thread_id: str = answer["workflow_thread_id"]
    async with connect(answer["connection"]["url"]) as socket:
        listener = Listener()
        listening = asyncio.create_task(listener.listen(socket))
        await said(served, thread_id, 1)
        yield thread_id, listener
        await served.http.post(f"/api/bot/{thread_id}/end")
        await listening


class Listener:
    """A caller who says nothing."""

    def __init__(self) -> None:
        self.heard_secs = 0.0

    async def listen(self, socket: Any) -> None:
        async for message in socket:
            sound = decode(message)
            if isinstance(sound, Audio):
                self.heard_secs += sound.seconds

    async def hears(self, secs: float) -> None:
        """Return when so much more of the bot was heard."""
        until = self.heard_secs + secs
        async with asyncio.timeout(SETTLE_SECS):
            while self.heard_secs < until:
                await asyncio.sleep(0.02)


async def said(served: Serving, thread_id: str, turns: int) -> Thread:
    """The thread once so much has been said."""
    async with asyncio.timeout(SETTLE_SECS):
        while True:
            thread = await served.service.database.get_workflow_thread_data(UUID(thread_id))
            if len(thread.transcript) >= turns:
                return thread
            await asyncio.sleep(0.02)


async def command(served: Serving, thread_id: str, kind: str, **body: Any) -> None:
    answer = await served.http.post(f"/api/bot/{thread_id}/{kind}", json=body)
    assert (answer.status_code, answer.json()["status"]) == (202, "taken"), answer.text


async def watched(http: httpx.AsyncClient, thread_id: str) -> list[tuple[str, Any]]:
    """All that the stream of a thread tells, to its end."""
    async with http.stream("GET", f"/api/threads/{thread_id}/events", timeout=60) as response:
        lines = [line async for line in response.aiter_lines()]
    types = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    return list(zip(types, data, strict=True))


async def test_a_bot_says_what_it_is_told_follows_and_is_watched(serving: Serve) -> None:
    asked: list[Sequence[Any]] = []
    replies = iter(REPLIES)

    def reply(messages: Sequence[Any]) -> str | None:
        asked.append(list(messages))
        return next(replies, None)

    async with vendors(reply, pace=QUICK) as standing, serving(standing) as served:
        async with talking(served) as (thread_id, caller):
            watching = asyncio.create_task(watched(served.http, thread_id))
            await command(served, thread_id, "say", text=TOLD)
            await said(served, thread_id, 2)
            await command(served, thread_id, "message", text=STEER, respond=True)
            await said(served, thread_id, 3)
            await command(served, thread_id, "message", text=WORDS, role="user")
            await command(served, thread_id, "message", text="Be brief.", respond=True)
            await said(served, thread_id, 5)
            await command(served, thread_id, "say", text=TALE)
            await caller.hears(3.0)
            await command(served, thread_id, "say", text="Stop.", interrupt=True)
            await said(served, thread_id, 7)
        thread = await served.settled(thread_id)
        events = await watching
        rows = await served.conserved(thread)
    assert thread.status is Status.COMPLETED
    expected = [
        ("assistant", GREETING),
        ("assistant", TOLD),
        ("assistant", REPLIES[0]),
        ("user", WORDS),
        ("assistant", REPLIES[1]),
        ("assistant", thread.transcript[5].content),
        ("assistant", "Stop."),
    ]
    assert [(turn.role, turn.content) for turn in thread.transcript] == expected
    assert thread.transcript[5].interrupted
    assert TALE.startswith(thread.transcript[5].content.removesuffix("."))
    assert [turn.interrupted for turn in thread.transcript].count(True) == 1
    first, second = (
        [str(message["content"]) for message in messages if message["role"] != "system"]
        for messages in asked[:2]
    )
    assert first[:2] == [GREETING, TOLD]
    assert first[2].endswith(STEER)
    assert [second[3], second[4]] == [REPLIES[0], WORDS]
    assert second[5].endswith("Be brief.")
    spoken = [row for row in rows if row["kind"] == "tts"]
    assert len(spoken) >= 6
    told = [data for kind, data in events if kind == "turn"]
    assert [(turn["role"], turn["content"]) for turn in told] == expected
    assert [turn["interrupted"] for turn in told] == [t.interrupted for t in thread.transcript]
    statuses = [data["status"] for kind, data in events if kind == "status"]
    # One that lasts for less than a look is told where its time is known.
    assert [one for one in statuses if one != "extracting"] == ["created", "in_call", "ended"]
    assert events[-1][0] == "end"
    costs = [data["total_cost_usd"] for kind, data in events if kind == "usage"]
    assert costs == sorted(costs)
    assert costs[-1] == pytest.approx(float(thread.usage_stats["total_cost_usd"]))


@pytest.mark.parametrize("vendor", MODELS)
async def test_a_model_that_hears_and_speaks_says_and_follows_too(
    vendor: str, serving: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with all_stood_in(SHORT, monkeypatch) as standing, serving(standing) as served:
        [line] = SHORT.lines
        async with talking(served, **by(vendor)["bot"]) as (thread_id, _):
            await command(served, thread_id, "say", text=TOLD)
            await said(served, thread_id, 2)
            await command(served, thread_id, "message", text=STEER)
            await command(served, thread_id, "message", text=line.text, role="user", respond=True)
            await said(served, thread_id, 4)
        thread = await served.settled(thread_id)
        await served.conserved(thread)
    assert [(turn.role, turn.content) for turn in thread.transcript] == [
        ("assistant", SHORT.greeting),
        ("assistant", TOLD),
        ("user", line.text),
        ("assistant", line.reply),
    ]
