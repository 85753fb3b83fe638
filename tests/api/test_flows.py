"""Flows at the door: what is wrong with them is named, and they are shown as they were given."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from tests.api.conftest import Api

BOOK = {
    "type": "http",
    "name": "book",
    "description": "Books.",
    "url": "https://tools.example.com/book",
}
FLOW: dict[str, Any] = {
    "initial_node": "greet",
    "nodes": {
        "greet": {
            "task_messages": [{"role": "developer", "content": "Greet {{name|the caller}}."}],
            "functions": [{"name": "book", "transition_to": "end"}],
        },
        "end": {
            "task_messages": [{"role": "developer", "content": "Booked: {{book.time}}."}],
            "post_actions": [{"type": "end_conversation"}],
        },
    },
}
BOT = {"flow": FLOW, "tools": [BOOK]}


def leading_to(node: Any) -> dict[str, Any]:
    flow = deepcopy(FLOW)
    flow["nodes"]["greet"]["functions"][0]["transition_to"] = node
    return BOT | {"flow": flow}


TARGET = "bot.flow.nodes.greet.functions.0.transition_to"
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a form that is none": (leading_to(7), TARGET, "must be the name of a node"),
    "a placeholder": (
        leading_to("end") | {"flow": FLOW | {"nodes": FLOW["nodes"] | {
            "greet": FLOW["nodes"]["greet"] | {"role_message": "{{name}}"}}}},
        "bot.flow.nodes.greet.role_message",
        "needs the variable 'name'",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("bot", "field", "told"), REFUSED.values(), ids=REFUSED)
async def test_a_flow_that_cannot_be_run_is_named(
    api: Api, bot: dict[str, Any], field: str, told: str
) -> None:
    answer = await api.client.post("/api/bot/join", json={"bot": bot})
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert (error["field"], told in error["message"]) == (field, True), error


async def test_an_agent_has_a_flow_and_a_join_another_one_whole(api: Api) -> None:
    stored = await api.client.post("/api/agents", json={"name": "table", "bot": BOT})
    assert stored.status_code == 201, stored.text
    url = f"/api/agents/{stored.json()['id']}"
    assert (await api.client.get(url)).json()["bot"]["flow"] == FLOW
    refused = await api.client.put(url, json={"name": "table", "bot": leading_to(7)})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, TARGET)

    own = {"initial_node": "talk", "nodes": {"talk": FLOW["nodes"]["end"] | {"functions": [
        {"name": "book"}]}}}  # fmt: skip
    for asked, nodes in ({}, ["greet", "end"]), ({"bot": {"flow": own}}, ["talk"]):
        thread_id = (await api.join({"agent": "table"} | asked))["workflow_thread_id"]
        shown = (await api.client.get(f"/api/threads/{thread_id}")).json()
        assert {*shown["request"]["bot"]["flow"]["nodes"]} == {*nodes}
        assert shown["node"] == nodes[0]


async def test_the_format_is_in_the_description_of_the_api(api: Api) -> None:
    schemas = (await api.client.get("/openapi.json")).json()["components"]["schemas"]
    assert schemas["ConversationFlow"]["required"] == ["initial_node", "nodes"]
    assert "handler" not in schemas["FlowFunction"]["properties"]
    assert "#/components/schemas/ConversationFlow" in str(schemas["Bot"]["properties"]["flow"])
    assert "transition_to" in schemas["ToolCallData"]["properties"]
