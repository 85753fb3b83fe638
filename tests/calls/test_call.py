"""Whole calls through every real part: joined, talked, ended in many ways, and accounted."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from structlog.testing import capture_logs

from flow.domain.calls.thread import Status, Thread
from flow.sandbox.all_vendors import Vendors, vendors
from flow.sandbox.callers.caller import call
from flow.sandbox.callers.script import AfterBot, Insights, Interrupt, Line, Script, Unasked
from flow.sandbox.faults import Fault
from flow.sandbox.openai.chat import Pace
from flow.sandbox.posthog.events import Event
from flow.sandbox.speech.synthesis import recordings
from tests.calls.conftest import Serve, quantity
from tests.calls.own_bots import OWN, by_bot, by_each_bot

NO_INSIGHTS = Insights("", {"type": "object"}, {})
SOON = AfterBot(0.5)
SHORT = Script(
    system_prompt="You work at a small shop.",
    greeting="Hello!",
    lines=(Line("Hello, are you open today?", "Yes, we are open until six.", SOON),),
    insights=NO_INSIGHTS,
    hang_up=SOON,
    token_secs=0.005,
    # A bot that says nothing for shorter is on a machine with other work.
    patience_secs=60.0,
)
TALE = " ".join(f"On day {n} we went up the river." for n in range(60))
LONG = replace(
    SHORT,
    lines=(Line("Please tell me a very long story.", TALE, SOON),),
    # The tale does not end: silence is a machine with other work.
    hang_up=Interrupt(4.0, silent_secs=60.0),
    token_secs=0.03,
)
INSISTENT = replace(
    SHORT,
    lines=(replace(SHORT.lines[0], when=Unasked(4.0)),) * 12,
    hang_up=Unasked(60.0),
)
"""A caller who goes on talking to a bot that does not answer, and leaves it to that to hang up."""
JOIN: dict[str, Any] = {"bot": {"system_prompt": SHORT.system_prompt, "greeting": SHORT.greeting}}


@asynccontextmanager
async def stood_in(script: Script, models: Collection[str] = ()) -> AsyncIterator[Vendors]:
    def reply(messages: Any) -> str | None:
        if SHORT.system_prompt not in str(messages[0].get("content")):
            return None
        said = [str(m.get("content")) for m in messages if m.get("role") == "user"]
        return script.reply_to(said[-1]) if said else None

    heard = recordings([line.text for line in script.lines], voice=script.voice)
    pace = Pace(first_token_secs=0.05, token_secs=script.token_secs)
    async with vendors(reply, utterances=heard, pace=pace, models=models) as running:
        yield running


async def test_a_call_is_held_and_accounted_to_the_last_token(serving: Serve) -> None:
    async with stood_in(SHORT) as standing, serving(standing) as served:
        report = await call(served.url, standing.api_key, SHORT, join=JOIN)
        thread = await served.settled(report.workflow_thread_id)
        rows = await served.conserved(thread)
        attributed = [dict(line.headers) for line in standing.openai.bill.lines]
    assert thread.status is Status.COMPLETED
    assert thread.end_reason == "caller_hung_up"
    assert [(turn.role, turn.content) for turn in thread.transcript] == [
        ("assistant", SHORT.greeting),
        ("user", SHORT.lines[0].text),
        ("assistant", SHORT.lines[0].reply),
    ]
    greeting, _, reply = thread.transcript
    assert greeting.latency is None
    assert reply.latency is not None
    assert all(secs >= 0 for secs in reply.latency.parts.values())
    # The silence alone that ends a turn takes longer than the first of these.
    assert 0.2 < reply.latency.turn_detection_secs < reply.latency.total_secs < 30
    assert thread.insights is not None
    assert thread.insights["status"] == "ok"
    assert {row["kind"] for row in rows} == {"llm", "tts", "stt", "call"}
    assert {row["source"] for row in rows} == {"bot", "insights"}
    assert thread.usage_stats["llm_calls"] == 2
    assert thread.usage_stats["estimated_events"] == 0
    assert thread.usage_stats["unpriced_events"] == 0
    for headers in attributed:
        assert headers["x-posthog-property-workflow_thread_id"] == str(thread.id)
        assert headers["x-posthog-property-team_id"] == thread.team_id
        assert headers["x-posthog-property-ai_product"] == thread.product
        assert headers["x-posthog-property-api_key_id"] == str(thread.api_key_id)
    await _posthog_agrees(standing.posthog.unique_events, thread, rows)


async def _posthog_agrees(events: list[Event], thread: Thread, rows: list[dict[str, Any]]) -> None:
    """One generation an event of the ledger, with its cost; one trace; not a word that was said."""
    generations = {e.uuid: e.properties for e in events if e.name == "$ai_generation"}
    assert set(generations) == {row["id"] for row in rows if row["kind"] != "call"}
    for row in rows:
        if row["kind"] != "call":
            properties = generations[row["id"]]
            assert properties["$ai_total_cost_usd"] == pytest.approx(float(row["total_cost_usd"]))
            assert properties["$ai_billable"] is True
            assert properties["ai_product"] == thread.product
            assert properties["$ai_trace_id"] == str(thread.id)
    assert [e.name for e in events].count("$ai_trace") == 1
    (person,) = [e for e in events if e.name == "$set"]
    assert person.distinct_id == str(thread.api_key_id)
    assert person.properties["$set"]["team_id"] == thread.team_id
    everything = str([event.to_json() for event in events])
    assert "open until six" not in everything
    assert SHORT.system_prompt not in everything


@pytest.mark.parametrize("hangup", ["close", "abort", "end_api"])
async def test_a_call_that_ends_in_mid_sentence_is_accounted(
    hangup: Literal["close", "abort", "end_api"], serving: Serve
) -> None:
    async with stood_in(LONG) as standing, serving(standing) as served:
        report = await call(served.url, standing.api_key, LONG, join=JOIN, hangup=hangup)
        thread = await served.settled(report.workflow_thread_id)
        rows = await served.conserved(thread)
    assert thread.status is Status.COMPLETED
    assert thread.end_reason == ("ended_by_api" if hangup == "end_api" else "caller_hung_up")
    if hangup == "end_api":
        assert report.closed == "1000 ended_by_api"
    (generation,) = [r for r in rows if r["kind"] == "llm" and r["source"] == "bot"]
    assert (generation["provenance"], generation["outcome"]) == ("estimated", "interrupted")
    assert thread.usage_stats["interrupted_generations"] == 1
    assert [turn.role for turn in thread.transcript] == ["assistant", "user", "assistant"]
    assert thread.transcript[-1].interrupted


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="no_usage", route="*/chat/completions", times=1),
        Fault(kind="cumulative_usage", route="*/chat/completions"),
        Fault(kind="status", status=429, times=1, headers={"retry-after-ms": "1"}),
        Fault(kind="status", status=500, route="*/speech", times=1),
        Fault(kind="cut", route="*/chat/completions", chunks=4, times=1),
        Fault(kind="malformed_chunk", route="*/chat/completions", chunks=4, times=1),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.route.rpartition('/')[2]}",
)
async def test_a_call_survives_a_vendors_fault_and_is_accounted(
    fault: Fault, serving: Serve
) -> None:
    script = replace(SHORT, patience_secs=4.0)
    async with stood_in(script) as standing, serving(standing) as served:
        standing.openai.faults.add(fault)
        report = await call(served.url, standing.api_key, script, join=JOIN)
        thread = await served.settled(report.workflow_thread_id)
        await served.conserved(thread)
    assert thread.status is Status.COMPLETED


@pytest.mark.parametrize(
    ("service", "route", "kind", "error_type", "status"),
    [
        ("stt", "*/transcriptions", "drop", "RemoteProtocolError", None),
        ("tts", "*/speech", "drop", "RemoteProtocolError", None),
        ("tts", "*/speech", "status", "InternalServerError", 500),
    ],
)
async def test_of_vendors_that_fail_the_first_is_named_with_type_and_status(
    service: str, route: str, kind: str, error_type: str, status: int | None, serving: Serve
) -> None:
    """The language model fails as well, later."""
    async with stood_in(INSISTENT) as standing, serving(standing) as served:
        fault = {"status": {"status": 500}}.get(kind, {})
        standing.openai.faults.add(Fault(kind=kind, route=route, **fault))
        standing.openai.faults.add(Fault(kind="status", status=500, route="*/chat/completions"))
        with capture_logs() as logged:
            report = await call(served.url, standing.api_key, INSISTENT, join=JOIN)
        thread = await served.settled(report.workflow_thread_id)
        await served.conserved(thread)
    assert thread.error is not None
    found = {name: thread.error[name] for name in ("service", "provider", "http_status")}
    assert found == {"service": service, "provider": "openai", "http_status": status}
    assert thread.error["error_type"] == error_type
    assert report.closed == f"1011 vendor_failure: {service}"
    failures = [line for line in logged if line["event"] == "service_failed"]
    assert failures[0]["service"] == service
    assert all(line["error_type"] for line in failures)


async def test_a_vendor_that_refuses_the_key_ends_the_call_as_failed_and_accounted(
    serving: Serve,
) -> None:
    async with stood_in(SHORT) as standing, serving(standing) as served:
        standing.openai.faults.add(Fault(kind="status", status=401, route="*/chat/completions"))
        report = await call(served.url, standing.api_key, SHORT, join=JOIN)
        thread = await served.settled(report.workflow_thread_id)
        rows = await served.conserved(thread)
    assert report.ended_by == "service"
    assert thread.status is Status.FAILED
    assert thread.error is not None
    assert thread.error == {
        "code": "vendor_failure",
        "service": "llm",
        "provider": "openai",
        "error_type": "AuthenticationError",
        "http_status": 401,
        "message": "the llm service failed: AuthenticationError, HTTP 401",
    }
    assert report.closed == "1011 vendor_failure: llm"
    failed = [row for row in rows if row["outcome"] == "error"]
    assert [row["failure"]["http_status"] for row in failed] == [401]
    events = [e for e in standing.posthog.unique_events if e.name == "$ai_generation"]
    errors = [e for e in events if e.properties["$ai_is_error"]]
    assert [e.properties["$ai_billable"] for e in errors] == [True]


PRODUCTS = """
[receptionist]
aliases = ["front_desk"]
billable = {billable}

[insights]
calls = false
billable = true
"""


@pytest.mark.parametrize("billable", [True, False])
async def test_whether_work_is_billable_is_with_every_event_whatever_became_of_it(
    billable: bool, serving: Serve, tmp_path: Path
) -> None:
    """A product under its alias: success, failure and interruption, at PostHog and a gateway."""
    products = tmp_path / "products.toml"
    products.write_text(PRODUCTS.format(billable=str(billable).lower()))
    refused = Fault(
        kind="status", status=429, route="*/chat/completions", times=1, headers={"retry-after": "0"}
    )
    async with stood_in(LONG) as standing, serving(standing, products_file=products) as served:
        standing.openai.faults.add(refused)
        spoofed = {"$ai_billable": "maybe", "ai_product": "mine", "team_id": "theirs"}
        join = {**JOIN, "product": "front_desk", "metadata": spoofed}
        report = await call(served.url, standing.api_key, LONG, join=join, hangup="close")
        thread = await served.settled(report.workflow_thread_id)
        rows = await served.conserved(thread)
        attributed = [dict(line.headers) for line in standing.openai.bill.lines]
    assert (thread.product, thread.billable) == ("receptionist", billable)
    assert {row["outcome"] for row in rows} == {"ok", "interrupted", "error"}
    assert {row["source"] for row in rows} == {"bot", "insights"}
    assert {row["billable"] for row in rows} == {billable}
    events = [e for e in standing.posthog.unique_events if e.name == "$ai_generation"]
    assert {e.uuid for e in events} == {row["id"] for row in rows if row["kind"] != "call"}
    of_call = [e.properties for e in standing.posthog.unique_events if e.name.startswith("$ai_")]
    told = {(p["$ai_billable"], p["ai_product"], p["team_id"]) for p in of_call}
    assert told == {(billable, "receptionist", thread.team_id)}
    headers = {h["x-posthog-property-$ai_billable"] for h in attributed}
    assert headers == {str(billable).lower()}


@by_each_bot
async def test_a_call_ends_after_its_longest_duration(bot: str | None, serving: Serve) -> None:
    silent = replace(SHORT, greeting="", lines=(), hang_up=AfterBot(60), patience_secs=60)
    join = by_bot({"max_duration_secs": 5}, bot)
    async with stood_in(silent) as standing, serving(standing, bots=OWN) as served:
        began = time.monotonic()
        report = await call(served.url, standing.api_key, silent, join=join)
        lasted = time.monotonic() - began
        thread = await served.settled(report.workflow_thread_id)
        rows = await served.conserved(thread)
    assert report.ended_by == "service"
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "max_duration")
    assert report.closed == "4001 max_duration"
    assert thread.insights is not None
    assert thread.insights["status"] == "skipped"
    assert [row["kind"] for row in rows] == ["call"]
    assert 4 < quantity(rows[0], "call_seconds") < lasted


@by_each_bot
async def test_a_caller_who_says_nothing_is_hung_up_on(bot: str | None, serving: Serve) -> None:
    silent = replace(SHORT, greeting="", lines=(), hang_up=AfterBot(60), patience_secs=60)
    known = {"idle_timeout_secs": 2, "bots": OWN}
    async with stood_in(silent) as standing, serving(standing, **known) as served:
        report = await call(served.url, standing.api_key, silent, join=by_bot({}, bot))
        thread = await served.settled(report.workflow_thread_id)
        await served.conserved(thread)
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "idle_timeout")
    assert report.closed == "4002 idle_timeout"


async def test_no_other_party_being_down_breaks_a_call(serving: Serve) -> None:
    async with stood_in(SHORT) as standing:
        standing.posthog.faults.add(Fault(kind="drop"))
        async with serving(standing) as served:
            report = await call(served.url, standing.api_key, SHORT, join=JOIN)
            standing.unkey.faults.add(Fault(kind="status", status=500))
            thread = await served.settled(report.workflow_thread_id)
            await served.conserved(thread)
    assert thread.status is Status.COMPLETED
    assert len(thread.transcript) == 3


async def test_without_posthog_the_account_is_the_same(serving: Serve) -> None:
    async with stood_in(SHORT) as standing, serving(standing, posthog_api_key=None) as served:
        report = await call(served.url, standing.api_key, SHORT, join=JOIN)
        thread = await served.settled(report.workflow_thread_id)
        await served.conserved(thread)
    assert thread.status is Status.COMPLETED
    assert thread.insights is not None
    assert thread.insights["status"] == "ok"
    assert standing.posthog.events == []


async def test_draining_an_interrupted_stream_gives_the_vendors_own_numbers(
    serving: Serve,
) -> None:
    script = replace(LONG, token_secs=0.01)
    async with (
        stood_in(script) as standing,
        serving(standing, interrupted_streams="drain") as served,
    ):
        report = await call(served.url, standing.api_key, script, join=JOIN)
        thread = await served.settled(report.workflow_thread_id)
        rows = await served.conserved(thread)
    (generation,) = [r for r in rows if r["kind"] == "llm" and r["source"] == "bot"]
    assert generation["provenance"] == "reported"


async def test_nobody_can_connect_to_a_call_twice(serving: Serve) -> None:
    async with stood_in(SHORT) as standing, serving(standing) as served:
        joined = (await served.http.post("/api/bot/join", json=JOIN)).json()
        from websockets.asyncio.client import connect
        from websockets.exceptions import InvalidStatus

        url = joined["connection"]["url"]
        async with connect(url, proxy=None):
            with pytest.raises(InvalidStatus):
                async with connect(url, proxy=None):
                    pass
        with pytest.raises(InvalidStatus):
            async with connect(url, proxy=None):
                pass
