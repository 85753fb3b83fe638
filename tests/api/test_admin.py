"""Operators over HTTP: who may, what they see of all keys, and what they can change."""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from structlog.testing import capture_logs

from flow.api.admin.keys import IssuedKey, KeyDetails, KeyPage
from flow.api.admin.threads import OperatorThreadDetails, OperatorThreadPage
from flow.api.app import create_app
from flow.db.webhooks import Webhooks
from flow.domain.calls.host import HostReport
from flow.domain.calls.thread import Status, Turn
from flow.domain.limits.permissions import ADMIN, CONTENT, TEAM_LIMITS
from flow.errors import DatabaseUnavailable
from tests.api.conftest import Api, ServeApi, spend

SPOKEN = "My card ends in 4242."
PROMPT = "You are the agent of Acme."
INSIGHTS = {"summary": "Wants to pay."}
REPORT = HostReport(
    version="1.2.3",
    calls=1,
    capacity=20,
    draining=False,
    workflows=True,
    spool_events=3,
    spool_oldest_secs=0.5,
)
NOWHERE = str(uuid4())


@pytest.fixture
async def api(serve_api: ServeApi) -> Api:
    """An API that can make and revoke keys."""
    return await serve_api(with_unkey_admin=True)


def an_operator(api: Api, *permissions: str) -> httpx.AsyncClient:
    """A client with a key of an operator, of a team without calls."""
    return api.as_key(api.new_key("operators", [ADMIN, *permissions]))


async def get(client: httpx.AsyncClient, path: str, **params: Any) -> Any:
    """The JSON of a path under ``/api/admin/``."""
    response = await client.get(f"/api/admin/{path}", params=params)
    assert response.status_code == httpx.codes.OK, response.text
    return response.json()


def admin_routes(api: Api) -> Iterator[tuple[str, str]]:
    """Method and path of each route, with an id that nothing has."""
    for path, operations in create_app(api.services).openapi()["paths"].items():
        if path.startswith("/api/admin"):
            for method in operations:
                yield method.upper(), re.sub(r"\{[^}]+\}", NOWHERE, path)


async def test_only_operators_keys_get_behind_any_route(api: Api) -> None:
    operator = an_operator(api)
    routes = list(admin_routes(api))
    assert len(routes) >= 20
    for method, path in [*routes, ("GET", "/api/admin/nothing"), ("GET", "/api/admin/")]:
        answers = [
            await client.request(method, path, json={})
            for client in (api.anonymous, api.client, operator)
        ]
        codes = [answer.json().get("code") for answer in answers]
        assert codes[:2] == ["missing_api_key", "insufficient_permissions"], (method, path)
        assert [answer.status_code for answer in answers[:2]] == [401, 403]
        assert answers[2].status_code in {200, 404, 422}, (method, path)
    # What a key may not see is refused before it is looked at.
    thread = await api.join()
    found, missing, broken = [
        (await api.client.post(f"/api/admin/threads/{thread_id}/end", content=body)).json()
        for thread_id, body in (
            (thread["workflow_thread_id"], "{}"), (NOWHERE, "{}"), (NOWHERE, "{"),
        )
    ]  # fmt: skip
    for answer in (found, missing, broken):
        del answer["request_id"]
    assert found == missing == broken
    assert (await api.client.get("/api/threads")).json()["threads"][0]["status"] == "created"


async def test_a_key_can_read_what_it_may_do(api: Api) -> None:
    operator = an_operator(api)
    told = (await operator.get("/api/key")).json()
    assert (told["is_operator"], told["permissions"]) == (True, [ADMIN])
    told = (await api.client.get("/api/key")).json()
    assert told == {
        "api_key_id": str((await api.key_of(api.client)).id),
        "name": "A key",
        "team_id": "team_a",
        "permissions": [],
        "is_operator": False,
    }
    assert (await api.anonymous.get("/api/key")).status_code == 401


async def test_keys_are_listed_by_pages_and_filters(api: Api) -> None:
    operator = an_operator(api)
    for n in range(5):
        await api.database.resolve_api_key(f"key_{n}", "acme" if n % 2 else "umbrella", f"Key {n}")
    thread = await api.join()
    await spend(api, thread["workflow_thread_id"], "1.9")
    spender = await api.key_of(api.client)
    await api.database.operating.set_budget(spender.id, Decimal(2))
    revoked = await api.database.operating.get_api_key("key_3")
    await api.database.operating.revoke_api_key(revoked.key.id)
    seen: list[str] = []
    cursor = None
    while True:
        params = {"limit": 3, **({"cursor": cursor} if cursor else {})}
        page = await get(operator, "keys", **params)
        KeyPage.model_validate(page)
        seen += [one["unkey_key_id"] for one in page["keys"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert len(seen) == len(set(seen)) == 7
    assert [name for name in seen if name.startswith("key_") and len(name) == 5] == [
        f"key_{n}" for n in reversed(range(5))
    ]
    for params, names in [
        ({"team_id": "acme"}, ["Key 3", "Key 1"]),
        ({"search": "key 2"}, ["Key 2"]),
        ({"search": "key_4"}, ["Key 4"]),
        ({"search": str(spender.id)}, ["A key"]),
        ({"tier": "engage"}, ["A key"]),
        ({"tier": "exceeded"}, []),
        ({"revoked": "true"}, ["Key 3"]),
        ({"revoked": "false", "team_id": "acme"}, ["Key 1"]),
    ]:
        assert [one["name"] for one in (await get(operator, "keys", **params))["keys"]] == names
    (shown,) = (await get(operator, "keys", tier="engage"))["keys"]
    assert shown["budget"] | {"resets_at": None} == {
        "tier": "engage",
        "cap_usd": "2",
        "spent_usd": "1.9",
        "reserved_usd": "0",
        "remaining_usd": "0.1",
        "resets_at": None,
    }
    assert shown["running_calls"] == 1
    (without,) = (await get(operator, "keys", search="key_1"))["keys"]
    assert [without["budget"][name] for name in ("tier", "cap_usd", "remaining_usd")] == [None] * 3


async def test_a_key_is_made_limited_and_revoked(api: Api) -> None:
    operator = an_operator(api, TEAM_LIMITS)
    asked = {
        "team_id": "acme",
        "name": "Ada",
        "permissions": [TEAM_LIMITS],
        "budget_usd": "12.50",
        "expires_at": "2090-01-01T00:00:00Z",
    }
    made = await operator.post("/api/admin/keys", json=asked)
    assert made.status_code == 201, made.text
    IssuedKey.model_validate(made.json())
    secret, path = made.json()["secret"], f"/api/admin/keys/{made.json()['api_key_id']}"
    customer = api.as_key(secret)
    assert (await customer.get("/api/key")).json()["permissions"] == [TEAM_LIMITS]
    details = (await operator.get(path)).json()
    KeyDetails.model_validate(details)
    assert (details["budget"]["cap_usd"], details["unkey"]["enabled"]) == ("12.5", True)
    assert secret not in (await operator.get(path)).text
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    for change, field, value in [
        ({"budget_usd": "7.25"}, "budget.cap_usd", "7.25"),
        ({"budget_usd": 8}, "budget.cap_usd", "8"),
        ({"override_until": until}, "budget.tier", "override"),
        ({"override_until": None}, "budget.tier", "ok"),
        ({"save_mode": "on"}, "save_mode", "on"),
        ({"save_mode": None}, "save_mode", None),
        ({"webhook_url": "https://hooks.example.com/a"}, "webhook_url", None),
        ({"budget_usd": None}, "budget.cap_usd", None),
    ]:
        told = await operator.patch(path, json=change)
        assert told.status_code == 200, told.text
        found: Any = told.json()
        for name in field.split("."):
            found = found[name]
        assert found == (value or change.get(field))
    assert (await operator.post(f"{path}/revoke")).json()["revoked_at_unkey"] is True
    assert (await operator.get(path)).json()["revoked_at"] is not None
    refused = await api.as_key(secret).post("/api/bot/join", json={})
    assert refused.status_code in {401, 403}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({}, ""),
        ({"budget_usd": "0"}, "budget_usd"),
        ({"budget_usd": "-1"}, "budget_usd"),
        ({"budget_usd": "NaN"}, "budget_usd"),
        ({"budget_usd": "1000000000000"}, "budget_usd"),
        ({"save_mode": "maybe"}, "save_mode"),
        ({"override_until": "2020-01-01T00:00:00Z"}, "override_until"),
        ({"override_until": "2090-01-01T00:00:00"}, "override_until"),
        ({"webhook_url": "http://127.0.0.1/"}, "webhook_url"),
        ({"budget": "5"}, "budget"),
    ],
)
async def test_a_wrong_change_is_named_and_changes_nothing(
    api: Api, change: dict[str, Any], field: str
) -> None:
    operator, key = an_operator(api), await api.key_of(api.client)
    await api.database.operating.set_budget(key.id, Decimal(3))
    refused = await operator.patch(f"/api/admin/keys/{key.id}", json={**change})
    assert refused.status_code == 422, refused.text
    assert [error["field"] for error in refused.json()["errors"]] == [field]
    account = await api.database.operating.get_api_key(str(key.id))
    assert (account.budget.cap_usd, account.save_mode) == (Decimal(3), None)


async def test_an_operator_gives_no_permission_that_they_lack(api: Api) -> None:
    operator = an_operator(api)
    for permission in (CONTENT, "budget.override"):
        asked = {"team_id": "acme", "name": "Ada", "permissions": [permission]}
        refused = await operator.post("/api/admin/keys", json=asked)
        assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_permissions")
    assert (await get(operator, "keys", team_id="acme"))["keys"] == []


async def test_without_unkey_no_key_is_made(serve_api: ServeApi) -> None:
    api = await serve_api()
    asked = {"team_id": "acme", "name": "Ada"}
    refused = await an_operator(api).post("/api/admin/keys", json=asked)
    assert (refused.status_code, refused.json()["code"]) == (501, "unkey_not_set_up")


async def test_teams_are_shown_with_what_they_spend_and_their_quotas(api: Api) -> None:
    operator = an_operator(api)
    thread = await api.join()
    await spend(api, thread["workflow_thread_id"], "1.25")
    await api.other.get("/api/key")
    odd = "umbrella/labs %"
    path = (
        f"/api/admin/teams/{httpx.URL('http://x/' + odd.replace('%', '%25')).raw_path[1:].decode()}"
    )
    changed = await operator.put(f"{path}/quotas/call_seconds", json={"limit": "90.5"})
    assert changed.status_code == 200, changed.text
    assert (await operator.get(path)).json()["team_id"] == odd
    first = await get(operator, "teams", limit=2)
    second = await get(operator, "teams", limit=2, cursor=first["next_cursor"])
    shown = {one["team_id"]: one for one in [*first["teams"], *second["teams"]]}
    assert list(shown) == ["operators", "team_a", "team_b", odd]
    assert second["next_cursor"] is None
    of_a = shown["team_a"]
    facts = ("keys", "running_calls", "spent_usd", "billable_usd")
    assert [of_a[name] for name in facts] == [1, 1, "1.25", "1.25"]
    (seconds,) = [one for one in shown[odd]["limits"] if one["resource"] == "call_seconds"]
    assert (seconds["limit"], seconds["limited"]) == ("90.5", False)
    assert [one["team_id"] for one in (await get(operator, "teams", search="LABS"))["teams"]] == [
        odd
    ]
    lifted = await operator.put(f"{path}/quotas/call_seconds", json={"limit": None})
    assert lifted.status_code == 404  # It had nothing else: there is no such team any more.
    for resource, body in [
        ("coffee", {"limit": "1"}),
        ("call_seconds", {"limit": "-1"}),
        ("call_seconds", {}),
    ]:
        refused = await operator.put(f"/api/admin/teams/team_a/quotas/{resource}", json=body)
        assert refused.status_code == 422, refused.text


async def a_running_call(api: Api, host: str = "blue-0") -> UUID:
    """A call that a process of this name holds, with a transcript."""
    body = {"bot": {"system_prompt": PROMPT}, "metadata": {"order": 7}}
    thread_id = UUID((await api.join(body))["workflow_thread_id"])
    await api.database.claim_thread(thread_id, f"{host}/{uuid4()}")
    turn = Turn(0, "user", SPOKEN, datetime.now(UTC))
    await api.database.save_workflow_thread_data(
        thread_id, status=Status.IN_CALL, turns=[turn], insights=INSIGHTS
    )
    return thread_id


async def test_running_threads_of_all_keys_are_shown_with_their_hosts(api: Api) -> None:
    operator = an_operator(api)
    running = await a_running_call(api, "blue/eu-0")
    waiting = (await api.join())["workflow_thread_id"]
    other = (await api.other.post("/api/bot/join", json={})).json()["workflow_thread_id"]
    page = await get(operator, "threads")
    OperatorThreadPage.model_validate(page)
    assert [one["workflow_thread_id"] for one in page["threads"]] == [other, waiting, str(running)]
    today, key = datetime.now(UTC).date(), await api.key_of(api.client)
    for params, count in [
        ({"running": "true"}, 1),
        ({"host": "blue/eu-0"}, 1),
        ({"host": "blue"}, 0),
        ({"status": "created"}, 2),
        ({"team_id": "team_b"}, 1),
        ({"api_key_id": key.id}, 2),
        ({"product": "playground"}, 0),
        ({"from": today, "to": today}, 3),
        ({"to": today - timedelta(days=1)}, 0),
        ({"from": today + timedelta(days=1)}, 0),
        ({"running": "true", "status": "in_call", "team_id": "team_a", "from": today}, 1),
    ]:
        found = (await get(operator, "threads", **params))["threads"]
        assert len(found) == count, params
    (one,) = (await get(operator, "threads", running="true"))["threads"]
    facts = ("workflow_thread_id", "host", "team_id", "key_name", "transport", "status")
    assert [one[name] for name in facts] == [
        *(str(running), "blue/eu-0", "team_a", "A key", "websocket", "in_call")
    ]
    assert one["heartbeat_at"] is not None
    first = await get(operator, "threads", limit=2)
    second = await get(operator, "threads", limit=2, cursor=first["next_cursor"])
    assert [one["workflow_thread_id"] for one in second["threads"]] == [str(running)]
    backwards = await operator.get(f"/api/admin/threads?from={today}&to=2020-01-01")
    assert backwards.status_code == 422


async def test_content_is_for_operators_who_may_see_it(api: Api) -> None:
    thread_id = await a_running_call(api)
    path = f"/api/admin/threads/{thread_id}"
    blind = await an_operator(api).get(path)
    for secret in (SPOKEN, PROMPT, "Wants to pay", "order"):
        assert secret not in blind.text
    told = blind.json()
    OperatorThreadDetails.model_validate(told)
    assert told["content_shown"] is False
    assert [(turn["seq"], turn["role"], turn["content"]) for turn in told["transcript"]] == [
        (0, "user", None)
    ]
    seeing = (await an_operator(api, CONTENT).get(path)).json()
    as_owner = (await api.client.get(f"/api/threads/{thread_id}")).json()
    assert seeing["content_shown"] is True
    assert {name: seeing[name] for name in as_owner.keys() & seeing.keys()} == {
        name: as_owner[name] for name in as_owner.keys() & seeing.keys()
    }
    assert seeing["transcript"][0]["content"] == SPOKEN
    # Lists never have any.
    listed = await an_operator(api, CONTENT).get("/api/admin/threads")
    assert PROMPT not in listed.text


async def test_an_operator_ends_the_calls_of_others(api: Api) -> None:
    operator = an_operator(api)
    here, waiting = await a_running_call(api), UUID((await api.join())["workflow_thread_id"])
    api.calls.here.add(here)
    with capture_logs() as logs:
        ended = (await operator.post(f"/api/admin/threads/{here}/end")).json()
    assert (ended["status"], ended["end_requested"]) == ("in_call", True)
    assert api.calls.ended == [here]
    # A process elsewhere is told with its next sign of life.
    assert (await api.database.touch_thread(here)).end_requested
    cancelled = (await operator.post(f"/api/admin/threads/{waiting}/end")).json()
    assert cancelled["status"] == "cancelled"
    (line,) = [line for line in logs if line["event"] == "operator_change"]
    assert line["change"] == "thread_ended"
    assert UUID(line["api_key_id"]) == (await api.key_of(operator)).id
    usage = await get(operator, f"threads/{here}/usage")
    assert usage == {"workflow_thread_id": str(here), "events": []}


async def test_a_change_is_logged_before_it_is_made_and_again_where_it_fails(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, key = an_operator(api), await api.key_of(api.client)

    async def away(*_: object) -> None:
        assert [line["event"] for line in logs][-1] == "operator_change"
        raise DatabaseUnavailable

    monkeypatch.setattr(Webhooks, "set_url", away)
    change = {"budget_usd": "9", "webhook_url": "https://hooks.example.com/x"}
    with capture_logs() as logs:
        answer = await operator.patch(f"/api/admin/keys/{key.id}", json=change)
    assert answer.status_code == 503
    told = [line for line in logs if line["event"].startswith("operator_change")]
    assert [line["event"] for line in told] == ["operator_change", "operator_change_failed"]
    assert told[0]["fields"] == ["budget_usd", "webhook_url"]
    assert told[0]["changed_key"] == str(key.id)


async def test_dead_webhooks_are_seen_and_sent_again(api: Api) -> None:
    operator, hook = an_operator(api), {"webhook_url": "https://hooks.example.com/x"}
    for n in range(3):
        join = await api.join({**hook, "metadata": {"order": n}})
        await api.database.finish_thread(UUID(join["workflow_thread_id"]), Status.FAILED)
    claimed = await api.database.webhooks.claim(limit=9, per_key=9, lease=timedelta(minutes=1))
    for one in claimed[:2]:
        await api.database.webhooks.note_failed(one, status=500, error=None, retry_in=None)
    everything = await get(operator, "webhooks", limit=2)
    rest = await get(operator, "webhooks", limit=2, cursor=everything["next_cursor"])
    assert len({one["event_id"] for one in [*everything["webhooks"], *rest["webhooks"]]}) == 3
    dead = (await get(operator, "webhooks", dead="true"))["webhooks"]
    assert {one["event_id"] for one in dead} == {str(one.event_id) for one in claimed[:2]}
    path = f"webhooks/{dead[0]['event_id']}"
    assert (await get(operator, path))["payload"]["data"]["metadata"] is None
    seeing = await get(an_operator(api, CONTENT), path)
    assert "order" in seeing["payload"]["data"]["metadata"]
    again = await operator.post(f"/api/admin/{path}/replay")
    assert (again.status_code, again.json()["state"]) == (200, "waiting")
    being_sent = await operator.post(f"/api/admin/webhooks/{claimed[2].event_id}/replay")
    assert (being_sent.status_code, being_sent.json()["code"]) == (409, "still_being_delivered")
    key = await api.key_of(api.client)
    for params, count in [({"api_key_id": NOWHERE}, 0), ({"api_key_id": key.id}, 1), ({}, 0)]:
        told = await operator.post("/api/admin/webhooks/replay", params=params)
        assert told.json() == {"replayed": count}


async def test_hosts_are_shown_as_they_last_were(api: Api) -> None:
    operator = an_operator(api)
    running, stopped = uuid4(), uuid4()
    await api.database.claim_executor("blue-0", "home", running, 60)
    before_beat = (await get(operator, "hosts"))["hosts"]
    assert (before_beat[0]["state"], before_beat[0]["report"]) == ("alive", None)
    await api.database.beat_executor("blue-0", "home", running, 60, REPORT)
    await a_running_call(api, "blue-0")
    await api.database.claim_executor("green-0", "other", stopped, 60)
    await api.database.beat_executor("green-0", "other", stopped, 60, replace(REPORT, calls=0))
    await api.database.release_executor("green-0", stopped)
    blue, green = (await get(operator, "hosts"))["hosts"]
    assert (blue["name"], blue["state"], blue["held_calls"]) == ("blue-0", "alive", 1)
    assert blue["report"] == {
        "version": "1.2.3",
        "calls": 1,
        "capacity": 20,
        "draining": False,
        "workflows": True,
        "spool_events": 3,
        "spool_oldest_secs": 0.5,
    }
    assert blue["silent_secs"] < 60
    assert (green["state"], green["report"]["calls"], green["held_calls"]) == ("stopped", 0, 0)


async def test_hosts_of_other_versions_are_shown_as_far_as_they_are_understood(api: Api) -> None:
    operator, known = an_operator(api), asdict(REPORT)
    older = {name: value for name, value in known.items() if name != "workflows"}
    for name, report in (("newer", known | {"load": 0.5}), ("older", older)):
        process = uuid4()
        await api.database.claim_executor(name, "home", process, 60)
        beat = {"p_id": name, "p_home": "home", "p_instance": str(process), "p_dead_secs": 60}
        await api.database._transport.call("beat_executor", beat | {"p_report": report})
    newer_host, older_host = (await get(operator, "hosts"))["hosts"]
    assert newer_host["report"] == known
    assert older_host["report"] == known | {"workflows": None}


async def test_the_ledger_is_shown_over_all_keys(api: Api) -> None:
    operator = an_operator(api)
    mine = (await api.join())["workflow_thread_id"]
    theirs = (await api.other.post("/api/bot/join", json={})).json()["workflow_thread_id"]
    now = datetime.now(UTC)
    await spend(api, mine, "1.5", occurred_at=now)
    await spend(api, theirs, None, occurred_at=now, model="gpt-9-ultra")
    usage = await get(operator, "usage", group_by="team,model")
    assert [(row["team_id"], row["model"], row["total_cost_usd"]) for row in usage["rows"]] == [
        ("team_a", "gpt-4.1", "1.5"),
        ("team_b", "gpt-9-ultra", None),
    ]
    sheet = await operator.get(
        "/api/admin/usage?group_by=key&team_id=team_a", headers={"Accept": "text/csv"}
    )
    assert sheet.headers["content-type"].startswith("text/csv")
    assert len(sheet.text.splitlines()) == 2
    unpriced = await get(operator, "unpriced")
    today = now.date().isoformat()
    assert unpriced["models"] == [
        {
            "provider": "openai",
            "model": "gpt-9-ultra",
            "kind": "llm",
            "unpriced_events": 1,
            "unmetered_events": 0,
            "keys": 1,
            "first_day": today,
            "last_day": today,
        }
    ]
    assert (await get(operator, "unpriced", team_id="team_a"))["models"] == []
    assert (await operator.get("/api/admin/usage?group_by=colour")).status_code == 422


async def test_rejected_usage_is_shown_as_it_came(api: Api) -> None:
    operator = an_operator(api)
    thread = await api.database.get_workflow_thread_data(
        UUID((await api.join())["workflow_thread_id"])
    )
    for n in range(3):
        event = {"id": str(uuid4()), "workflow_thread_id": str(thread.id), "odd": n}
        await api.database._transport.call("record_usage", {"p_events": [event]})
    first = await get(operator, "rejected", limit=2)
    second = await get(operator, "rejected", limit=2, cursor=first["next_cursor"])
    found = [*first["rejected"], *second["rejected"]]
    assert [one["event"]["odd"] for one in found] == [2, 1, 0]
    assert all(one["reason"] for one in found)
    assert second["next_cursor"] is None


async def test_an_operator_reads_the_limits_of_a_key_or_a_team(api: Api) -> None:
    operator, key = an_operator(api), await api.key_of(api.client)
    await api.database.operating.set_budget(key.id, Decimal(9))
    await api.database.operating.set_team_quota("team_a", "call_seconds", Decimal(60))
    of_key = (await operator.get("/api/limits", params={"api_key_id": key.id})).json()
    assert of_key["budget"]["cap_usd"] == "9.00"
    of_team = (await operator.get("/api/limits", params={"team_id": "team_a"})).json()
    assert {one["scope"] for one in of_team["limits"]} == {"team"}
    for told in (of_key, of_team):
        (seconds,) = [one for one in told["limits"] if one["resource"] == "call_seconds"]
        assert (seconds["used"], seconds["limit"]) == ("0", "60")
    for params, status in [
        ({"api_key_id": NOWHERE}, 404),
        ({"api_key_id": str(key.id), "team_id": "team_a"}, 422),
    ]:
        assert (await operator.get("/api/limits", params=params)).status_code == status
    for params in ({"api_key_id": str(key.id)}, {"team_id": "team_a"}):
        refused = await api.client.get("/api/limits", params=params)
        assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_permissions")


async def test_a_cursor_of_no_page_is_refused(api: Api) -> None:
    operator = an_operator(api)
    for path in ("keys", "teams", "threads", "webhooks", "rejected"):
        for place in ("x", "[]", '["a"]', "[1, 2]", '"\\u0000"', '["\\u0000"]', "[[]]", "[1e999]"):
            cursor = urlsafe_b64encode(place.encode()).decode()
            answer = await operator.get(f"/api/admin/{path}", params={"cursor": cursor})
            # Any text is a place among names.
            is_name = path == "teams" and place in {'["a"]'}
            assert answer.status_code == (200 if is_name else 422), (path, place)
