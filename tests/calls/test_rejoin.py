"""A process with a call in a room ends: another goes on with the conversation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_sockets

from flow.db.database import Database
from flow.domain.calls.room_call import BACK
from flow.domain.calls.thread import Status, Thread
from flow.sandbox import daily as dy
from flow.sandbox.all_vendors import Vendors
from flow.sandbox.callers.frames import Audio, encode
from flow.sandbox.callers.script import Line
from flow.sandbox.daily import DailySandbox
from flow.sandbox.server import Served
from flow.sandbox.speech.synthesis import synthesize
from flow.vendors.posthog_flags import COST_CONTROLS
from tests.calls.conftest import key_of, quantity
from tests.calls.processes import FlowProcess, environment_of, forked
from tests.calls.room_process import serve_rooms
from tests.calls.test_call import JOIN, SHORT, stood_in
from tests.ports import free_port

RATE = 16_000
SECOND = Line("And do you sell bread as well?", "Yes, we bake it every morning.")
SCRIPT = replace(SHORT, lines=(*SHORT.lines, SECOND))
PATIENCE_SECS = 90.0
TOLD = "Your order is ready."


class Switchboard:
    """The caller, wherever the bot is: what is said goes to the bot that is in the room now."""

    def __init__(self) -> None:
        self.bots: list[ServerConnection] = []
        self.to_say = b""

    async def answer(self, bot: ServerConnection) -> None:
        self.bots.append(bot)
        listening = asyncio.create_task(self.listen(bot))
        now = asyncio.get_running_loop().time
        due = now()
        with suppress(Exception):
            while not listening.done():
                sound, self.to_say = self.to_say[:640], self.to_say[640:]
                await bot.send(encode(Audio(sound.ljust(640, b"\0"), RATE)))
                # By the clock: a sentence with gaps is another sentence.
                due += 0.02
                await asyncio.sleep(due - now())
        await listening

    async def listen(self, bot: ServerConnection) -> None:
        with suppress(Exception):
            async for _ in bot:
                pass

    def say(self, text: str) -> None:
        self.to_say = synthesize(text, sample_rate=RATE, voice=SCRIPT.voice)

    async def hang_up(self) -> None:
        await self.bots[-1].close()


@dataclass
class World:
    """Two processes, a caller and the database."""

    database: Database
    postgres_url: str
    standing: Vendors
    processes: dict[str, FlowProcess]
    caller: Switchboard
    http: httpx.AsyncClient

    async def until(self, thread_id: UUID, is_so: Callable[[Thread], bool]) -> Thread:
        async with asyncio.timeout(PATIENCE_SECS):
            while not is_so(thread := await self.database.get_workflow_thread_data(thread_id)):
                await asyncio.sleep(0.1)
        return thread

    async def said(self, thread_id: UUID, turns: int) -> Thread:
        return await self.until(thread_id, lambda thread: len(thread.transcript) >= turns)

    def holder(self, thread_id: UUID) -> str:
        """Which of the processes has the call."""
        with psycopg.connect(self.postgres_url) as connection:
            found = connection.execute(
                "select claimed_by from workflow_threads where id = %s", [thread_id]
            ).fetchone()
        assert found is not None
        return str(found[0])[0]


@asynccontextmanager
async def world(
    database: Database, postgres_url: str, folder: Path, **variables: str
) -> AsyncIterator[World]:
    vendor, caller = DailySandbox(), Switchboard()
    async with (
        stood_in(SCRIPT) as standing,
        Served(vendor) as url,
        serve_sockets(caller.answer, "127.0.0.1", 0) as board,
        AsyncExitStack() as stack,
    ):
        place = f"ws://127.0.0.1:{board.sockets[0].getsockname()[1]}"
        daily = {"DAILY_API_KEY": dy.API_KEY, "DAILY_API_URL": f"{url}/v1", **variables}
        processes = {
            name: await stack.enter_async_context(
                room_process(standing, postgres_url, folder / name, place, daily, name)
            )
            for name in "ab"
        }
        headers = {"Authorization": f"Bearer {standing.api_key}"}
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=processes["a"].url, headers=headers, trust_env=False)
        )
        yield World(database, postgres_url, standing, processes, caller, http)


@asynccontextmanager
async def room_process(
    standing: Vendors, url: str, folder: Path, place: str, more: dict[str, str], name: str
) -> AsyncIterator[FlowProcess]:
    port = free_port()
    environment = environment_of(standing, url, folder) | {"FLOW_EXECUTOR_ID": name, **more}
    async with forked(serve_rooms, str(port), place, environment=environment, port=port) as process:
        await process.ready()
        yield process
        # Whatever its call is doing: how processes stop is not looked at here.
        await process.killed()


@pytest.mark.parametrize(
    ("end", "holders", "unheld_secs"),
    [(FlowProcess.killed, 1, 4), (FlowProcess.stopped, 2, 0)],
    ids=["killed", "stopped"],
)
async def test_another_process_goes_on_with_the_conversation(
    end: Callable[[FlowProcess], Awaitable[object]],
    holders: int,
    unheld_secs: int,
    database: Database,
    postgres_url: str,
    tmp_path: Path,
) -> None:
    """Of a process that was killed, and of one that was told to stop and gives its call away."""
    quick = {"FLOW_DRAIN_SECS": "0", "FLOW_HEARTBEAT_SECS": "2"}
    async with world(database, postgres_url, tmp_path, **quick) as at:
        at.standing.posthog.flags[COST_CONTROLS] = True
        key_id = await key_of(at.http, database)
        # Whatever is said costs more than this.
        await database.operating.set_budget(key_id, Decimal("0.000001"))
        request: dict[str, Any] = {**JOIN, "transport": {"type": "daily"}}
        answer = await at.http.post("/api/bot/join", json=request, timeout=30)
        assert answer.status_code == 201, answer.text
        thread_id = UUID(answer.json()["workflow_thread_id"])
        await at.said(thread_id, 1)
        at.caller.say(SCRIPT.lines[0].text)
        await at.said(thread_id, 3)
        first = at.holder(thread_id)
        # Any process takes what the bot is to say; the one that has the call says it.
        other = at.processes["b" if first == "a" else "a"]
        order, once = {"text": TOLD}, {"Idempotency-Key": "once"}
        for replayed in (None, "true"):
            say = await at.http.post(
                f"{other.url}/api/bot/{thread_id}/say", json=order, headers=once
            )
            assert (say.status_code, say.json()["status"]) == (202, "taken")
            assert say.headers.get("idempotent-replayed") == replayed
        await at.said(thread_id, 4)
        await end(at.processes[first])
        thread = await at.said(thread_id, 5)
        assert at.holder(thread_id) != first
        assert (thread.status, thread.transcript[4].content) == (Status.IN_CALL, BACK)
        at.caller.say(SECOND.text)
        await at.said(thread_id, 7)
        await at.caller.hang_up()
        thread = await at.until(thread_id, lambda thread: thread.status.is_final)
        rows = await database.get_thread_usage(thread_id)
        asked = [line for line in at.standing.openai.bill.lines if line.kind == "llm"]
        budget = await database.get_budget(key_id)
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "caller_hung_up")
    assert [(turn.role, turn.content) for turn in thread.transcript] == [
        ("assistant", SHORT.greeting),
        ("user", SCRIPT.lines[0].text),
        ("assistant", SCRIPT.lines[0].reply),
        ("assistant", TOLD),
        ("assistant", BACK),
        ("user", SECOND.text),
        ("assistant", SECOND.reply),
    ]
    # The second bot's model was told what the first had heard and said.
    assert asked[1].amounts.prompt_tokens > asked[0].amounts.prompt_tokens + 20
    # It knew from the beginning how the key stands.
    assert asked[1].requested_model == "gpt-4.1-mini"
    # The last seconds of a process that was killed are on its disk still.
    held = [quantity(row, "call_seconds") for row in rows if row["kind"] == "call"]
    assert len(held) == holders
    assert thread.connected_at is not None
    assert thread.ended_at is not None
    whole = Decimal((thread.ended_at - thread.connected_at).total_seconds())
    assert 0 < sum(held) < whole - unheld_secs
    total = sum((Decimal(row["total_cost_usd"]) for row in rows), Decimal(0))
    assert Decimal(thread.usage_stats["total_cost_usd"]) == total > 0
    assert budget is not None
    assert (budget.spent_usd, budget.reserved_usd) == (total, 0)
