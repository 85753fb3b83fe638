"""The billing stand-in, asked over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from flow.sandbox.faults import Fault
from flow.sandbox.quota import TOKEN, Quota, QuotaSandbox
from tests.sandbox.conftest import Server

ASKED = {"team_id": "team 7", "api_key_id": "key_1", "product": "voice_bot"}
NOTHING_SAID = {"limited": False, "resource": None, "used": None, "limit": None, "resets_at": None}
AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def billing() -> QuotaSandbox:
    return QuotaSandbox()


async def test_a_team_it_was_told_nothing_about_may_go_on(
    server: Server, billing: QuotaSandbox
) -> None:
    http = await server.http(billing)
    answer = await http.get("/quota", params=ASKED, headers=AUTHORIZED)
    assert (answer.status_code, answer.json()) == (200, NOTHING_SAID)


async def test_a_team_is_told_what_was_set_for_it_and_no_other_is(
    server: Server, billing: QuotaSandbox
) -> None:
    billing.set_quota("team 7", Quota(limited=True, resource="minutes", used="7.5", limit="5"))
    http = await server.http(billing)
    answer = await http.get("/quota", params=ASKED, headers=AUTHORIZED)
    assert answer.json() == NOTHING_SAID | {
        "limited": True,
        "resource": "minutes",
        "used": "7.5",
        "limit": "5",
    }
    other = await http.get("/quota", params=ASKED | {"team_id": "team"}, headers=AUTHORIZED)
    assert other.json() == NOTHING_SAID


async def test_quotas_are_set_and_lifted_while_it_runs(
    server: Server, billing: QuotaSandbox
) -> None:
    http = await server.http(billing)
    for method, body, limited in (("PUT", {"limited": True}, True), ("DELETE", None, False)):
        changed = await http.request(method, "/_sandbox/quotas/team%207", json=body)
        assert changed.status_code == 200
        answer = await http.get("/quota", params=ASKED, headers=AUTHORIZED)
        assert answer.json()["limited"] is limited


@pytest.mark.parametrize(
    "body", [{"limited": "yes"}, {"limit": "-1"}, {"used": "NaN"}, {"unlimited": True}, [], "x"]
)
async def test_a_quota_that_makes_no_sense_is_not_set(
    server: Server, billing: QuotaSandbox, body: Any
) -> None:
    http = await server.http(billing)
    assert (await http.put("/_sandbox/quotas/team%207", json=body)).status_code == 400
    answer = await http.get("/quota", params=ASKED, headers=AUTHORIZED)
    assert answer.json() == NOTHING_SAID


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (AUTHORIZED, 200),
        ({}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": f"Basic {TOKEN}"}, 401),
        ({"authorization": f"Bearer {TOKEN}x"}, 401),
    ],
)
async def test_it_answers_only_whoever_has_its_token(
    server: Server, billing: QuotaSandbox, headers: dict[str, str], status: int
) -> None:
    http = await server.http(billing)
    http.headers.pop("authorization")
    answer = await http.get("/quota", params=ASKED, headers=headers)
    assert answer.status_code == status


async def test_without_a_token_it_answers_anybody(server: Server) -> None:
    http = await server.http(QuotaSandbox(token=None))
    http.headers.pop("authorization")
    assert (await http.get("/quota", params=ASKED)).status_code == 200


@pytest.mark.parametrize(
    "params",
    [
        {},
        ASKED | {"team_id": ""},
        {name: ASKED[name] for name in ("team_id", "product")},
        ASKED | {"product": ["a", "b"]},
    ],
    ids=["none", "empty", "missing", "twice"],
)
async def test_a_question_that_is_not_whole_is_refused(
    server: Server, billing: QuotaSandbox, params: Any
) -> None:
    http = await server.http(billing)
    answer = await http.get("/quota", params=params, headers=AUTHORIZED)
    assert answer.status_code == 400
    assert not billing.questions


async def test_it_lists_what_it_was_asked_and_never_a_token(
    server: Server, billing: QuotaSandbox
) -> None:
    http = await server.http(billing)
    await http.get("/quota", params=ASKED, headers=AUTHORIZED)
    listed = await http.get("/_sandbox/questions")
    (question,) = listed.json()
    assert question == ASKED | {"request_id": billing.requests[0].request_id, "limited": False}
    assert TOKEN not in listed.text + (await http.get("/_sandbox/requests")).text


async def test_it_fails_when_told_to_and_answered_nothing_then(
    server: Server, billing: QuotaSandbox
) -> None:
    http = await server.http(billing)
    billing.faults.add(Fault(kind="status", status=503, times=1))
    statuses = [
        (await http.get("/quota", params=ASKED, headers=AUTHORIZED)).status_code for _ in range(2)
    ]
    assert statuses == [503, 200]
    assert len(billing.questions) == 1
