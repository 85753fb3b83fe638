"""Whole calls whose bot uses tools."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from loguru import logger

from flow.domain.calls.thread import Status
from flow.sandbox.all_vendors import Vendors, vendors
from flow.sandbox.callers.caller import call
from flow.sandbox.callers.script import AfterBot
from flow.sandbox.faults import Fault
from flow.sandbox.openai.chat import Pace
from flow.sandbox.openai.replies import Reply, ToolCall
from flow.sandbox.server import Served
from flow.sandbox.speech.synthesis import recordings
from flow.sandbox.tools import Tool, ToolServer
from tests.calls.conftest import Serve, key_of
from tests.calls.test_call import SHORT

PATIENT = replace(SHORT, hang_up=AfterBot(60.0))
"""A caller who leaves it to the bot to hang up."""
PARAMETERS = {
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
}
FIND = ToolCall("find_booking", json.dumps({"name": "Ada"}))
LAST_WORDS = "We look forward to seeing you. Goodbye."
GOODBYE = ToolCall("end_call", json.dumps({"farewell": LAST_WORDS}))
FILLER = "One moment, please."


def reply(messages: Sequence[Mapping[str, Any]]) -> Reply | None:
    """Looks the booking up for the caller, and hangs up when it has said what there is."""
    if SHORT.system_prompt not in str(messages[0].get("content")):
        return None
    results = [m for m in messages if m.get("role") == "tool"]
    return Reply(tool_calls=(GOODBYE,)) if results else Reply("Let me see.", (FIND,))


@asynccontextmanager
async def stood_in() -> AsyncIterator[Vendors]:
    heard = recordings([line.text for line in SHORT.lines], voice=SHORT.voice)
    pace = Pace(first_token_secs=0.05, token_secs=0.005)
    async with vendors(reply, utterances=heard, pace=pace) as running:
        yield running


@pytest.fixture
def without_pipecats_log() -> Iterator[None]:
    """As in a process of the service, where `tests/calls/test_logs.py` sees to it: Pipecat's own
    log has all that is said, and goes to wherever stderr was when it was first imported."""
    logger.remove()
    yield
    logger.add(sys.stderr)


@pytest.mark.usefixtures("without_pipecats_log")
async def test_a_slow_tool_is_used_spoken_over_and_shown_and_the_bot_hangs_up(
    serving: Serve, capfd: pytest.CaptureFixture[str]
) -> None:
    server = ToolServer({"find_booking": Tool(lambda _: {"time": "quarter past six"})})
    server.faults.add(Fault(kind="delay", delay_secs=4.0))
    async with (
        Served(server) as url,
        stood_in() as standing,
        serving(standing, debug=True, webhooks_allow_private=True) as served,
    ):
        key = await key_of(served.http, served.service.database)
        secrets = await served.service.database.webhooks.secrets(key, "whsec_" + "A" * 44)
        server.secrets = secrets.signing
        tool = {
            "type": "http",
            "name": "find_booking",
            "description": "Finds a booking.",
            "parameters": PARAMETERS,
            "url": f"{url}/tools/find_booking",
            "headers": {"Authorization": "Bearer s3cret"},
        }
        bot = {
            "system_prompt": SHORT.system_prompt,
            "greeting": SHORT.greeting,
            "tools": [tool, {"type": "end_call"}],
        }
        began = time.monotonic()
        report = await call(served.url, standing.api_key, PATIENT, join={"bot": bot})
        lasted = time.monotonic() - began
        thread = await served.settled(report.workflow_thread_id)
        rows = await served.conserved(thread)
        shown = (await served.http.get(f"/api/threads/{thread.id}")).json()
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "bot_hung_up")
    assert [(turn.role, turn.content) for turn in thread.transcript] == [
        ("assistant", SHORT.greeting),
        ("user", SHORT.lines[0].text),
        ("assistant", "Let me see."),
        ("assistant", FILLER),
        ("assistant", LAST_WORDS),
    ]
    (use,) = server.uses
    found, ended = shown["tool_calls"]
    assert (found["id"], found["name"], found["arguments"]) == (
        use.id, "find_booking", {"name": "Ada"},
    )  # fmt: skip
    assert (found["outcome"], found["status"]) == ("ok", 200)
    assert found["result"] == {"result": {"time": "quarter past six"}}
    assert 4.0 <= found["seconds"] < lasted
    assert (ended["name"], ended["outcome"]) == ("end_call", "ok")
    # One generation chooses the tool, one hangs up; none is asked for after that. Of a reply that
    # was begun before the caller's turn was surely over, no tool is used, and it is asked for anew.
    of_bot = [row for row in rows if (row["kind"], row["source"]) == ("llm", "bot")]
    assert len(of_bot) in (2, 3)
    assert "s3cret" not in json.dumps(shown)
    told = repr(standing.posthog.events)
    logged = capfd.readouterr()
    for secret in ("s3cret", "quarter past six", '"Ada"'):
        assert secret not in told
        assert secret not in logged.out + logged.err
