"""Whole calls by vendors whose services stream over WebSockets, and by other vendors' models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flow.domain.calls.thread import Status
from flow.sandbox.callers.caller import call
from flow.sandbox.callers.script import AfterBot, Interrupt
from flow.sandbox.faults import Fault
from tests.calls.conftest import Serve, Serving, key_of
from tests.calls.test_call import INSISTENT, JOIN, LONG, SHORT, stood_in
from tests.calls.test_twilio import BY_PHONE, on_the_line

WRAPS_UP = """
[voice_bot]
billable = true
on_exceeded = "wrap_up"
wrap_up_secs = 60
goodbye = "I have to go now. Goodbye."
"""
ROUTES = {
    ("deepgram", "stt"): "*/listen",
    ("deepgram", "tts"): "*/speak",
    ("cartesia", "stt"): "*/stt/*",
    ("cartesia", "tts"): "*/tts/*",
    ("elevenlabs", "stt"): "*/speech-to-text/*",
    ("elevenlabs", "tts"): "*/text-to-*",
}
"""By vendor and part, where its WebSocket is."""


@dataclass(frozen=True, slots=True)
class Stack:
    """What a bot is made of, as joins name it: ``vendor/model``."""

    stt: str
    llm: str
    tts: str
    api: str = "chat"

    def __str__(self) -> str:
        return "-".join(name.partition("/")[2] for name in (self.stt, self.llm, self.tts))

    def vendor(self, part: str) -> str:
        return str(getattr(self, part)).partition("/")[0]

    @property
    def vendors(self) -> set[str]:
        return {self.vendor(part) for part in ("stt", "llm", "tts")}

    def join(self, join: dict[str, Any] = JOIN) -> dict[str, Any]:
        bot = dict(join["bot"])
        for part in ("stt", "llm", "tts"):
            provider, _, model = str(getattr(self, part)).partition("/")
            bot[part] = {"provider": provider, "model": model}
        bot["llm"]["api"] = self.api
        return {**join, "bot": bot}


NOVA = Stack("deepgram/nova-3", "anthropic/claude-haiku-4-5", "deepgram/aura-2")
FLUX = Stack("deepgram/flux-general-en", "google/gemini-2.5-flash", "cartesia/sonic-3")
SCRIBE = Stack("elevenlabs/scribe_v2_realtime", "azure/gpt-4.1", "elevenlabs/eleven_flash_v2_5")
WHISPER = Stack(
    "cartesia/ink-whisper", "openai/gpt-4.1", "elevenlabs/eleven_v3_conversational", "responses"
)
INK = Stack("cartesia/ink-2", "openai/gpt-4.1-mini", "cartesia/sonic-3")
STACKS = (NOVA, FLUX, SCRIBE, WHISPER, INK)
by_each_stack = pytest.mark.parametrize("stack", STACKS, ids=str)
# What each socket does by itself is in the contract of the vendors; these are whole calls.
REFUSED = [(NOVA, "stt"), (SCRIBE, "stt"), (INK, "tts")]
GONE = [(FLUX, "stt"), (WHISPER, "tts")]


def socket_of(stack: Stack, part: str) -> str:
    return ROUTES[stack.vendor(part), part]


async def budgeted(served: Serving, cap_usd: str) -> None:
    key = await key_of(served.http, served.service.database)
    await served.service.database.operating.set_budget(key, Decimal(cap_usd))


async def reserved_usd(served: Serving, thread: Any) -> Decimal:
    budget = await served.service.database.get_budget(thread.api_key_id)
    assert budget is not None
    return budget.reserved_usd


@pytest.mark.parametrize("stack", [FLUX, SCRIBE, INK], ids=str)
async def test_a_caller_who_hangs_up_in_mid_sentence_pays_what_the_vendors_bill(
    stack: Stack, serving: Serve
) -> None:
    async with stood_in(LONG, stack.vendors) as standing, serving(standing) as served:
        report = await call(served.url, standing.api_key, LONG, join=stack.join(), hangup="abort")
        thread = await served.settled(report.workflow_thread_id)
        rows = await served.conserved(thread)
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "caller_hung_up")
    assert thread.insights is not None
    assert thread.insights["status"] == "ok"
    assert {row["kind"] for row in rows} == {"llm", "tts", "stt", "call"}
    assert thread.usage_stats["unpriced_events"] == 0


@by_each_stack
async def test_an_interrupted_reply_and_the_next_one_cost_what_the_vendors_bill(
    stack: Stack, serving: Serve
) -> None:
    """In signs that vendors count each in its own way, if they are not careful."""
    tale = " ".join(f"On day {n} we went up \U0001f600 the <river> & more." for n in range(30))
    script = replace(
        LONG,
        lines=(
            replace(LONG.lines[0], reply=tale),
            replace(SHORT.lines[0], when=Interrupt(3.0, 60)),
        ),
        hang_up=AfterBot(0.5),
        token_secs=0.12,
    )
    async with stood_in(script, stack.vendors) as standing, serving(standing) as served:
        report = await call(served.url, standing.api_key, script, join=stack.join())
        thread = await served.settled(report.workflow_thread_id)
        await served.conserved(thread)
    assert thread.usage_stats["interrupted_generations"] == 1
    assert [turn.interrupted for turn in thread.transcript if turn.role == "assistant"] == [
        False,
        True,
        False,
    ]


@pytest.mark.parametrize("stack", [NOVA, SCRIBE, INK], ids=str)
async def test_a_telephone_call_is_accounted_at_its_own_sample_rate(
    stack: Stack, serving: Serve
) -> None:
    async with stood_in(SHORT, stack.vendors) as standing, on_the_line(serving, standing) as line:
        report = await call(
            line.served.url,
            standing.api_key,
            SHORT,
            join=stack.join(BY_PHONE),
            carrier=line.carrier,
        )
        thread = await line.served.settled(report.workflow_thread_id)
        await line.served.conserved(thread)
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "caller_hung_up")
    assert [turn.role for turn in thread.transcript] == ["assistant", "user", "assistant"]
    assert thread.usage_stats["estimated_events"] == 0
    assert thread.usage_stats["unpriced_events"] == 0


@pytest.mark.parametrize("stack", [NOVA, SCRIBE], ids=str)
async def test_each_voice_takes_leave_when_the_budget_is_exceeded(
    stack: Stack, serving: Serve, tmp_path: Path
) -> None:
    products = tmp_path / "products.toml"
    products.write_text(WRAPS_UP)
    long = replace(LONG, hang_up=AfterBot(30.0))
    async with (
        stood_in(long, stack.vendors) as standing,
        serving(standing, products_file=products) as served,
    ):
        await budgeted(served, "0.000001")
        report = await call(served.url, standing.api_key, long, join=stack.join())
        thread = await served.settled(report.workflow_thread_id)
        await served.conserved(thread)
        assert await reserved_usd(served, thread) == 0
    assert (report.ended_by, thread.end_reason) == ("service", "budget_exceeded")
    assert (thread.status, thread.error) == (Status.COMPLETED, None)
    assert thread.transcript[-1].content.endswith("Goodbye.")


@pytest.mark.parametrize(("stack", "part"), REFUSED, ids=str)
async def test_a_key_that_a_vendor_refuses_ends_the_call_and_is_named(
    stack: Stack, part: str, serving: Serve
) -> None:
    async with stood_in(SHORT, stack.vendors) as standing, serving(standing) as served:
        await budgeted(served, "10")
        refusal = Fault(kind="status", status=401, route=socket_of(stack, part))
        standing.models[stack.vendor(part)].faults.add(refusal)
        report = await call(served.url, standing.api_key, SHORT, join=stack.join())
        thread = await served.settled(report.workflow_thread_id)
        await served.conserved(thread)
        assert await reserved_usd(served, thread) == 0
    assert report.closed == f"1011 vendor_failure: {part}"
    assert thread.status is Status.FAILED
    assert thread.error is not None
    found = [thread.error[name] for name in ("service", "provider", "http_status")]
    assert found == [part, stack.vendor(part), 401]


@pytest.mark.parametrize(("stack", "part"), GONE, ids=str)
async def test_a_vendor_that_goes_away_in_mid_call_ends_it_and_is_named(
    stack: Stack, part: str, serving: Serve
) -> None:
    """Pipecat dials three times again, and gives up."""
    route = socket_of(stack, part)
    async with stood_in(INSISTENT, stack.vendors) as standing, serving(standing) as served:
        await budgeted(served, "10")
        standing.models[stack.vendor(part)].faults.add(
            Fault(kind="close", code=1011, chunks=2, route=route, times=1),
            Fault(kind="status", status=500, route=route, skip=1),
        )
        report = await call(served.url, standing.api_key, INSISTENT, join=stack.join())
        thread = await served.settled(report.workflow_thread_id)
        await served.conserved(thread)
        assert await reserved_usd(served, thread) == 0
    assert report.closed == f"1011 vendor_failure: {part}"
    assert thread.status is Status.FAILED
    assert thread.error is not None
    assert [thread.error[name] for name in ("service", "provider")] == [part, stack.vendor(part)]
    assert thread.error["error_type"] in {"ConnectionClosed", "InternalServerError"}
