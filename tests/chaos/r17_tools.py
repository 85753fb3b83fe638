"""R17: a tool's server fails in every way it can, and callers interrupt at any moment."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flow.db.database import Database
from flow.domain.calls.thread import Status, Thread
from flow.domain.calls.tool_call import ToolOutcome
from flow.sandbox.all_vendors import Vendors, vendors
from flow.sandbox.callers.script import AfterBot, Interrupt, Line, Script
from flow.sandbox.faults import Fault
from flow.sandbox.openai.chat import Pace
from flow.sandbox.openai.replies import Reply, ToolCall
from flow.sandbox.server import Served
from flow.sandbox.speech.synthesis import recordings
from flow.sandbox.stand_in import StandIn
from flow.sandbox.tools import Tool, ToolServer
from tests.calls.test_call import SHORT
from tests.chaos.conservation import conserved
from tests.chaos.experiment import Findings, Scale
from tests.chaos.world import Caller, World, customer

FAULT = "a tool's server is slow, wrong, huge, redirecting, private or broken; callers interrupt"
LONGEST_SECS = 1800.0
LONGEST_SHORT_SECS = 180.0

SETTLE_SECS = 60.0
LONGEST_CALL_SECS = 60.0
IN_SHORT = 4
INTERRUPTIONS = 24
TIMEOUT_SECS = 3.0
ANSWER = "Your table is booked for six, and we are looking forward to seeing you and your friends."
BOOK = ToolCall("book", json.dumps({"name": "Ada"}))
STOP = "Stop, that is enough."
PRIVATE = (
    "https://127.0.0.1/book",
    "https://10.0.0.1/book",
    "https://[::1]/book",
    "https://169.254.169.254/latest/meta-data",
    "https://metadata.internal/book",
    "https://2130706433/book",
    "http://tools.example.com/book",
)


@dataclass(frozen=True, slots=True)
class Round:
    """One call with a fault of the tool's server, and perhaps an interruption.

    ``outcomes`` are those that the use may have, where it comes to one.
    """

    name: str
    faults: Sequence[Fault] = ()
    answer: Any = "booked"
    outcomes: frozenset[str] = frozenset({"failed"})
    interrupt: float | None = None


def reply(messages: Sequence[Mapping[str, Any]]) -> Reply | None:
    """Books for the caller once in a conversation, and says what came of it."""
    if SHORT.system_prompt not in str(messages[0].get("content")):
        return None
    said = [str(m.get("content")) for m in messages if m.get("role") == "user"]
    if said and "stop" in said[-1].lower():
        return Reply("Certainly.")
    is_done = any(m.get("role") == "tool" or m.get("tool_calls") for m in messages)
    return Reply(ANSWER) if is_done else Reply("Let me see.", (BOOK,))


class Trap(StandIn):
    """Where nobody may be led: it counts who comes."""

    def __init__(self) -> None:
        self.came = 0
        super().__init__([Route("/{path:path}", self._caught)], lambda *_: Response())

    async def _caught(self, _request: Request) -> Response:
        self.came += 1
        return Response(b"{}")


async def run(world: World, scale: Scale, found: Findings) -> None:
    """One call a round, one after the other, with one tool server for all of them."""
    chance, trap = scale.random(), Trap()
    server = ToolServer({"book": Tool(lambda _: "booked")})
    async with Served(trap) as trap_url, Served(server) as url, _stood_in() as standing:
        rounds = [*_broken(trap_url), *_interrupted(chance)]
        if scale.short:
            rounds = chance.sample(rounds, IN_SHORT)
        settings = {"FLOW_DEBUG": "true", "FLOW_WEBHOOKS_ALLOW_PRIVATE": "true"}
        async with (
            world.host(standing, **settings) as host,
            world.postgres.database() as database,
        ):
            wrong = [
                f"{one.name}: {problem}"
                for one in rounds
                for problem in await _held(one, host.url, url, standing, server, database)
            ]
            found.none(f"of {len(rounds)} calls, those in which something was not right", wrong)
            often = Counter(use.id for use in server.uses)
            found.none("uses whose effect was doubled", [id_ for id_, n in often.items() if n > 1])
            found.holds("requests led to another server", 0, trap.came)
            await conserved(found, world.postgres, standing, [host.folder])
        async with world.host(standing, name="strict") as strict:
            found.none("private tools let in", await _let_in(strict.url, standing))


def _broken(trap_url: str) -> list[Round]:
    to_trap = Response(status_code=307, headers={"location": f"{trap_url}/book"})
    late, failed = frozenset({"timeout"}), frozenset({"failed"})
    return [
        Round("slow", [Fault(kind="delay", delay_secs=2.0)], outcomes=frozenset({"ok"})),
        Round("never answers", [Fault(kind="hang")], outcomes=late),
        Round("stalls", [Fault(kind="stall", chunks=1)], outcomes=late),
        Round("refuses", [Fault(kind="status", status=500)]),
        Round("overloaded", [Fault(kind="status", status=503)]),
        Round("drops", [Fault(kind="drop")]),
        Round("half-closed", [Fault(kind="cut", chunks=1)]),
        Round("lost after it was done", [Fault(kind="cut", chunks=0)]),
        Round("malformed", [Fault(kind="malformed")]),
        Round("huge", answer="x" * 2_000_000, outcomes=failed),
        Round("deep", answer=Response("[" * 40_000), outcomes=failed),
        Round("no JSON", answer=Response("<html>"), outcomes=failed),
        Round("redirecting", answer=to_trap, outcomes=failed),
        Round("empty", answer=Response(status_code=204), outcomes=frozenset({"ok"})),
    ]


def _interrupted(chance: Random) -> list[Round]:
    """Callers who speak into what the bot says before, while and after a tool is used."""
    return [
        Round(
            f"interrupted, round {number}",
            [Fault(kind="delay", delay_secs=round(chance.uniform(0.0, 2.5), 2))],
            outcomes=frozenset({"ok"}),
            interrupt=round(chance.uniform(0.1, 3.0), 2),
        )
        for number in range(INTERRUPTIONS)
    ]


def _stood_in() -> Any:
    heard = recordings([SHORT.lines[0].text, STOP], voice=SHORT.voice)
    return vendors(reply, utterances=heard, pace=Pace(first_token_secs=0.05, token_secs=0.01))


def _script(one: Round) -> Script:
    lines = SHORT.lines
    if one.interrupt is not None:
        lines = (*lines, Line(STOP, "Certainly.", Interrupt(one.interrupt, silent_secs=6.0)))
    return replace(SHORT, lines=lines, hang_up=AfterBot(4.0), patience_secs=12.0)


async def _held(
    one: Round, url: str, tool_url: str, standing: Vendors, server: ToolServer, database: Database
) -> list[str]:
    """What was not right in the round's call."""
    server.faults.add(*one.faults)
    server.tools["book"] = Tool(lambda _: one.answer)
    before = len(server.uses)
    tool = {
        "type": "http",
        "name": "book",
        "description": "Books a table.",
        "url": f"{tool_url}/tools/book",
        "timeout_secs": TIMEOUT_SECS,
    }
    bot = {"system_prompt": SHORT.system_prompt, "greeting": SHORT.greeting, "tools": [tool]}
    caller = await Caller().call(
        url, standing, _script(one), join={"bot": bot}, time_limit_secs=LONGEST_CALL_SECS
    )
    try:
        if caller.thread_id is None:
            return [f"no thread: {caller.refusal or caller.failure}"]
        thread = await _settled(database, caller.thread_id)
    finally:
        server.faults.clear()
    return [*_unclean(thread, caller), *_misused(one, thread, len(server.uses) - before)]


def _unclean(thread: Thread, caller: Caller) -> list[str]:
    wrong = [caller.failure] if caller.failure else []
    if thread.status is not Status.COMPLETED or thread.error is not None:
        wrong.append(f"is {thread.status}: {thread.error}")
    return wrong


def _misused(one: Round, thread: Thread, requests: int) -> list[str]:
    """What does not fit about the uses of the tool in a call whose model asks for one."""
    outcomes = [call.outcome for call in thread.tool_calls]
    wrong = []
    # A caller who is quick enough stops the model before it has asked for the tool.
    least = 1 if one.interrupt is None else 0
    if not least <= len(outcomes) <= 1 or requests > len(outcomes):
        wrong.append(f"{len(outcomes)} uses, {requests} requests")
    if not {*outcomes} <= {*map(ToolOutcome, one.outcomes)}:
        wrong.append(f"ended as {outcomes}")
    said = [turn.content for turn in thread.transcript if turn.role == "assistant"]
    if one.interrupt is None and ANSWER not in said:
        wrong.append("nothing was said of it")
    return wrong


async def _settled(database: Database, thread_id: str) -> Thread:
    async with asyncio.timeout(SETTLE_SECS):
        while True:
            thread = await database.get_workflow_thread_data(UUID(thread_id))
            if thread.status.is_final:
                return thread
            await asyncio.sleep(0.1)


async def _let_in(url: str, standing: Vendors) -> list[str]:
    """Those of the private addresses that the service takes for a tool's."""
    taken = []
    async with customer(url, standing) as http:
        for address in PRIVATE:
            for kind in ("http", "mcp"):
                named = {"name": "book", "description": "Books."} if kind == "http" else {}
                tool = {"type": kind, "url": address, **named}
                answer = await http.post("/api/bot/join", json={"bot": {"tools": [tool]}})
                if answer.status_code != 422:
                    taken.append(f"{kind} {address}: {answer.status_code}")
    return taken
