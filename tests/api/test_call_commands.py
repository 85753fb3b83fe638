"""What a customer has the bot of a running call say or know, as the API takes it."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from flow.api import call_commands
from flow.domain.calls.command import MAX_TEXT_CHARS, Command, MessageRequest, SayRequest
from tests.api.conftest import Api

SAY = {"text": "Hello!"}


async def running(api: Api) -> str:
    """The thread of a call that runs, in a process called ``a``."""
    thread_id = str((await api.join())["workflow_thread_id"])
    await api.database.claim_thread(UUID(thread_id), "a/1")
    await api.in_call(thread_id)
    return thread_id


async def taken(api: Api, thread_id: str, refusal: str | None = None) -> list[Command]:
    """Take what is left for the call, as its process does, as soon as there is something."""
    during = api.database.during_calls
    async with asyncio.timeout(20):
        while not (found := await during.take_commands({UUID(thread_id): "a/1"}, uuid4())):
            await asyncio.sleep(0.01)
    for command in found if refusal else ():
        await during.refuse_command(command.id, refusal or "")
    return found


async def post(
    client: httpx.AsyncClient, thread_id: str, kind: str, body: Any, key: str | None = None
) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await client.post(f"/api/bot/{thread_id}/{kind}", json=body, headers=headers)


async def test_a_command_is_answered_when_the_process_of_the_call_has_it(api: Api) -> None:
    thread_id = await running(api)
    steer = {"text": " Be brief. ", "role": "user", "respond": True}
    for kind, body, order in (
        ("say", SAY, SayRequest(text="Hello!")),
        ("say", {**SAY, "interrupt": True}, SayRequest(text="Hello!", interrupt=True)),
        ("message", steer, MessageRequest(text="Be brief.", role="user", respond=True)),
        ("message", SAY, MessageRequest(text="Hello!")),
    ):
        answer, [command] = await asyncio.gather(
            post(api.client, thread_id, kind, body), taken(api, thread_id)
        )
        assert (answer.status_code, command.order) == (202, order)
        assert answer.json() == {
            "command_id": str(command.id),
            "workflow_thread_id": thread_id,
            "status": "taken",
        }


async def test_a_command_nobody_takes_in_time_waits(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_commands, "ANSWER_SECS", 0.1)
    thread_id = await running(api)
    first = await post(api.client, thread_id, "say", SAY, "once")
    again = await post(api.client, thread_id, "say", SAY, "once")
    assert (first.json()["status"], first.json()) == ("waiting", again.json())
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    other = await post(api.client, thread_id, "message", SAY, "once")
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    [command] = await taken(api, thread_id)
    assert str(command.id) == first.json()["command_id"]


async def test_a_bot_that_cannot_says_why(api: Api) -> None:
    thread_id = await running(api)
    answer, _ = await asyncio.gather(
        post(api.client, thread_id, "say", SAY), taken(api, thread_id, "It has no voice.")
    )
    told = (answer.status_code, answer.json()["code"], answer.json()["detail"])
    assert told == (409, "not_possible", "It has no voice.")


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        ("say", {}, "text"),
        ("say", {"text": " \n"}, "text"),
        ("say", {"text": 7}, "text"),
        ("say", {"text": "x" * (MAX_TEXT_CHARS + 1)}, "text"),
        ("say", {"text": "a\0b"}, "text"),
        ("say", {**SAY, "interrupt": "perhaps"}, "interrupt"),
        ("say", {**SAY, "respond": True}, "respond"),
        ("message", {**SAY, "role": "assistant"}, "role"),
        ("message", {**SAY, "interrupt": True}, "interrupt"),
    ],
)
async def test_a_body_that_is_wrong_is_refused_by_its_field(
    kind: str, body: Any, field: str, api: Api
) -> None:
    answer = await post(api.client, await running(api), kind, body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert [one["field"] for one in answer.json()["errors"]] == [field]


async def test_only_the_key_of_a_running_call_commands_it(api: Api) -> None:
    joined = await api.join()
    thread_id, url = joined["workflow_thread_id"], httpx.URL(joined["connection"]["url"])
    waiting = await post(api.client, thread_id, "say", SAY)
    assert (waiting.status_code, waiting.json()["code"]) == (409, "not_in_call")
    await api.in_call(thread_id)
    for client, status in ((api.other, 404), (api.anonymous, 401)):
        answer = await client.post(f"/api/bot/{thread_id}/say", json=SAY, params=url.params)
        assert answer.status_code == status
    await api.database.end_thread(UUID(thread_id))
    ending = await post(api.client, thread_id, "message", SAY)
    assert (ending.status_code, ending.json()["code"]) == (409, "not_in_call")
