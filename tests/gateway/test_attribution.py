"""Whose a request is: in the ledger, at PostHog, and in what a key reads of itself."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flow.sandbox.faults import Fault
from tests.gateway.conftest import Caller
from tests.gateway.test_disconnects import hang_up_after

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO: Any = [{"role": "user", "content": "A secret prompt."}]
CHAT = {"model": "gpt-4.1", "messages": HELLO}


async def post(caller: Caller, path: str = "/v1/chat/completions", **headers: str) -> Any:
    answer = await caller.http.post(path, json=CHAT, headers=headers)
    assert answer.status_code == 200
    return answer


async def test_a_row_says_whose_request_it_is(caller: Caller) -> None:
    answer = await post(
        caller,
        **{
            "x-request-id": "my-request.1",
            "x-posthog-trace-id": "trace:1",
            "x-posthog-session-id": "a session of mine",
            "x-posthog-distinct-id": "user@example.com",
        },
    )
    row = await caller.row()
    assert answer.headers["x-request-id"] == row["request_id"] == "my-request.1"
    assert (row["trace_id"], row["session_id"]) == ("trace:1", "a session of mine")
    assert row["distinct_id"] == "user@example.com"
    assert (row["workflow_thread_id"], row["source"]) == (None, "gateway")
    assert (row["api_key_id"], row["team_id"]) == (str(caller.key.id), caller.key.team_id)
    event = await caller.event(row)
    told = event.properties
    assert event.distinct_id == "user@example.com"
    assert (told["$ai_trace_id"], told["$ai_session_id"]) == ("trace:1", "a session of mine")
    assert (told["$ai_span_id"], told["request_id"]) == (row["id"], "my-request.1")
    assert (told["ai_product"], told["$ai_billable"]) == ("gateway", True)
    assert (told["team_id"], told["api_key_id"]) == (caller.key.team_id, str(caller.key.id))
    assert (told["usage_source"], told["usage_kind"]) == ("gateway", "llm")
    assert "workflow_thread_id" not in told
    assert not {"$ai_input", "$ai_output_choices"} & told.keys()
    parts = told["$ai_input_cost_usd"] + told["$ai_output_cost_usd"]
    assert parts == pytest.approx(told["$ai_total_cost_usd"]) == float(row["total_cost_usd"])
    assert told["$ai_cost_passthrough"] is True
    assert (told["$ai_http_status"], told["$ai_is_error"]) == (200, False)


async def test_a_request_that_names_nothing_has_ids_of_its_own(caller: Caller) -> None:
    await post(caller)
    row = await caller.row()
    assert row["request_id"]
    assert (row["trace_id"], row["session_id"], row["distinct_id"]) == (None, None, None)
    event = await caller.event(row)
    assert event.distinct_id == str(caller.key.id)
    assert event.properties["$ai_trace_id"] == row["id"]
    assert "$ai_session_id" not in event.properties


async def test_what_a_caller_says_of_its_request_is_told_unless_flow_says_it(
    caller: Caller,
) -> None:
    forged = {
        "team_id": "another team", "api_key_id": "x", "ai_product": "free", "usage_source": "bot",
        "$ai_billable": False, "$ai_total_cost_usd": 0, "$ai_cache_read_cost_usd": 9,
        "$set": {"a": 1}, "workflow_thread_id": "x", "llm_audio_cost_usd": 9, "provenance": "x",
        "TEAM_ID": "another team", "note": "x", "distinct_id": "x", "characters": 9,
    }  # fmt: skip
    await post(
        caller,
        **{
            "x-posthog-properties": json.dumps(forged | {"feature": "search", "depth": {"n": 1}}),
            "x-posthog-property-tenant": "M%C3%BCnchen",
            "x-posthog-property-team_id": "another team",
            "x-posthog-property-$ai_billable": "false",
            "x-posthog-property-ai_product": "free",
        },
    )
    row = await caller.row()
    told = (await caller.event(row)).properties
    assert (told["feature"], told["depth"], told["tenant"]) == ("search", {"n": 1}, "München")
    assert (told["team_id"], told["ai_product"]) == (caller.key.team_id, "gateway")
    assert (told["$ai_billable"], told["usage_source"]) == (True, "gateway")
    assert told["$ai_total_cost_usd"] == float(row["total_cost_usd"]) > 0
    for name in ("$ai_cache_read_cost_usd", "$set", "workflow_thread_id", "llm_audio_cost_usd"):
        assert name not in told
    assert not {"TEAM_ID", "note", "distinct_id", "characters"} & told.keys()
    assert (row["team_id"], row["billable"]) == (caller.key.team_id, True)


@pytest.mark.parametrize(
    "said",
    ["", "[]", "{", '{"a": NaN}', '"text"', json.dumps({f"n{n}": n for n in range(500)})],
)
async def test_properties_that_are_none_are_left_out(caller: Caller, said: str) -> None:
    await post(caller, **{"x-posthog-properties": said, "x-posthog-trace-id": "not a trace!/?"})
    row = await caller.row()
    assert row["trace_id"] is None
    assert len((await caller.event(row)).properties) < 130


async def test_failures_and_interruptions_are_told_with_all_their_costs(caller: Caller) -> None:
    caller.world.vendors.openai.faults.add(Fault(kind="status", status=400, times=1))
    answer = await caller.http.post("/v1/chat/completions", json=CHAT)
    assert answer.status_code == 400
    await hang_up_after(caller, 900, "gpt-4.1")
    failed, cut = await caller.rows(2)
    said = (await caller.event(failed)).properties
    assert (said["$ai_is_error"], said["$ai_http_status"]) == (True, 400)
    assert (said["$ai_billable"], said["$ai_total_cost_usd"]) == (True, 0)
    said = (await caller.event(cut)).properties
    assert said["$ai_total_cost_usd"] == float(cut["total_cost_usd"]) > 0


async def test_a_key_reads_its_own_requests_and_sums(caller: Caller) -> None:
    other = await caller.world.caller()
    for _ in range(3):
        await post(caller)
    await caller.http.post("/small/v1/chat/completions", json=CHAT | {"model": "gpt-4.1-mini"})
    await post(other)
    await other.row()
    rows = await caller.rows(4)
    assert len(await caller.rows(1, product="small")) == 1
    pages, cursor = [], None
    while True:
        query = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        page = (await caller.http.get("/api/requests", params=query)).json()
        pages += page["requests"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert [row["id"] for row in pages] == [row["id"] for row in rows[::-1]]
    assert (await caller.http.get("/api/requests?cursor=nonsense")).status_code == 422
    usage = (await caller.http.get("/api/usage?group_by=source,product")).json()["rows"]
    assert [(one["source"], one["product"], one["events"]) for one in usage] == [
        ("gateway", "gateway", 3),
        ("gateway", "small", 1),
    ]
    assert usage[1]["billable_cost_usd"] == "0"
    assert (await caller.http.get("/api/threads")).json()["threads"] == []


async def test_metrics_count_routes_and_no_products_or_models(caller: Caller) -> None:
    await caller.http.post("/small/v1/chat/completions", json=CHAT | {"model": "gpt-4.1-mini"})
    await caller.http.post("/some-product-that-is-none/v1/chat/completions", json=CHAT)
    said = (await caller.http.get("/metrics")).text
    assert 'route="/{product}/v1/chat/completions"' in said
    assert "some-product-that-is-none" not in said
