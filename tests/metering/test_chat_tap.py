"""Chat completions through the real SDK: counted once, whatever becomes of the stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from openai import APIError, AsyncOpenAI
from pydantic import SecretStr

from flow.domain.usage.events import Kind, Outcome, Owner, Provenance, Quantities, UsageEvent
from flow.metering.meter import Meter, Service
from flow.metering.taps.http import MeteredTransport
from flow.metering.wires.openai_chat import OpenAIChat
from flow.sandbox.bill import Line
from flow.sandbox.faults import Fault
from flow.sandbox.openai.app import OpenAISandbox
from flow.sandbox.openai.chat import Pace
from flow.sandbox.openai.replies import Reply, ToolCall
from flow.sandbox.server import Served
from flow.vendors.openai_client import openai_client, openai_endpoint
from tests.notebook import Notebook

LONG = " ".join(f"Sentence number {n} tells you a little more." for n in range(30))
MESSAGES: list[Any] = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": "Tell me everything, please."},
]


class Call:
    """A metered client of a stand-in, as the bot of one call has."""

    def __init__(
        self, sandbox: OpenAISandbox, client: AsyncOpenAI, tap: MeteredTransport, notebook: Notebook
    ) -> None:
        self.sandbox = sandbox
        self.client = client
        self.tap = tap
        self.notebook = notebook

    async def stream(self, *, model: str = "gpt-4.1", **options: Any) -> Any:
        return await self.client.chat.completions.create(
            model=model,
            messages=MESSAGES,
            stream=True,
            stream_options={"include_usage": True},
            **options,
        )

    async def read(self, chunks: int | None = None, **options: Any) -> str:
        """Read a stream as Pipecat does; after ``chunks`` of them leave it."""
        stream = await self.stream(**options)
        reading, text, seen = stream.__aiter__(), "", 0
        try:
            async for chunk in reading:
                seen += 1
                if chunk.choices and chunk.choices[0].delta.content:
                    text += chunk.choices[0].delta.content
                if chunks is not None and seen >= chunks:
                    break
        finally:
            await reading.aclose()
            await stream.close()
        return text

    async def event(self) -> UsageEvent:
        """The only event there is once everything has settled."""
        await self.tap.finish()
        (event,) = self.notebook.events
        assert not self.notebook.open
        return event

    async def billed(self) -> Line:
        """The only line of the vendor's bill."""
        async with asyncio.timeout(5):
            (line,) = await self.sandbox.bill.settled()
        return line


@asynccontextmanager
async def calling(
    owner: Owner, notebook: Notebook, *faults: Fault, drain: bool = False, **options: Any
) -> AsyncIterator[Call]:
    sandbox = OpenAISandbox(**options)
    sandbox.faults.add(*faults)
    async with Served(sandbox) as url:
        endpoint = openai_endpoint(SecretStr("sk-fake"), f"{url}/v1", timeout_secs=0.5)
        meter = Meter(Service(Kind.LLM, "openai", "gpt-4.1"), owner, notebook)
        tap = MeteredTransport(endpoint.transport(owner), meter, OpenAIChat(), drain=drain)
        try:
            yield Call(sandbox, openai_client(endpoint, tap), tap, notebook)
        finally:
            await tap.finish()
            await endpoint.close()


def agree_exactly(event: UsageEvent, line: Line) -> None:
    q, billed = event.quantities, line.amounts
    assert (
        q["input_tokens"] + q["cache_read_tokens"] + q["cache_write_tokens"] == billed.prompt_tokens
    )
    assert q["cache_read_tokens"] == billed.cached_tokens
    assert q["output_tokens"] == billed.completion_tokens
    assert q["reasoning_tokens"] == billed.reasoning_tokens


def agree_about(event: UsageEvent, line: Line) -> None:
    """An estimate: 8 tokens or 5 % of the prompt, 16 tokens or 10 % of the output."""
    q, billed = event.quantities, line.amounts
    assert abs(q["input_tokens"] - billed.prompt_tokens) <= max(8, billed.prompt_tokens * 0.05)
    assert abs(q["output_tokens"] - billed.completion_tokens) <= max(
        16, billed.completion_tokens * 0.1
    )


async def test_a_finished_stream_is_counted_as_the_vendor_reports_it(
    owner: Owner, notebook: Notebook
) -> None:
    async with calling(
        owner, notebook, script=[Reply("Here you are.", reasoning_tokens=7)]
    ) as call:
        assert await call.read() == "Here you are."
        event, line = await call.event(), await call.billed()
    assert (event.provenance, event.outcome) == (Provenance.REPORTED, Outcome.OK)
    assert event.model == line.model != event.requested_model == "gpt-4.1"
    assert event.service_tier == line.service_tier
    assert event.latency_secs is not None
    assert event.time_to_first_token_secs is not None
    agree_exactly(event, line)


@pytest.mark.parametrize("chunks", [1, 2, 5, 40, 120])
async def test_a_stream_the_caller_cut_off_is_estimated(
    chunks: int, owner: Owner, notebook: Notebook
) -> None:
    pace = Pace(token_secs=0.002)
    async with calling(owner, notebook, script=[LONG], pace=pace) as call:
        await call.read(chunks)
        event, line = await call.event(), await call.billed()
    assert (event.provenance, event.outcome) == (Provenance.ESTIMATED, Outcome.INTERRUPTED)
    assert line.outcome == "disconnected"
    agree_about(event, line)


async def test_a_stream_cut_off_before_its_first_token_still_counts_its_prompt(
    owner: Owner, notebook: Notebook
) -> None:
    slow = Fault(kind="delay", delay_secs=0.3)
    async with calling(owner, notebook, slow) as call:
        waiting = asyncio.create_task(call.read())
        await asyncio.sleep(0.1)
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        event = await call.event()
    assert (event.provenance, event.outcome) == (Provenance.ESTIMATED, Outcome.INTERRUPTED)
    assert event.quantities["input_tokens"] > 0
    assert event.quantities["output_tokens"] == 0


async def test_draining_gets_the_vendors_numbers_for_a_stream_that_was_cut_off(
    owner: Owner, notebook: Notebook
) -> None:
    pace = Pace(token_secs=0.001)
    async with calling(owner, notebook, drain=True, script=[LONG], pace=pace) as call:
        await call.read(5)
        event, line = await call.event(), await call.billed()
    assert (event.provenance, event.outcome) == (Provenance.REPORTED, Outcome.INTERRUPTED)
    assert line.outcome == "complete"
    agree_exactly(event, line)


@pytest.mark.parametrize(
    ("fault", "provenance", "outcome"),
    [
        (Fault(kind="no_usage"), Provenance.ESTIMATED, Outcome.OK),
        (Fault(kind="cumulative_usage"), Provenance.REPORTED, Outcome.OK),
        (Fault(kind="null_usage_details"), Provenance.REPORTED, Outcome.OK),
        (Fault(kind="empty_choices"), Provenance.REPORTED, Outcome.OK),
        (Fault(kind="same_id"), Provenance.REPORTED, Outcome.OK),
        (Fault(kind="empty_reply"), Provenance.REPORTED, Outcome.OK),
        (Fault(kind="refusal"), Provenance.REPORTED, Outcome.OK),
        (Fault(kind="cut", chunks=6), Provenance.ESTIMATED, Outcome.ERROR),
        (Fault(kind="error_chunk", chunks=6), Provenance.ESTIMATED, Outcome.ERROR),
        (Fault(kind="malformed_chunk", chunks=6), Provenance.ESTIMATED, Outcome.ERROR),
        (Fault(kind="stall", chunks=6), Provenance.ESTIMATED, Outcome.ERROR),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else None,
)
async def test_a_strange_stream_is_counted_once(
    fault: Fault, provenance: Provenance, outcome: Outcome, owner: Owner, notebook: Notebook
) -> None:
    async with calling(owner, notebook, fault, pace=Pace(token_secs=0.001)) as call:
        with suppress(Exception):
            await call.read()
        event = await call.event()
        line = await call.billed()
    assert (event.provenance, event.outcome) == (provenance, outcome)
    assert event.quantities["input_tokens"] > 0
    if provenance is Provenance.ESTIMATED:
        agree_about(event, line)
    else:
        agree_exactly(event, line)


async def test_usage_reported_as_it_grows_is_not_added_up_when_cut_off(
    owner: Owner, notebook: Notebook
) -> None:
    fault, pace = Fault(kind="cumulative_usage"), Pace(token_secs=0.002)
    async with calling(owner, notebook, fault, script=[LONG], pace=pace) as call:
        await call.read(20)
        event, line = await call.event(), await call.billed()
    assert event.outcome is Outcome.INTERRUPTED
    agree_about(event, line)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_each_failed_attempt_is_an_event_of_its_own_and_costs_nothing(
    status: int, owner: Owner, notebook: Notebook
) -> None:
    fault = Fault(kind="status", status=status, times=2, headers={"retry-after-ms": "1"})
    async with calling(owner, notebook, fault, script=["Fine."]) as call:
        assert await call.read() == "Fine."
        await call.tap.finish()
    *failed, served = notebook.events
    assert [event.failure and event.failure.http_status for event in failed] == [status] * 2
    assert {event.quantities for event in failed} == {Quantities()}
    assert served.outcome is Outcome.OK
    assert not notebook.open


async def test_attempts_that_all_fail_leave_no_generation(owner: Owner, notebook: Notebook) -> None:
    fault = Fault(kind="status", status=500, headers={"retry-after-ms": "1"})
    async with calling(owner, notebook, fault) as call:
        with pytest.raises(APIError):
            await call.read()
    assert [event.outcome for event in notebook.events] == [Outcome.ERROR] * 3
    assert not notebook.open


async def test_a_request_nobody_answered_in_time_is_counted_as_if_it_had_been_read(
    owner: Owner, notebook: Notebook
) -> None:
    fault = Fault(kind="hang", times=1)
    async with calling(owner, notebook, fault, script=["Fine."]) as call:
        assert await call.read() == "Fine."
        await call.tap.finish()
    unanswered, served = notebook.events
    assert (unanswered.outcome, unanswered.provenance) == (Outcome.ERROR, Provenance.ESTIMATED)
    assert unanswered.quantities["input_tokens"] == pytest.approx(
        served.quantities["input_tokens"], rel=0.05
    )


async def test_a_tool_call_cut_off_in_its_arguments_is_estimated_too(
    owner: Owner, notebook: Notebook
) -> None:
    arguments = '{"query": "' + "word " * 200 + '"}'
    script = [Reply(tool_calls=(ToolCall("search", arguments),))]
    tool: Any = {"type": "function", "function": {"name": "search", "parameters": {}}}
    async with calling(owner, notebook, script=script, pace=Pace(token_secs=0.002)) as call:
        await call.read(60, tools=[tool])
        event, line = await call.event(), await call.billed()
    assert event.quantities["output_tokens"] > 20
    agree_about(event, line)


async def test_a_reply_that_is_not_streamed_is_counted_as_reported(
    owner: Owner, notebook: Notebook
) -> None:
    async with calling(owner, notebook, script=["A summary."]) as call:
        await call.client.chat.completions.create(model="gpt-4.1", messages=MESSAGES)
        event, line = await call.event(), await call.billed()
    assert event.provenance is Provenance.REPORTED
    agree_exactly(event, line)


async def test_cached_tokens_are_told_from_the_rest(owner: Owner, notebook: Notebook) -> None:
    long: list[Any] = [{"role": "system", "content": LONG * 6}, *MESSAGES]
    async with calling(owner, notebook, script=["Fine."]) as call:
        for _ in range(2):
            await call.client.chat.completions.create(model="gpt-4.1", messages=long)
        lines = await call.sandbox.bill.settled()
    assert notebook.events[1].quantities["cache_read_tokens"] >= 1024
    for event, line in zip(notebook.events, lines, strict=True):
        agree_exactly(event, line)


async def test_a_whole_completion_that_cannot_be_read_was_served_for_all_that_is_known(
    owner: Owner, notebook: Notebook
) -> None:
    async with calling(owner, notebook, Fault(kind="malformed")) as call:
        with pytest.raises(ValueError, match="Unterminated"):
            await call.client.chat.completions.create(model="gpt-4.1", messages=MESSAGES)
        event = await call.event()
    assert (event.outcome, event.provenance) == (Outcome.ERROR, Provenance.ESTIMATED)
    assert event.quantities["input_tokens"] > 0
