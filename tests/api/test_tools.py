"""Tools at the door: what is wrong with them is named, and their secrets are shown to nobody."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import Api, ServeApi

HTTP = {
    "type": "http",
    "name": "find_booking",
    "description": "Finds a booking.",
    "url": "https://tools.example.com/find",
    "headers": {"Authorization": "Bearer s3cret"},
}

END = {"type": "end_call"}
SALES = {"type": "transfer_call", "targets": {"sales": "+493012345"}}


@pytest.mark.parametrize(
    ("tool", "field", "problem"),
    [
        (HTTP | {"url": "http://tools.example.com/"}, "url", "must be an https"),
        (HTTP | {"url": "https://10.0.0.1/"}, "url", "public host"),
        ({"type": "mcp", "url": "https://metadata.internal/"}, "url", "public host"),
        (
            HTTP | {"parameters": {"type": "object", "properties": {"a": {"type": "text"}}}},
            "parameters",
            "not a JSON Schema",
        ),
        (
            {"type": "transfer_call", "targets": {"a": "+493012345"}},
            "type",
            "have no transfer_call",
        ),
        ({"type": "send_dtmf"}, "type", "have no send_dtmf"),
    ],
)
async def test_a_tool_that_cannot_be_used_is_named(
    api: Api, tool: dict[str, Any], field: str, problem: str
) -> None:
    answer = await api.client.post("/api/bot/join", json={"bot": {"tools": [END, tool]}})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"] == f"bot.tools.1.{field}"
    assert problem in error["message"]
    assert "s3cret" not in answer.text


async def test_a_thread_shows_its_tools_without_their_secrets(api: Api) -> None:
    thread_id = (await api.join({"bot": {"tools": [HTTP]}}))["workflow_thread_id"]
    answer = await api.client.get(f"/api/threads/{thread_id}")
    (shown,) = answer.json()["request"]["bot"]["tools"]
    assert (shown["name"], shown["headers"].keys()) == ("find_booking", {"Authorization"})
    assert "s3cret" not in answer.text
    assert answer.json()["tool_calls"] == []


async def test_development_may_use_private_tools(serve_api: ServeApi) -> None:
    api = await serve_api(allow_private_webhooks=True)
    await api.join({"bot": {"tools": [HTTP | {"url": "http://127.0.0.1:9/find"}]}})
