"""Whole calls whose bot is one model that hears and speaks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from flow.domain.calls.thread import Status, Thread
from flow.sandbox.all_vendors import Vendors
from flow.sandbox.callers.caller import call
from flow.sandbox.callers.conversation import EventKind
from flow.sandbox.callers.script import AfterBot, Interrupt, Line, Script, Unasked
from flow.sandbox.faults import Fault
from tests.calls.conftest import Serve, key_of
from tests.calls.own_bots import OPENING, OWN, by_bot
from tests.calls.test_call import LONG, SHORT, TALE, stood_in

JOIN: dict[str, Any] = {
    "bot": {
        "system_prompt": SHORT.system_prompt,
        "greeting": SHORT.greeting,
        "realtime": {"provider": "openai", "model": "gpt-realtime", "voice": "marin"},
    }
}

SPOKEN_SECS = 1.0
"""Less than it takes to say goodbye."""
GOODBYE = "I have to go now. Goodbye."
MODELS = {
    "openai": JOIN["bot"]["realtime"],
    "google": {"provider": "google", "model": "gemini-3.8-live"},
}
on_each = pytest.mark.parametrize("vendor", MODELS)


def by(vendor: str, **bot: Any) -> dict[str, Any]:
    """The join for a model of this vendor."""
    return {"bot": {**JOIN["bot"], "realtime": MODELS[vendor], **bot}}


@asynccontextmanager
async def all_stood_in(script: Script, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Vendors]:
    """The stand-ins of both vendors; a service reads all but OpenAI's from the environment."""
    async with stood_in(script, ["google"]) as standing:
        for name, value in standing.environment.items():
            monkeypatch.setenv(name, value)
        yield standing


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
    assert_waits_are_measured(thread)


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
    async with stood_in(SHORT) as standing, serving(standing) as served:
        standing.openai.faults.add(Fault(kind="status", status=401, route="*/realtime"))
        report = await call(served.url, standing.api_key, SHORT, join=JOIN)
        thread = await served.settled(report.workflow_thread_id)
        rows = await served.conserved(thread)
    assert thread.end_reason == "vendor_failure"
    assert thread.error is not None
    assert (thread.error["service"], thread.error["http_status"]) == ("realtime", 401)
    assert not any(row["lines"] for row in rows if row["kind"] == "llm")


@on_each
async def test_a_caller_who_speaks_first_is_answered_once(
    vendor: str, serving: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = replace(SHORT.lines[0], when=Unasked(2.0))
    script = replace(SHORT, greeting="", lines=(line,), hang_up=AfterBot(3.0))
    async with all_stood_in(script, monkeypatch) as standing, serving(standing) as served:
        join = by(vendor, greeting=None)
        report = await call(served.url, standing.api_key, script, join=join)
        thread = await served.settled(report.workflow_thread_id)
        rows = await served.conserved(thread)
    said = [(turn.role, turn.content) for turn in thread.transcript]
    assert said == [("user", line.text), ("assistant", line.reply)]
    assert sum(row["kind"] == "llm" and row["source"] == "bot" for row in rows) == 1


@on_each
async def test_a_bot_of_ones_own_has_the_model_begin_and_its_replies_are_measured(
    vendor: str, serving: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = replace(SHORT, greeting="")
    assert script.lines[0].text == OPENING
    async with all_stood_in(script, monkeypatch) as standing, serving(standing, bots=OWN) as served:
        join = by_bot(by(vendor, greeting=None), "begins_by_itself")
        report = await call(served.url, standing.api_key, script, join=join)
        thread = await served.settled(report.workflow_thread_id)
        await served.conserved(thread)
    reply = script.lines[0].reply
    said = [(turn.role, turn.content) for turn in thread.transcript]
    assert said == [("assistant", reply), ("user", OPENING), ("assistant", reply)]
    assert [turn.latency is not None for turn in thread.transcript] == [False, False, True]


async def test_the_wait_for_each_reply_of_gemini_is_measured(
    serving: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with all_stood_in(SHORT, monkeypatch) as standing, serving(standing) as served:
        report = await call(served.url, standing.api_key, SHORT, join=by("google"))
        thread = await served.settled(report.workflow_thread_id)
        await served.conserved(thread)
    assert_waits_are_measured(thread)


def assert_waits_are_measured(thread: Thread) -> None:
    greeting, _, reply = thread.transcript
    assert greeting.latency is None
    assert reply.latency is not None
    assert 0 < reply.latency.total_secs < 30
    assert reply.latency.llm_secs > 0


@pytest.mark.parametrize(
    ("vendor", "greeting", "cut_off"),
    [
        # The caller's words are transcribed, and paid for, while the model answers them.
        pytest.param("openai", None, "interrupted", id="openai-in-mid-answer"),
        pytest.param("openai", TALE, "ok", id="openai-in-mid-sound"),
        pytest.param("google", TALE, "ok", id="google-in-mid-sound"),
    ],
)
async def test_a_goodbye_is_heard_to_its_end_before_the_hang_up(
    vendor: str,
    greeting: str | None,
    cut_off: str,
    serving: Serve,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is said once, in place of what the model is in the middle of saying."""
    token_secs = LONG.token_secs if greeting is None else 0.002
    first = Unasked(1.0) if greeting is None else AfterBot(60.0)
    script = replace(
        LONG,
        greeting=greeting or "",
        lines=(replace(LONG.lines[0], when=first),),
        token_secs=token_secs,
        hang_up=AfterBot(60.0),
    )
    known = {"products_file": taking_leave(tmp_path)}
    async with all_stood_in(script, monkeypatch) as standing, serving(standing, **known) as served:
        key_id = await key_of(served.http, served.service.database)
        await served.service.database.operating.set_budget(key_id, Decimal("0.000001"))
        join = by(vendor, greeting=greeting)
        report = await call(served.url, standing.api_key, script, join=join)
        thread = await served.settled(report.workflow_thread_id)
        rows = await served.conserved(thread)
    assert (report.ended_by, thread.end_reason) == ("service", "budget_exceeded")
    assert thread.error is None
    said = [turn for turn in thread.transcript if turn.role == "assistant"]
    assert (said[-1].content, said[-1].interrupted) == (GOODBYE, False)
    assert all(turn.interrupted and GOODBYE not in turn.content for turn in said[:-1])
    heard = {kind: [e.at_secs for e in report.events if e.kind is kind] for kind in EventKind}
    cut_at = heard[EventKind.INTERRUPTION][-1]
    begun_at = next((at for at in heard[EventKind.BOT_STARTED] if at >= cut_at), cut_at)
    assert heard[EventKind.CLOSED][-1] - begun_at > SPOKEN_SECS
    outcomes = [row["outcome"] for row in rows if row["kind"] == "llm" and row["source"] == "bot"]
    assert outcomes == [cut_off, "ok"]


@pytest.mark.parametrize(
    ("settings", "bot", "part"),
    [
        ({}, {}, "tts"),
        ({}, {"realtime": {}}, "realtime"),
        ({"tts_provider": "deepgram", "tts_model": "aura-2"}, {}, "tts"),
        (
            {"realtime_provider": "google", "realtime_model": "gemini-3.8-live"},
            {"realtime": {}},
            "realtime",
        ),
    ],
)
async def test_the_usual_voice_is_not_asked_of_a_vendor_that_does_not_have_it(
    settings: dict[str, str],
    bot: dict[str, Any],
    part: str,
    serving: Serve,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DEEPGRAM_API_KEY", "a key")
    async with all_stood_in(SHORT, monkeypatch) as at, serving(at, **settings) as served:
        answer = await served.http.post("/api/bot/join", json={"bot": bot})
        thread_id = UUID(answer.json()["workflow_thread_id"])
        thread = await served.service.database.get_workflow_thread_data(thread_id)
    chosen = getattr(thread.join.bot, part)
    assert chosen.voice == ("alloy" if chosen.provider == "openai" else None)


def taking_leave(folder: Path) -> Path:
    """Products of which one has its bot say goodbye when a budget is exceeded."""
    path = folder / "products.toml"
    path.write_text(
        f"""
        [voice_bot]
        billable = true
        on_exceeded = "wrap_up"
        wrap_up_secs = 60
        goodbye = "{GOODBYE}"
        """
    )
    return path
