"""Stored agents, by both transports: versions, names, archives, repeats."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from flow.db.database import Database
from flow.domain.agents.agent import Agent, AgentDefinition
from flow.domain.calls.join_request import AgentRef
from flow.errors import Conflict, InvalidInput, NotFound, VersionMismatch
from tests.db.making import JOIN, a_key


def a_definition(name: str = "reservations", **given: Any) -> AgentDefinition:
    return AgentDefinition.model_validate({"name": name, **given})


def a_team() -> str:
    return f"team_{uuid4().hex}"


async def made(database: Database, team: str, name: str = "reservations", **given: Any) -> Agent:
    agent, found = await database.agents.create(team, a_definition(name, **given))
    assert not found
    return agent


async def test_an_agent_comes_back_as_it_was_stored(database: Database) -> None:
    said = {
        "bot": {"greeting": "Hello {{name}}", "llm": {"temperature": 0.5}, "realtime": None},
        "insights": {"schema": {"type": "object", "properties": {"n": {"maximum": 2.5}}}},
        "metadata": {"order": 7, "nested": {"a": [1, None]}},
    }
    team = a_team()
    agent = await made(database, team, **said)
    assert (agent.version, agent.team_id, agent.archived_at) == (1, team, None)
    assert agent.definition == {"name": "reservations", **said}
    assert await database.agents.get(team, str(agent.id)) == agent
    assert await database.agents.get(team, "reservations") == agent
    assert await database.agents.get(None, str(agent.id)) == agent


async def test_each_version_stays_what_it_was(database: Database) -> None:
    team = a_team()
    first = await made(database, team)
    second = await database.agents.change(team, str(first.id), a_definition("other", product="p"))
    assert (second.version, second.name, second.created_at) == (2, "other", first.created_at)
    assert await database.agents.get(team, str(first.id), 1) == first
    assert await database.agents.get(team, "other") == second
    with pytest.raises(NotFound, match="no version 3; its newest is 2"):
        await database.agents.get(team, "other", 3)
    with pytest.raises(NotFound):
        await database.agents.get(team, "reservations")


async def test_a_change_of_what_was_changed_since_is_refused(database: Database) -> None:
    team = a_team()
    agent = await made(database, team)
    changes = [
        database.agents.change(team, str(agent.id), a_definition(product=f"p{n}"), if_version=1)
        for n in range(5)
    ]
    done = await asyncio.gather(*changes, return_exceptions=True)
    assert sorted(type(one).__name__ for one in done) == ["Agent"] + ["VersionMismatch"] * 4
    with pytest.raises(VersionMismatch, match="at version 2, not 1"):
        await database.agents.change(team, str(agent.id), a_definition(), if_version=1)


async def test_changes_at_the_same_time_make_a_version_each(database: Database) -> None:
    team = a_team()
    agent = await made(database, team)
    changes = [database.agents.change(team, str(agent.id), a_definition()) for _ in range(5)]
    assert sorted(one.version for one in await asyncio.gather(*changes)) == [2, 3, 4, 5, 6]


async def test_a_name_is_one_agents_until_that_is_archived(database: Database) -> None:
    team = a_team()
    first, other = await made(database, team), await made(database, team, "other")
    with pytest.raises(Conflict, match="named reservations") as taken:
        await made(database, team)
    assert taken.value.code == "agent_name_taken"
    with pytest.raises(Conflict, match="named reservations"):
        await database.agents.change(team, str(other.id), a_definition())
    archived = await database.agents.archive(team, "reservations")
    assert archived.archived_at is not None
    assert await database.agents.archive(team, str(first.id)) == archived
    assert await database.agents.get(team, "reservations") == archived
    second = await made(database, team)
    assert await database.agents.get(team, "reservations") == second
    with pytest.raises(Conflict) as refused:
        await database.agents.change(team, str(first.id), a_definition())
    assert refused.value.code == "agent_archived"


async def test_a_team_has_its_own_agents_only(database: Database) -> None:
    ours, theirs = a_team(), a_team()
    agent = await made(database, theirs)
    for reference in (str(agent.id), "reservations"):
        with pytest.raises(NotFound):
            await database.agents.get(ours, reference)
        with pytest.raises(NotFound):
            await database.agents.change(ours, reference, a_definition())
        with pytest.raises(NotFound):
            await database.agents.archive(ours, reference)
    assert (await database.agents.list(ours)).items == ()
    await made(database, ours)
    with pytest.raises(Conflict, match="say whose") as ambiguous:
        await database.agents.get(None, "reservations")
    assert ambiguous.value.code == "ambiguous"


async def test_a_repeat_makes_no_second_agent(database: Database) -> None:
    key = await a_key(database, a_team())
    again = {"api_key_id": key.id, "idempotency_key": "k", "fingerprint": "same"}
    racing = [database.agents.create(key.team_id, a_definition(), **again) for _ in range(4)]
    found = await asyncio.gather(*racing)
    assert len({agent.id for agent, _ in found}) == 1
    assert sorted(replayed for _, replayed in found) == [False, True, True, True]
    await database.agents.change(key.team_id, "reservations", a_definition("renamed"))
    agent, replayed = await database.agents.create(key.team_id, a_definition(), **again)
    assert (agent.version, replayed) == (1, True)
    with pytest.raises(Conflict) as refused:
        await database.agents.create(
            key.team_id, a_definition("other"), **again | {"fingerprint": "another"}
        )
    assert refused.value.code == "idempotency_conflict"


async def test_a_list_is_read_in_pages(database: Database) -> None:
    team = a_team()
    agents = [await made(database, team, f"agent {n}") for n in range(5)]
    await database.agents.archive(team, "agent 2")
    seen, cursor = [], None
    while True:
        page = await database.agents.list(team, limit=2, cursor=cursor)
        seen += [agent.name for agent in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert seen == ["agent 4", "agent 3", "agent 1", "agent 0"]
    whole = await database.agents.list(team, archived=True)
    assert [agent.id for agent in whole.items] == [agent.id for agent in reversed(agents)]
    with pytest.raises(InvalidInput):
        await database.agents.list(team, cursor="x")


async def test_a_thread_keeps_the_version_it_was_made_with(database: Database) -> None:
    key = await a_key(database, a_team())
    agent = await made(database, key.team_id)
    for ref in (agent.ref, None):
        join = JOIN.model_copy(update={"agent": ref, "variables": {"a": "x", "n": 2, "b": True}})
        await database.join_thread(
            key, uuid4(), join, billable=True, idempotency_key=None, fingerprint=""
        )
    await database.agents.archive(key.team_id, "reservations")
    page = await database.list_workflow_threads(key.id, agent_id=agent.id)
    [thread] = page.items
    assert thread.join.agent == AgentRef(id=str(agent.id), version=1)
    assert thread.join.variables == {"a": "x", "n": 2, "b": True}
    assert len((await database.list_workflow_threads(key.id)).items) == 2


async def test_no_thread_can_name_a_version_that_there_is_not(direct: Database) -> None:
    key = await a_key(direct)
    agent = await made(direct, key.team_id)
    join = JOIN.model_copy(update={"agent": AgentRef(id=str(agent.id), version=2)})
    with pytest.raises(InvalidInput):
        await direct.join_thread(
            key, uuid4(), join, billable=True, idempotency_key=None, fingerprint=""
        )


async def test_a_version_cannot_be_changed_by_anybody(
    direct: Database, sql: psycopg.Connection
) -> None:
    await made(direct, "team_1")
    for statement in ("update agent_versions set definition = '{}'", "delete from agent_versions"):
        with pytest.raises(psycopg.Error, match="does not change"):
            sql.execute(statement.encode())
