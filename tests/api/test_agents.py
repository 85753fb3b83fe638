"""Agents over HTTP: stored by a team, named by its joins, kept by the threads."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from flow.insights.schema_checker import Checker
from tests.api.conftest import Api

RESERVATIONS: dict[str, Any] = {
    "name": "reservations",
    "bot": {
        "system_prompt": "You take reservations for {{restaurant}}.",
        "greeting": "Hello {{name|and welcome}}!",
        "llm": {"temperature": 0.5},
    },
    "insights": {"instructions": "For {{restaurant}}: the date."},
    "max_duration_secs": 600,
    "metadata": {"from": "agent"},
}
GIVEN = {"restaurant": "Luigi's"}


async def made(api: Api, **said: Any) -> dict[str, Any]:
    answer = await api.client.post("/api/agents", json={**RESERVATIONS, **said})
    assert answer.status_code == 201, answer.text
    agent: dict[str, Any] = answer.json()
    return agent


async def test_an_agent_is_made_changed_read_and_archived(api: Api) -> None:
    agent = await made(api)
    url = f"/api/agents/{agent['id']}"
    assert agent["version"] == 1
    assert agent.items() >= RESERVATIONS.items()
    changed = await api.client.put(
        url,
        json={"name": "tables"},
        headers={"If-Match": (await api.client.get(url)).headers["etag"]},
    )
    assert changed.status_code == 200
    assert changed.json().keys() & RESERVATIONS.keys() == {"name"}
    assert (changed.json()["version"], changed.headers["etag"]) == (2, '"2"')
    assert (await api.client.get(url)).json() == changed.json()
    assert (await api.client.get(url, params={"version": 1})).json() == agent
    assert (await api.client.get(url, params={"version": 3})).status_code == 404
    [listed] = (await api.client.get("/api/agents")).json()["agents"]
    assert listed == changed.json()
    archived = (await api.client.delete(url)).json()
    assert archived["archived_at"] is not None
    assert (await api.client.delete(url)).json() == archived
    assert (await api.client.get("/api/agents")).json()["agents"] == []
    everything = await api.client.get("/api/agents", params={"archived": True})
    assert everything.json()["agents"] == [archived]
    assert (await api.client.put(url, json={"name": "x"})).json()["code"] == "agent_archived"


MATCHES = {
    '"1"': 200,
    "1": 200,
    'W/"1"': 200,
    "*": 200,
    '"2"': 412,
    '"0"': 422,
    '"1", "2"': 422,
    "x": 422,
}


@pytest.mark.parametrize(("match", "status"), MATCHES.items(), ids=MATCHES)
async def test_a_change_says_what_it_changes(api: Api, match: str, status: int) -> None:
    url = f"/api/agents/{(await made(api))['id']}"
    answer = await api.client.put(url, json={"name": "x"}, headers={"If-Match": match})
    assert answer.status_code == status
    if status == 412:
        assert answer.json()["code"] == "version_mismatch"
    version = (await api.client.get(url)).json()["version"]
    assert version == (2 if status == 200 else 1)


async def test_another_team_finds_no_agent(api: Api) -> None:
    agent = await made(api)
    url = f"/api/agents/{agent['id']}"
    for answer in (
        await api.other.get(url),
        await api.other.put(url, json={"name": "x"}),
        await api.other.delete(url),
        await api.other.post("/api/bot/join", json={"agent": agent["id"], "variables": GIVEN}),
        await api.other.post("/api/bot/join", json={"agent": "reservations", "variables": GIVEN}),
        await api.other.get("/api/threads", params={"agent": agent["id"]}),
    ):
        assert answer.status_code == 404, answer.text
    assert (await api.other.get("/api/agents")).json()["agents"] == []
    assert (await api.client.get(url)).json() == agent


async def test_a_team_shares_its_agents(api: Api) -> None:
    agent = await made(api)
    same_team = api.as_key(api.new_key("team_a"))
    assert (await same_team.get(f"/api/agents/{agent['id']}")).json() == agent
    taken = await same_team.post("/api/agents", json=RESERVATIONS)
    assert (taken.status_code, taken.json()["code"]) == (409, "agent_name_taken")


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "no name": ({"name": None}, 422, "name"),
    "an unknown field": ({"nonsense": 1}, 422, "nonsense"),
    "a transport": ({"transport": {}}, 422, "transport"),
    "an unknown field of the bot": ({"bot": {"nonsense": 1}}, 422, "bot.nonsense"),
    "a vendor that is not there": ({"bot": {"llm": {"provider": "x"}}}, 422, "bot.llm.provider"),
    "a product that is not there": ({"product": "x"}, 403, ""),
    "a placeholder that is none": ({"bot": {"greeting": "{{a b}}"}}, 422, "bot.greeting"),
    "a schema that is none": ({"insights": {"schema": {"type": "x"}}}, 422, "insights.schema"),
    "a webhook inside": ({"webhook_url": "https://10.0.0.1/x"}, 422, "webhook_url"),
    "tools twice": ({"bot": {"tools": []}, "tools": []}, 422, "tools"),
    "a tool that is none": ({"tools": [{"type": "x"}]}, 422, "tools.0"),
    "a tool inside": (
        {
            "tools": [
                {
                    "type": "http",
                    "name": "book",
                    "description": "Books.",
                    "url": "https://10.0.0.1/x",
                }
            ]
        },
        422,
        "tools.0.url",
    ),
    "a tool inside, in its bot": (
        {"bot": {"tools": [{"type": "mcp", "url": "https://10.0.0.1/x"}]}},
        422,
        "bot.tools.0.url",
    ),
    "a tool with a placeholder that is none": (
        {"tools": [{"type": "mcp", "url": "https://example.com/{{a b}}"}]},
        422,
        "tools.0.url",
    ),
    "a recording for too long": (
        {"recording": {"retention_days": 4000}},
        422,
        "recording.retention_days",
    ),
    "much metadata": ({"metadata": {"x": "y" * 20_000}}, 422, "metadata"),
}


@pytest.mark.parametrize(("said", "status", "field"), REFUSED.values(), ids=REFUSED)
async def test_an_agent_is_judged_as_a_join_is(
    api: Api, said: dict[str, Any], status: int, field: str
) -> None:
    kept = await made(api, name="kept")
    for answer in (
        await api.client.post("/api/agents", json={**RESERVATIONS, **said}),
        await api.client.put(f"/api/agents/{kept['id']}", json={**RESERVATIONS, **said}),
    ):
        assert answer.status_code == status, answer.text
        if field:
            assert field in [problem["field"] for problem in answer.json()["errors"]]
    assert (await api.client.get("/api/agents")).json()["agents"] == [kept]


TRANSFER = {"type": "transfer_call", "targets": {"sales": "+493012345"}}


@pytest.mark.parametrize(
    ("said", "of_agent"),
    [({}, True), ({"bot": {"greeting": "Hi."}}, True), ({"bot": {"tools": [TRANSFER]}}, False)],
)
async def test_what_an_agent_says_and_a_call_cannot_do_is_told_with_the_agent(
    api: Api, said: dict[str, Any], of_agent: bool
) -> None:
    await made(api, name="seller", bot={}, insights={}, tools=[TRANSFER])
    answer = await api.client.post("/api/bot/join", json={"agent": "seller", **said})
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert error["field"] == "bot.tools.0.type"
    assert "calls over websocket have no transfer_call" in error["message"]
    assert error["message"].startswith("of the agent seller: ") is of_agent


async def test_the_schema_of_a_tool_is_judged_once_and_that_of_a_joins_own_each_time(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = {
        "type": "http",
        "name": "book",
        "description": "Books.",
        "url": "https://example.com/{{restaurant|x}}",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    }
    await made(api, name="booker", tools=[book])
    asked: list[Any] = []

    async def judged(_: Checker, schema: Any) -> str | None:
        asked.append(schema)
        return None

    monkeypatch.setattr(Checker, "schema_problem", judged)
    by_agent = {"agent": "booker", "variables": GIVEN}
    for join, times in (
        (by_agent, 0),
        (by_agent | {"bot": {"greeting": "Hi."}}, 0),
        (by_agent | {"bot": {"tools": [book]}}, 1),
        ({"bot": {"tools": [book]}}, 1),
    ):
        asked.clear()
        answer = await api.client.post("/api/bot/join", json=join)
        assert answer.status_code == 201, answer.text
        assert len(asked) == times, join


@pytest.mark.parametrize(
    ("said", "recorded"),
    [
        ({}, {"retention_days": 2}),
        ({"recording": True}, {"retention_days": 2}),
        ({"recording": False}, None),
    ],
    ids=str,
)
async def test_an_agent_asks_for_a_recording_unless_the_join_says_otherwise(
    api: Api, said: dict[str, Any], recorded: Any
) -> None:
    agent = await made(api, recording={"retention_days": 2})
    assert agent["recording"] == {"retention_days": 2}
    joined = await api.client.post(
        "/api/bot/join", json={"agent": agent["id"], "variables": GIVEN, **said}
    )
    assert joined.status_code == 201, joined.text
    url = f"/api/threads/{joined.json()['workflow_thread_id']}"
    shown = (await api.client.get(url)).json()
    assert shown["request"]["recording"] == recorded
    assert (shown["recording"] is not None) is (recorded is not None)


async def test_no_reader_is_shown_the_headers_of_tools(api: Api) -> None:
    tool = {"type": "mcp", "url": "https://mcp.example.com/x", "headers": {"X-Key": "{{secret}}"}}
    agent = await made(api, tools=[tool])
    hidden = tool | {"headers": {"X-Key": "*" * 10}}
    url = f"/api/agents/{agent['id']}"
    [listed] = (await api.client.get("/api/agents")).json()["agents"]
    for shown in (agent, (await api.client.get(url)).json(), listed):
        assert shown["tools"] == [hidden]
    refused = await api.client.put(url, json={"name": "x", "tools": [hidden]})
    assert refused.status_code == 422
    assert "send the value itself" in refused.json()["errors"][0]["message"]
    joined = await api.join({"agent": agent["id"], "variables": {**GIVEN, "secret": "s3cret"}})
    thread_id = joined["workflow_thread_id"]
    shown = (await api.client.get(f"/api/threads/{thread_id}")).json()
    assert shown["request"]["bot"]["tools"][0]["headers"] == {"X-Key": "*" * 10}
    stored = await api.database.get_workflow_thread_data(UUID(thread_id))
    assert stored.join.to_json()["bot"]["tools"][0]["headers"] == {"X-Key": "s3cret"}


async def test_a_repeat_makes_no_second_agent(api: Api) -> None:
    headers = {"Idempotency-Key": "once"}
    posts = [api.client.post("/api/agents", json=RESERVATIONS, headers=headers) for _ in range(3)]
    answers = await asyncio.gather(*posts)
    assert sorted(answer.status_code for answer in answers) == [200, 200, 201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 2
    other = await api.client.post("/api/agents", json={"name": "x"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")


async def test_a_join_by_id_and_by_name_is_of_the_newest_version(api: Api) -> None:
    agent = await made(api)
    url = f"/api/agents/{agent['id']}"
    await api.client.put(url, json={**RESERVATIONS, "max_duration_secs": 60})
    lasts = {
        "reservations": 60,
        agent["id"]: 60,
        "version 1": 600,
    }
    for ref, secs in lasts.items():
        named = {"id": agent["id"], "version": 1} if ref == "version 1" else ref
        joined = await api.join({"agent": named, "variables": GIVEN})
        thread = (await api.client.get(f"/api/threads/{joined['workflow_thread_id']}")).json()
        assert thread["request"]["max_duration_secs"] == secs
        assert thread["agent"] == {"id": agent["id"], "version": 1 if secs == 600 else 2}


async def test_the_thread_keeps_what_its_agent_and_variables_came_to(api: Api) -> None:
    agent = await made(api)
    given = {**GIVEN, "name": "Ada", "unused": 4}
    bot = {"greeting": "Ciao {{name}}!"}
    joined = await api.join({"agent": agent["id"], "variables": given, "bot": bot})
    await api.join()
    thread_id = joined["workflow_thread_id"]
    thread = (await api.client.get(f"/api/threads/{thread_id}")).json()
    assert thread["variables"] == given
    assert thread["metadata"] == {"from": "agent"}
    request = thread["request"]
    assert request["bot"]["system_prompt"] == "You take reservations for Luigi's."
    assert request["bot"]["greeting"] == "Ciao Ada!"
    assert request["bot"]["llm"]["temperature"] == 0.5
    assert request["insights"]["instructions"] == "For Luigi's: the date."
    for ref in ("reservations", agent["id"]):
        page = (await api.client.get("/api/threads", params={"agent": ref})).json()
        assert [one["workflow_thread_id"] for one in page["threads"]] == [thread_id]
        assert page["threads"][0]["agent"] == {"id": agent["id"], "version": 1}
    unfiltered = (await api.client.get("/api/threads")).json()["threads"]
    assert [one["agent"] is None for one in unfiltered] == [True, False]


async def test_a_missing_variable_is_named_with_its_fields(api: Api) -> None:
    agent = await made(api)
    answer = await api.client.post("/api/bot/join", json={"agent": agent["id"]})
    assert answer.status_code == 422
    errors = answer.json()["errors"]
    assert [one["field"] for one in errors] == ["bot.system_prompt", "insights.instructions"]
    assert all("'restaurant'" in one["message"] for one in errors)
    assert (await api.client.get("/api/threads")).json()["threads"] == []


async def test_a_join_without_an_agent_has_variables_too(api: Api) -> None:
    said = {"bot": {"greeting": "Hi {{name}}"}, "variables": {"name": "Ada"}}
    thread_id = (await api.join(said))["workflow_thread_id"]
    thread = (await api.client.get(f"/api/threads/{thread_id}")).json()
    assert (thread["request"]["bot"]["greeting"], thread["agent"]) == ("Hi Ada", None)


@pytest.mark.parametrize(
    "ref", ["nobody", str(uuid4()), {"id": "reservations", "version": 2}], ids=["name", "id", "v"]
)
async def test_a_join_of_an_agent_that_is_not_there_is_refused(api: Api, ref: Any) -> None:
    await made(api)
    answer = await api.client.post("/api/bot/join", json={"agent": ref, "variables": GIVEN})
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_agent")


async def test_an_archived_agent_has_no_new_calls_and_keeps_its_old(api: Api) -> None:
    agent = await made(api)
    body = {"agent": agent["id"], "variables": GIVEN}
    headers = {"Idempotency-Key": "before"}
    joined = await api.join(body, headers)
    await api.client.delete(f"/api/agents/{agent['id']}")
    answer = await api.client.post("/api/bot/join", json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "agent_archived")
    thread = (await api.client.get(f"/api/threads/{joined['workflow_thread_id']}")).json()
    assert thread["agent"] == {"id": agent["id"], "version": 1}
    assert thread["request"]["max_duration_secs"] == 600
    assert (await api.join(body, headers))["workflow_thread_id"] == joined["workflow_thread_id"]


async def test_a_repeated_join_is_what_was_asked_whatever_its_agent_has_become(api: Api) -> None:
    agent = await made(api)
    body = {"agent": agent["id"], "variables": GIVEN}
    headers = {"Idempotency-Key": "k"}
    first = await api.join(body, headers)
    await api.client.put(
        f"/api/agents/{agent['id']}", json={"name": "new", "bot": {"greeting": "{{other}}"}}
    )
    assert (await api.join(body, headers))["workflow_thread_id"] == first["workflow_thread_id"]
    for other in (
        {**body, "product": "voice_bot"},
        {**body, "variables": {"restaurant": "Mario's"}},
        {**body, "agent": {"id": agent["id"], "version": 1}},
        {},
    ):
        answer = await api.client.post("/api/bot/join", json=other, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_conflict"), other
