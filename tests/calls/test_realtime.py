"""Whole calls whose bot is one model that hears and speaks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flow.domain.calls.thread import Status
from flow.sandbox.callers.caller import call
from flow.sandbox.callers.script import AfterBot, Interrupt, Line
from flow.sandbox.faults import Fault
from tests.calls.conftest import Serve
from tests.calls.test_call import LONG, SHORT, TALE, stood_in

JOIN: dict[str, Any] = {
    "bot": {
        "system_prompt": SHORT.system_prompt,
        "greeting": SHORT.greeting,
        "realtime": {"provider": "openai", "model": "gpt-realtime", "voice": "marin"},
    }
}


async def test_a_call_is_held_and_accounted_to_the_last_token(serving: Serve) -> None:
    async with stood_in(SHORT) as standing, serving(standing) as served:
        report = await call(served.url, standing.api_key, SHORT, join=JOIN)
        thread = await served.settled(report.workflow_thread_id)
        rows = await served.conserved(thread)
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "caller_hung_up")
    assert [(turn.role, turn.content) for turn in thread.transcript] == [
        ("assistant", SHORT.greeting),
        ("user", SHORT.lines[0].text),
        ("assistant", SHORT.lines[0].reply),
    ]
    of_bot = [row for row in rows if row["source"] == "bot" and row["kind"] != "call"]
    assert sorted((row["kind"], row["model"]) for row in of_bot) == [
        ("llm", "gpt-realtime"),
        ("llm", "gpt-realtime"),
        ("stt", "gpt-4o-mini-transcribe"),
    ]
    assert {row["provenance"] for row in of_bot} == {"reported"}
    assert thread.usage_stats["estimated_events"] == 0
    assert thread.usage_stats["unpriced_events"] == 0
    assert float(thread.usage_stats["cost_breakdown_usd"]["llm_audio"]) > 0


async def test_a_caller_who_interrupts_is_answered_and_what_was_cut_off_is_counted(
    serving: Serve,
) -> None:
    stop = Line("Stop, that is enough.", "Certainly.", Interrupt(2.0, silent_secs=60.0))
    script = replace(LONG, lines=(*LONG.lines, stop), hang_up=AfterBot(0.5))
    async with stood_in(script) as standing, serving(standing) as served:
        report = await call(served.url, standing.api_key, script, join=JOIN)
        thread = await served.settled(report.workflow_thread_id)
        rows = await served.conserved(thread)
    said = [(turn.role, turn.content) for turn in thread.transcript]
    assert said[-2:] == [("user", stop.text), ("assistant", stop.reply)]
    tale = thread.transcript[-3]
    assert tale.interrupted
    assert TALE.startswith(tale.content.removesuffix("."))
    cut = [row for row in rows if row["outcome"] == "interrupted"]
    assert [(row["kind"], row["provenance"]) for row in cut] == [("llm", "reported")]


async def test_a_call_that_ends_in_mid_sentence_is_accounted(serving: Serve) -> None:
    async with stood_in(LONG) as standing, serving(standing) as served:
        report = await call(served.url, standing.api_key, LONG, join=JOIN)
        thread = await served.settled(report.workflow_thread_id)
        rows = await served.conserved(thread)
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "caller_hung_up")
    (cut,) = [row for row in rows if row["outcome"] == "interrupted"]
    assert (cut["kind"], cut["provenance"]) == ("llm", "reported")
    assert thread.transcript[-1].interrupted


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="close", code=1011, route="*/realtime", chunks=6, times=1),
        Fault(kind="status", status=500, route="*/realtime", times=1),
        Fault(kind="failed_response", route="*/realtime", chunks=2, times=1),
    ],
    ids=lambda fault: fault.kind,
)
async def test_a_call_survives_a_vendors_fault_and_is_accounted(
    fault: Fault, serving: Serve
) -> None:
    script = replace(SHORT, patience_secs=8.0)
    async with stood_in(script) as standing, serving(standing) as served:
        standing.openai.faults.add(fault)
        report = await call(served.url, standing.api_key, script, join=JOIN)
        thread = await served.settled(report.workflow_thread_id)
        await served.conserved(thread)
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "caller_hung_up")


async def test_a_call_whose_vendor_refuses_it_ends_with_its_reason(serving: Serve) -> None:
    script = replace(SHORT, patience_secs=60.0)
    async with stood_in(script) as standing, serving(standing) as served:
        standing.openai.faults.add(Fault(kind="status", status=401, route="*/realtime"))
        report = await call(served.url, standing.api_key, script, join=JOIN)
        thread = await served.settled(report.workflow_thread_id)
        rows = await served.conserved(thread)
    assert thread.end_reason == "vendor_failure"
    assert thread.error is not None
    assert (thread.error["service"], thread.error["http_status"]) == ("realtime", 401)
    assert not any(row["lines"] for row in rows if row["kind"] == "llm")
