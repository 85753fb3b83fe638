"""Traces of whole calls at a collector: one tree from the join down, and not a word in it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from flow.domain.calls.thread import Status
from flow.sandbox.all_vendors import Vendors
from flow.sandbox.callers.caller import call
from flow.sandbox.faults import Fault
from flow.sandbox.otlp import OtlpSandbox, Span
from flow.sandbox.server import Served
from tests.calls.conftest import Serve
from tests.calls.processes import FlowProcess, flow_serve
from tests.calls.test_call import JOIN, SHORT, stood_in
from tests.ports import free_port

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER_SPAN = "00f067aa0ba902b7"
SAID = [SHORT.system_prompt, SHORT.greeting, SHORT.lines[0].text, SHORT.lines[0].reply]
SETTLE_SECS = 30.0

Traced = tuple[FlowProcess, Vendors, OtlpSandbox]


@asynccontextmanager
async def traced(postgres_url: str, folder: Path, **more: str) -> AsyncIterator[Traced]:
    collector = OtlpSandbox()
    async with stood_in(SHORT) as standing, Served(collector) as url:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "100", **more}
        async with flow_serve(standing, postgres_url, folder, **environment) as serving:
            yield serving, standing, collector


async def arrived(collector: OtlpSandbox, enough: Callable[[list[Span]], bool]) -> list[Span]:
    async with asyncio.timeout(SETTLE_SECS):
        while not enough(collector.spans):
            await asyncio.sleep(0.05)
    return list(collector.spans)


def has_ended(spans: list[Span]) -> bool:
    return "conversation" in {span.name for span in spans}


def only(spans: list[Span], name: str) -> Span:
    (found,) = [span for span in spans if span.name == name]
    return found


def words_in(spans: list[Span]) -> list[str]:
    everything = str(spans)
    return [text for text in SAID if text in everything]


async def test_a_call_is_one_tree_from_its_join_down_without_a_word_of_content(
    postgres_url: str, tmp_path: Path
) -> None:
    async with traced(postgres_url, tmp_path) as (serving, standing, collector):
        report = await call(serving.url, standing.api_key, SHORT, join=JOIN)
        spans = await arrived(collector, has_ended)
    join, conversation = only(spans, "POST /api/bot/join"), only(spans, "conversation")
    assert join.parent_id == ""
    assert join.attributes["workflow_thread_id"] == report.workflow_thread_id
    assert join.attributes["http.response.status_code"] == 201
    assert join.attributes["flow.join.outcome"] == "created"
    assert conversation.parent_id == join.span_id
    assert conversation.attributes["workflow_thread_id"] == report.workflow_thread_id
    assert conversation.attributes["conversation.id"] == report.workflow_thread_id
    assert conversation.attributes["ai_product"] == "voice_bot"
    assert {span.trace_id for span in spans} == {join.trace_id}
    turns = {span.span_id for span in spans if span.name == "turn"}
    assert turns
    assert {s.parent_id for s in spans if s.name == "turn"} == {conversation.span_id}
    services = [span for span in spans if span.name in ("stt", "llm", "tts")]
    assert {span.name for span in services} == {"stt", "llm", "tts"}
    assert {span.parent_id for span in services} <= turns | {conversation.span_id}
    assert {span.parent_id for span in services if span.name == "llm"} <= turns
    assert only(spans, "llm").attributes["gen_ai.usage.output_tokens"] > 0
    assert {span.resource["service.name"] for span in spans} == {"flow"}
    assert words_in(spans) == []


async def test_content_is_in_the_spans_where_it_is_switched_on(
    postgres_url: str, tmp_path: Path
) -> None:
    """What Pipecat puts there, which is what the other tests would find if it got through."""
    async with traced(postgres_url, tmp_path, FLOW_CAPTURE_CONTENT="true") as running:
        serving, standing, collector = running
        await call(serving.url, standing.api_key, SHORT, join=JOIN)
        spans = await arrived(collector, has_ended)
    assert words_in(spans) == SAID
    assert only(spans, "llm").attributes["output"] == SHORT.lines[0].reply
    # A machine that is late with the sound makes two sentences of one.
    heard = [span.attributes["transcript"] for span in spans if span.name == "stt"]
    assert " ".join(heard) == SHORT.lines[0].text


async def test_a_join_and_its_call_belong_to_the_callers_trace(
    postgres_url: str, tmp_path: Path
) -> None:
    headers = {"traceparent": f"00-{TRACE}-{CALLER_SPAN}-01"}
    unsampled = {"traceparent": f"00-{TRACE}-{CALLER_SPAN}-00"}
    async with traced(postgres_url, tmp_path) as (serving, standing, collector):
        async with httpx.AsyncClient(
            base_url=serving.url,
            headers={"Authorization": f"Bearer {standing.api_key}"},
            trust_env=False,
        ) as http:
            await http.post("/api/bot/join", json={}, headers=unsampled)
            await http.post("/api/bot/join", json={"product": "none"}, headers=headers)
            await http.post("/api/bot/join", json={}, headers={"traceparent": "00-0-0-01"})
        spans = await arrived(collector, lambda spans: len(spans) >= 2)
    refused, own = spans
    assert (refused.trace_id, refused.parent_id) == (TRACE, CALLER_SPAN)
    assert refused.attributes["flow.join.outcome"] == "unknown_product"
    assert "workflow_thread_id" not in refused.attributes
    assert own.parent_id == ""
    assert own.trace_id != TRACE


@pytest.mark.parametrize("fault", [Fault(kind="hang"), Fault(kind="status", status=503), None])
async def test_a_collector_that_is_slow_or_away_holds_up_no_call(
    fault: Fault | None, postgres_url: str, tmp_path: Path
) -> None:
    """With a collector that never answers, the call is over while the first export still hangs."""
    more = {} if fault else {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    async with traced(postgres_url, tmp_path, **more) as (serving, standing, collector):
        if fault is not None:
            collector.faults.add(fault)
        report = await call(serving.url, standing.api_key, SHORT, join=JOIN)
        status = await _final_status(serving, standing, report.workflow_thread_id)
        statuses = [exchange.status for exchange in collector.requests]
    assert report.ended_by == "caller"
    assert status == Status.COMPLETED
    assert collector.spans == []
    if fault is not None:
        assert set(statuses) == {fault.status if fault.kind == "status" else None}
    # It left in peace: uvicorn ends with the signal it was sent.
    assert serving.returncode in (0, -signal.SIGTERM)


async def _final_status(serving: FlowProcess, standing: Vendors, thread_id: str) -> Status:
    headers = {"Authorization": f"Bearer {standing.api_key}"}
    async with (
        asyncio.timeout(SETTLE_SECS),
        httpx.AsyncClient(base_url=serving.url, headers=headers, trust_env=False) as http,
    ):
        while True:
            thread: dict[str, Any] = (await http.get(f"/api/threads/{thread_id}")).json()
            if Status(thread["status"]).is_final:
                return Status(thread["status"])
            await asyncio.sleep(0.1)


async def test_without_a_collector_nothing_is_traced(serving: Serve) -> None:
    async with stood_in(SHORT) as standing, serving(standing) as served:
        answer = await served.http.post("/api/bot/join", json={})
        token = answer.json()["connection"]["url"].partition("token=")[2]
    claims = jwt.decode(token, options={"verify_signature": False})
    assert set(claims) == {"sub", "exp"}
