"""What /metrics says of a whole call, held against the ledger."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from flow.domain.calls.thread import Thread
from flow.domain.usage.units import UNITS
from flow.sandbox.all_vendors import Vendors
from flow.sandbox.callers.caller import call
from flow.sandbox.callers.conversation import CallerEvent, EventKind
from flow.sandbox.callers.script import Script
from flow.sandbox.faults import Fault
from flow.vendors.posthog_flags import COST_CONTROLS
from tests.calls.conftest import SETTLE_SECS, Serve, Serving
from tests.calls.processes import flow_serve
from tests.calls.test_call import JOIN, LONG, SHORT, stood_in
from tests.telemetry.exposition import Scraped

FORBIDDEN_LABELS = {
    "api_key", "api_key_id", "key", "key_id", "unkey_key_id", "team", "team_id", "thread",
    "thread_id", "workflow_thread_id", "model", "user", "path", "url", "request_id", "pid",
}  # fmt: skip


async def scrape(served: Serving) -> Scraped:
    answer = await served.http.get("/metrics")
    answer.raise_for_status()
    return Scraped(answer.text)


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        (SHORT, None),
        (LONG, None),
        (SHORT, Fault(kind="status", status=500, route="*/speech", times=1)),
    ],
    ids=["short", "interrupted", "with-a-vendors-error"],
)
async def test_the_numbers_of_a_call_are_those_of_the_ledger(
    script: Script, fault: Fault | None, serving: Serve
) -> None:
    async with stood_in(script) as standing, serving(standing) as served:
        if fault is not None:
            standing.openai.faults.add(fault)
        report = await call(served.url, standing.api_key, script, join=JOIN)
        thread = await served.settled(report.workflow_thread_id)
        rows = await served.conserved(thread)
        scraped = await scrape(served)
    _events_agree(scraped, rows)
    _amounts_agree(scraped, rows)
    _costs_agree(scraped, rows)
    _call_agrees(scraped, thread, rows)
    _waits_agree(scraped, thread)
    _no_label_is_open_ended(scraped, thread, rows)


def _waits_agree(scraped: Scraped, thread: Thread) -> None:
    waits = [turn.latency for turn in thread.transcript if turn.latency is not None]
    assert waits
    assert scraped["flow_reply_seconds_count"] == len(waits)
    assert scraped["flow_reply_seconds_sum"] == pytest.approx(sum(w.total_secs for w in waits))
    sums = {(part,): sum(wait.parts[part] for wait in waits) for part in waits[0].parts}
    # A model that was asked early may never be waited for.
    assert scraped.by("flow_reply_part_seconds_sum", "part") == pytest.approx(
        {part: secs for part, secs in sums.items() if secs}
    )


def _events_agree(scraped: Scraped, rows: list[dict[str, Any]]) -> None:
    labels = ("kind", "provider", "outcome", "provenance")
    counted = Counter(tuple(row[label] for label in labels) for row in rows)
    assert scraped.by("flow_usage_events_total", *labels) == counted
    assert scraped["flow_unpriced_events_total"] == 0
    assert scraped["flow_flush_lag_seconds_count"] == len(rows)
    assert scraped["flow_spool_events"] == scraped["flow_spool_oldest_age_seconds"] == 0
    failed = [row for row in rows if row["outcome"] == "error"]
    statuses = Counter(f"{row['failure']['http_status'] // 100}xx" for row in failed)
    assert scraped.by("flow_vendor_errors_total", "status") == {
        (status,): count for status, count in statuses.items()
    }


def _amounts_agree(scraped: Scraped, rows: list[dict[str, Any]]) -> None:
    used: defaultdict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
    for row in rows:
        for line in row["lines"]:
            measure = UNITS[line["unit"]].measure
            what = measure if line["part_of"] is None else f"{measure.removesuffix('s')}_parts"
            key = (row["kind"], row["provider"], line["unit"])
            used[what][key] = used[what].get(key, 0.0) + float(line["quantity"])
    assert {"tokens", "characters", "seconds"} <= used.keys()
    for what, expected in used.items():
        counted = scraped.by(f"flow_usage_{what}_total", "kind", "provider", "unit")
        assert counted == pytest.approx(expected)
    assert scraped["flow_unmetered_services_total"] == 0
    spoken = [r for r in rows if r["time_to_first_token_secs"] is not None and r["stream"]]
    for kind, name in (("llm", "flow_llm_first_token"), ("tts", "flow_tts_first_audio")):
        times = [r["time_to_first_token_secs"] for r in spoken if r["kind"] == kind]
        assert times
        assert scraped[f"{name}_seconds_count"] == len(times)
        assert scraped[f"{name}_seconds_sum"] == pytest.approx(float(sum(times)))


def _costs_agree(scraped: Scraped, rows: list[dict[str, Any]]) -> None:
    costs: defaultdict[tuple[str, str, str], Decimal] = defaultdict(Decimal)
    for row in rows:
        for line in row["lines"]:
            key = (row["kind"], line["component"], str(row["billable"]).lower())
            costs[key] += Decimal(line["cost_usd"] or 0)
    expected = {key: float(cost) for key, cost in costs.items() if cost}
    counted = scraped.by("flow_usage_cost_usd_total", "kind", "component", "billable")
    assert counted == pytest.approx(expected)
    total = sum(Decimal(row["total_cost_usd"]) for row in rows)
    assert scraped["flow_usage_cost_usd_total"] == pytest.approx(float(total))


def _call_agrees(scraped: Scraped, thread: Thread, rows: list[dict[str, Any]]) -> None:
    (call_line,) = [line for row in rows for line in row["lines"] if row["kind"] == "call"]
    assert call_line["unit"] == "call_seconds"
    seconds = float(call_line["quantity"])
    ended = {(thread.product, thread.end_reason): 1}
    assert scraped.by("flow_calls_started_total", "product") == {(thread.product,): 1}
    assert scraped.by("flow_calls_ended_total", "product", "reason") == ended
    assert scraped["flow_calls_running"] == scraped["flow_calls_by_budget_tier"] == 0
    assert scraped["flow_call_duration_seconds_count"] == 1
    assert scraped["flow_call_duration_seconds_sum"] == pytest.approx(seconds)
    assert scraped.by("flow_joins_total", "outcome") == {("created",): 1}
    requests = scraped.by("flow_http_requests_total", "route", "method", "status")
    assert requests["/api/bot/join", "POST", "201"] == 1
    assert requests["/api/bot/{thread_id:uuid}/ws", "WEBSOCKET", "101"] == 1
    database = scraped.by("flow_database_calls_total", "function", "outcome")
    assert database["join_thread", "ok"] == 1
    assert database["record_usage", "ok"] >= 1
    assert scraped["flow_database_call_seconds_count"] == sum(database.values())
    assert scraped.by("flow_key_verifications_total", "outcome")["verified",] >= 1


def _no_label_is_open_ended(scraped: Scraped, thread: Thread, rows: list[dict[str, Any]]) -> None:
    """No label is named for, or has the value of, something there is no end of."""
    open_ended = {str(thread.id), str(thread.api_key_id), thread.team_id}
    open_ended |= {str(row["id"]) for row in rows} | {row["model"] for row in rows} - {"call"}
    for name, labels in scraped.labels:
        assert not FORBIDDEN_LABELS & labels.keys(), name
        for value in labels.values():
            assert not [word for word in open_ended if word in value], name


async def test_every_family_is_named_as_prometheus_wants_it(serving: Serve) -> None:
    async with stood_in(SHORT) as standing, serving(standing) as served:
        families = (await scrape(served)).families
    assert len(families) > 25
    for family in families.values():
        name = family.name.removesuffix("_created")
        assert name.startswith("flow_"), name
        assert family.documentation
        assert not name.endswith(("_secs", "_ms", "_count", "_total")), name
        if family.type == "histogram":
            assert name.endswith("_seconds"), name
        for sample in family.samples:
            assert not FORBIDDEN_LABELS & sample.labels.keys()


async def test_save_mode_and_the_budgets_tier_of_running_calls_are_shown(serving: Serve) -> None:
    tiers: list[dict[tuple[str, ...], float]] = []
    async with stood_in(LONG) as standing, serving(standing) as served:
        standing.posthog.flags[COST_CONTROLS] = True

        async def look() -> None:
            scraped = await scrape(served)
            tiers.append(scraped.by("flow_calls_by_budget_tier", "tier"))
            assert scraped["flow_calls_running"] == 1

        await _call_and(served, standing, look)
        scraped = await scrape(served)
    assert tiers == [{("none",): 1}]
    assert scraped.by("flow_save_mode_engagements_total", "reason") == {("on_by_join",): 1}
    assert scraped["flow_calls_by_budget_tier"] == 0


async def _call_and(
    served: Serving, standing: Vendors, look: Callable[[], Awaitable[None]]
) -> None:
    """Hold a call in save mode, and look once while the bot speaks."""
    said, speaking = asyncio.Event(), asyncio.Event()

    def progress(event: CallerEvent) -> None:
        if event.kind is EventKind.LINE_ENDED:
            said.set()
        if event.kind is EventKind.BOT_STARTED and said.is_set():
            speaking.set()

    join = {**JOIN, "save_mode": "on"}
    calling = asyncio.create_task(
        call(served.url, standing.api_key, LONG, join=join, on_progress=progress)
    )
    await asyncio.wait_for(speaking.wait(), 60)
    await look()
    report = await calling
    await served.settled(report.workflow_thread_id)


async def test_events_that_posthog_will_not_get_are_counted(serving: Serve) -> None:
    async with stood_in(SHORT) as standing:
        standing.posthog.faults.add(Fault(kind="status", status=400))
        async with serving(standing) as served:
            report = await call(served.url, standing.api_key, SHORT, join=JOIN)
            await served.settled(report.workflow_thread_id)
            async with asyncio.timeout(SETTLE_SECS):
                while not (await scrape(served))["flow_posthog_events_lost_total"]:
                    await asyncio.sleep(0.2)
            scraped = await scrape(served)
    assert set(scraped.by("flow_posthog_events_lost_total", "reason")) == {("upload_failed",)}


async def test_whichever_worker_is_asked_the_numbers_are_those_of_all(
    postgres_url: str, tmp_path: Path
) -> None:
    """Each request has a connection of its own, so that the kernel spreads them over workers."""
    requests = 24
    async with (
        stood_in(SHORT) as standing,
        flow_serve(standing, postgres_url, tmp_path, "--workers", "2", is_forked=False) as serving,
    ):
        for _ in range(requests):
            async with httpx.AsyncClient(trust_env=False) as http:
                answer = await http.post(f"{serving.url}/api/bot/join", json={})
                assert answer.status_code == 401
        for _ in range(8):
            async with httpx.AsyncClient(trust_env=False) as http:
                scraped = Scraped((await http.get(f"{serving.url}/metrics")).text)
            outcomes = scraped.by("flow_joins_total", "outcome")
            assert outcomes == {("missing_api_key",): requests}
            assert "flow_calls_running" in scraped.families
            for name, labels in scraped.labels:
                assert not FORBIDDEN_LABELS & labels.keys(), name
