"""Whole calls along a flow: the one of the guide."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import yaml

from flow.domain.calls.thread import Status
from flow.sandbox.all_vendors import Vendors, vendors
from flow.sandbox.callers.caller import call
from flow.sandbox.callers.script import AfterBot, Line
from flow.sandbox.openai.chat import Pace
from flow.sandbox.openai.replies import Reply, ToolCall
from flow.sandbox.server import Served
from flow.sandbox.speech.synthesis import recordings
from flow.sandbox.tools import Tool, ToolServer
from tests.calls.conftest import Serve, key_of
from tests.calls.test_call import SHORT
from tests.documents import blocks

RESTAURANT = "Trattoria Luigi"
WANTED = {"people": 2, "time": "18:30"}
TABLE = "I would like a table for tonight."
TIME = "For two people, please."
DONE = "Thank you very much."
CALLER = replace(
    SHORT,
    lines=tuple(Line(text, "", AfterBot(0.5)) for text in (TABLE, TIME, DONE)),
    hang_up=AfterBot(60.0),
)
STEPS: Mapping[str, tuple[str, ToolCall | None]] = {
    "Greet the caller": ("Good evening! Do you want a table?", ToolCall("wants_a_table")),
    "Ask for how many": ("For how many, and when?", ToolCall("book_table", json.dumps(WANTED))),
    "The table is booked for 18:30": ("It is booked. Is that all?", ToolCall("is_done")),
    "Wish the caller": ("Have a good evening.", None),
}
"""What the model says when it is given a task, and what it calls when it is answered."""


def reply(messages: Sequence[Mapping[str, Any]]) -> Reply | None:
    told = [str(message.get("content")) for message in messages]
    if not told[0].startswith(f"You answer the phone of {RESTAURANT}"):
        return None
    at, task = max(
        (at, task) for at, text in enumerate(told) for task in STEPS if text.startswith(task)
    )
    says, calls = STEPS[task]
    is_answered = any(message["role"] == "user" for message in messages[at:])
    return Reply(tool_calls=(calls,)) if is_answered and calls else Reply(says)


@asynccontextmanager
async def stood_in() -> AsyncIterator[Vendors]:
    heard = recordings([line.text for line in CALLER.lines], voice=CALLER.voice)
    pace = Pace(first_token_secs=0.05, token_secs=0.005)
    async with vendors(reply, utterances=heard, pace=pace) as running:
        yield running


def agent_of_the_guide(url: str) -> dict[str, Any]:
    [text] = [one.text for one in blocks("yaml") if one.path.name == "flows.md"]
    agent: dict[str, Any] = yaml.safe_load(text)
    [tool] = agent["bot"]["tools"]
    tool["url"] = f"{url}/tools/book_table"
    return agent


async def test_the_guides_bot_takes_a_reservation_from_node_to_node(serving: Serve) -> None:
    server = ToolServer(
        {"book_table": Tool(lambda _: {"status": "booked", "time": "18:30", "number": "A7"})}
    )
    async with (
        Served(server) as url,
        stood_in() as standing,
        serving(standing, debug=True, webhooks_allow_private=True) as served,
    ):
        key = await key_of(served.http, served.service.database)
        secrets = await served.service.database.webhooks.secrets(key, "whsec_" + "A" * 44)
        server.secrets = secrets.signing
        agent = agent_of_the_guide(url)
        tools = agent["bot"].pop("tools")
        refused = await served.http.post("/api/agents", json=agent)
        agent["tools"] = tools
        stored = await served.http.post("/api/agents", json=agent)
        assert stored.status_code == 201, stored.text
        given = {"restaurant": RESTAURANT}
        join = {"agent": "reservations", "variables": given, "bot": {}, "insights": {}}
        report = await call(served.url, standing.api_key, CALLER, join=join)
        thread = await served.settled(report.workflow_thread_id)
        await served.conserved(thread)
        shown = (await served.http.get(f"/api/threads/{thread.id}")).json()
        asked = [line for line in standing.openai.bill.lines if line.kind == "llm"]
    assert refused.status_code == 422
    fields = [error["field"] for error in refused.json()["errors"]]
    assert "bot.flow.nodes.collect.functions.0.name" in fields
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "bot_hung_up")
    assert [(turn.role, turn.content) for turn in thread.transcript] == [
        ("assistant", "Good evening! Do you want a table?"),
        ("user", TABLE),
        ("assistant", "For how many, and when?"),
        ("user", TIME),
        ("assistant", "It is booked. Is that all?"),
        ("user", DONE),
        ("assistant", f"Thank you for calling {RESTAURANT}."),
        ("assistant", "Have a good evening."),
        ("assistant", "Goodbye!"),
    ]
    (use,) = server.uses
    assert use.arguments == WANTED
    assert [(one["name"], one["outcome"], one["transition_to"]) for one in shown["tool_calls"]] == [
        ("wants_a_table", "ok", "collect"),
        ("book_table", "ok", "confirm"),
        ("is_done", "ok", "end"),
    ]
    assert shown["node"] == "end"
    assert asked
