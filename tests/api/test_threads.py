"""Reading and ending threads: one's own, and never another's."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from flow.api.joins import EndAnswer
from flow.api.threads import ThreadPage, ThreadSummary, ThreadView
from flow.domain.calls.latency import TurnLatency
from flow.domain.calls.thread import Status, Turn
from tests.api.conftest import Api, spend
from tests.calls.holding import claimed, so_many_wait

MOMENT = datetime(2026, 11, 21, 12, tzinfo=UTC)


async def test_a_thread_shows_all_there_is(api: Api) -> None:
    thread_id = (await api.join({"metadata": {"order": 7}}))["workflow_thread_id"]
    await api.in_call(thread_id)
    turns = [Turn(0, "assistant", "Hel\u00adlo \U0001f44b", MOMENT, True)]
    await api.database.save_workflow_thread_data(
        UUID(thread_id), status=Status.ENDED, turns=turns, end_reason="caller_left"
    )
    response = await api.client.get(f"/api/threads/{thread_id}")
    thread = response.json()
    ThreadView.model_validate(thread)
    assert thread.keys() == ThreadView.model_fields.keys()
    assert thread["status"] == "ended"
    assert thread["end_reason"] == "caller_left"
    assert thread["posthog_trace_id"] == thread_id
    assert thread["transcript"] == [
        {
            "seq": 0,
            "role": "assistant",
            "content": "Hel\u00adlo \U0001f44b",
            "started_at": "2026-11-21T12:00:00Z",
            "interrupted": True,
        }
    ]


async def test_a_thread_tells_how_long_its_replies_were_waited_for(api: Api) -> None:
    thread_id = (await api.join())["workflow_thread_id"]
    await api.in_call(thread_id)
    assert (await api.client.get(f"/api/threads/{thread_id}")).json()["latency"] is None
    waits = [None, TurnLatency(0.5, 0.1, 0.0, 0.05, 0.2, 0.01), TurnLatency(llm_secs=1.25)]
    turns = [Turn(n, "assistant", "Yes.", MOMENT, latency=one) for n, one in enumerate(waits)]
    await api.database.save_workflow_thread_data(UUID(thread_id), turns=turns)
    latency = (await api.client.get(f"/api/threads/{thread_id}")).json()["latency"]
    assert (latency["p50_secs"], latency["p95_secs"], latency["max_secs"]) == (0.86, 1.25, 1.25)
    assert latency["turns"][0] == {
        "seq": 1,
        "total_secs": 0.86,
        "turn_detection_secs": 0.5,
        "stt_secs": 0.1,
        "llm_secs": 0.0,
        "first_sentence_secs": 0.05,
        "tts_secs": 0.2,
        "output_secs": 0.01,
    }
    assert [turn["seq"] for turn in latency["turns"]] == [1, 2]


async def test_the_account_is_exact_to_the_last_digit(api: Api) -> None:
    thread_id = (await api.join())["workflow_thread_id"]
    for _ in range(3):
        await spend(api, thread_id, "0.1000000000000000000000000001")
    text = (await api.client.get(f"/api/threads/{thread_id}")).text
    stats = json.loads(text, parse_float=Decimal)["usage_stats"]
    assert stats["total_cost_usd"] == Decimal("0.3000000000000000000000000003")
    assert stats["total_tokens"] == 45


async def test_the_ledger_of_a_thread_has_money_as_strings(api: Api) -> None:
    thread_id = (await api.join())["workflow_thread_id"]
    event = await spend(api, thread_id, "0.0000000000000001")
    usage = (await api.client.get(f"/api/threads/{thread_id}/usage")).json()
    assert usage["workflow_thread_id"] == thread_id
    (row,) = usage["events"]
    assert row["id"] == str(event.id)
    assert Decimal(row["total_cost_usd"]) == Decimal("0.0000000000000001")
    assert isinstance(row["total_cost_usd"], str)


async def test_a_list_is_paged_newest_first(api: Api) -> None:
    made = [(await api.join())["workflow_thread_id"] for _ in range(5)]
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    page: dict[str, Any] = {}
    for expected in (2, 2, 1):
        page = (await api.client.get("/api/threads", params=query)).json()
        assert page.keys() == ThreadPage.model_fields.keys()
        assert len(page["threads"]) == expected
        seen += [thread["workflow_thread_id"] for thread in page["threads"]]
        query["cursor"] = page["next_cursor"]
    assert page["next_cursor"] is None
    assert page["threads"][0].keys() == ThreadSummary.model_fields.keys()
    assert seen == made[::-1]


async def test_a_list_can_be_narrowed(api: Api) -> None:
    ended, _ = await api.join(), await api.join()
    await api.over(ended["workflow_thread_id"])
    found = (await api.client.get("/api/threads?status=completed")).json()["threads"]
    assert [thread["workflow_thread_id"] for thread in found] == [ended["workflow_thread_id"]]
    for query in ("product=other", "running=true", "to=2020-12-31", "from=2999-01-01"):
        assert (await api.client.get(f"/api/threads?{query}")).json()["threads"] == []


WRONG_QUERIES = [
    ("limit=0", "limit"),
    ("limit=201", "limit"),
    ("limit=99999999999999999999999", "limit"),
    ("limit=many", "limit"),
    ("status=asleep", "status"),
    ("cursor=nonsense", "cursor"),
    ("cursor=%00", "cursor"),
    ("cursor=%FF%FE", "cursor"),
    ("cursor=" + "W10" * 100, "cursor"),
    ("product=" + "p" * 200, "product"),
    ("running=perhaps", "running"),
    ("from=1764547200", "from"),
    ("to=2026-02-30", "to"),
]


async def test_a_wrong_query_is_named(api: Api, subtests: pytest.Subtests) -> None:
    for query, field in WRONG_QUERIES:
        with subtests.test(query[:40]):
            response = await api.client.get(f"/api/threads?{query}")
            assert response.status_code == 422
            assert [error["field"] for error in response.json()["errors"]] == [field]


@pytest.mark.parametrize(
    "name", ["not-a-uuid", "0", "%00", "é", "0b6d1a52-8a5e-4f0f-9d0f-5b8f3c0f2a1", "x" * 3000]
)
async def test_what_is_no_thread_id_is_not_found(api: Api, name: str) -> None:
    for path in (f"/api/threads/{name}", f"/api/threads/{name}/usage"):
        response = await api.client.get(path)
        assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert (await api.client.post(f"/api/bot/{name}/end")).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/threads/{}"),
        ("GET", "/api/threads/{}/usage"),
        ("POST", "/api/bot/{}/end"),
    ],
)
async def test_a_thread_of_another_key_is_not_there(api: Api, method: str, path: str) -> None:
    thread_id = (await api.join())["workflow_thread_id"]
    answers = []
    for asked in (thread_id, str(uuid4())):
        response = await api.other.request(method, path.format(asked))
        assert response.status_code == 404
        problem = response.json()
        answers.append(
            {**problem, "request_id": "", "detail": problem["detail"].replace(asked, "")}
        )
    assert answers[0] == answers[1]
    assert api.calls.ended == []
    thread = (await api.client.get(f"/api/threads/{thread_id}")).json()
    assert (thread["status"], thread["end_requested"]) == ("created", False)


async def test_two_keys_of_one_team_do_not_share_threads(api: Api) -> None:
    thread_id = (await api.join())["workflow_thread_id"]
    colleague = api.as_key(api.new_key("team_a"))
    assert (await colleague.get(f"/api/threads/{thread_id}")).status_code == 404
    assert (await colleague.get("/api/threads")).json()["threads"] == []


async def test_a_cursor_of_another_key_shows_nothing_of_it(api: Api) -> None:
    for _ in range(3):
        await api.join()
    cursor = (await api.client.get("/api/threads?limit=1")).json()["next_cursor"]
    response = await api.other.get("/api/threads", params={"cursor": cursor})
    assert response.json()["threads"] == []


async def test_ending_before_anybody_connected_cancels(api: Api) -> None:
    thread_id = (await api.join())["workflow_thread_id"]
    response = await api.client.post(f"/api/bot/{thread_id}/end")
    assert response.status_code == 200
    assert response.json() == {
        "workflow_thread_id": thread_id,
        "status": "cancelled",
        "end_requested": False,
    }
    assert response.json().keys() == EndAnswer.model_fields.keys()
    assert api.calls.ended == []


async def test_an_end_that_meets_a_connection_cancels_nothing(api: Api, postgres_url: str) -> None:
    """Somebody connects while the end looks at the thread: it waits, and finds a call to end."""
    thread_id = (await api.join())["workflow_thread_id"]
    with claimed(postgres_url, thread_id) as commit:
        ending = asyncio.create_task(api.client.post(f"/api/bot/{thread_id}/end"))
        await so_many_wait(postgres_url, 1)
        commit()
        answer = (await ending).json()
    assert (answer["status"], answer["end_requested"]) == ("connecting", True)
    assert api.calls.ended == [UUID(thread_id)]
    thread = await api.database.get_workflow_thread_data(UUID(thread_id))
    assert (thread.status, thread.end_requested) == (Status.CONNECTING, True)


async def test_a_call_of_this_process_is_hung_up_here(api: Api) -> None:
    thread_id = (await api.join())["workflow_thread_id"]
    await api.in_call(thread_id)
    api.calls.here.add(UUID(thread_id))
    answer = (await api.client.post(f"/api/bot/{thread_id}/end")).json()
    assert (answer["status"], answer["end_requested"]) == ("in_call", True)
    assert api.calls.ended == [UUID(thread_id)]
    assert (await api.database.get_workflow_thread_data(UUID(thread_id))).end_requested


async def test_a_call_of_another_process_is_asked_to_hang_up(api: Api) -> None:
    thread_id = (await api.join())["workflow_thread_id"]
    await api.in_call(thread_id)
    for _ in range(2):
        answer = (await api.client.post(f"/api/bot/{thread_id}/end")).json()
        assert (answer["status"], answer["end_requested"]) == ("in_call", True)
    assert (await api.database.get_workflow_thread_data(UUID(thread_id))).end_requested


async def test_ending_what_is_over_changes_nothing(api: Api) -> None:
    thread_id = (await api.join())["workflow_thread_id"]
    await api.over(thread_id)
    for _ in range(2):
        answer = (await api.client.post(f"/api/bot/{thread_id}/end")).json()
        assert (answer["status"], answer["end_requested"]) == ("completed", False)
    assert api.calls.ended == []
