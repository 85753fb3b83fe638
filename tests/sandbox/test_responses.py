"""The stand-in's Responses API, by the SDK and its own models."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from flow.sandbox.bill import Amounts
from flow.sandbox.faults import Fault
from flow.sandbox.openai.app import OpenAISandbox
from flow.sandbox.openai.replies import Reply, ToolCall
from tests.sandbox.conftest import Server
from tests.sandbox.test_openai import long_messages, tokens, unknown_fields

ASKED: dict[str, Any] = {"model": "gpt-4.1", "input": "Where is it?", "instructions": "Be brief."}
LOOK_UP = {
    "type": "function",
    "name": "look_up",
    "parameters": {"type": "object", "properties": {"order": {"type": "string"}}},
}
SAID = "It is on its way. It comes tomorrow."
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def spoken(**asked: Any) -> OpenAISandbox:
    return OpenAISandbox([SAID], **asked)


async def streamed(server: Server, vendor: OpenAISandbox, **asked: Any) -> list[dict[str, Any]]:
    """The events of a stream as they were on the wire."""
    http = await server.http(vendor)
    answer = await http.post("/v1/responses", json={**ASKED, **asked, "stream": True})
    events = []
    for block in answer.text.split("\n\n")[:-1]:
        name, _, data = block.partition("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


async def test_a_whole_response_bills_exactly_its_usage(server: Server) -> None:
    vendor = spoken()
    client = await server.openai(vendor)
    response = await client.responses.create(**ASKED)
    assert (response.output_text, response.status) == (SAID, "completed")
    assert response.usage is not None
    (line,) = vendor.bill.lines
    assert line.model == response.model == "gpt-4.1-2025-04-14"
    assert line.amounts == Amounts(
        prompt_tokens=response.usage.input_tokens, completion_tokens=tokens(SAID)
    )


@pytest.mark.parametrize(
    ("reply", "asked"),
    [
        (Reply(SAID), {}),
        (Reply(SAID, reasoning_tokens=7), {"model": "gpt-5"}),
        (Reply(SAID), {"max_output_tokens": 16}),
        (Reply(refusal="No."), {}),
        (Reply(tool_calls=(ToolCall("look_up", '{"order":"A"}'),) * 2), {"tools": [LOOK_UP]}),
        (
            Reply("One moment.", tool_calls=(ToolCall("look_up", "{}"),)),
            {"tools": [LOOK_UP], "tool_choice": "auto"},
        ),
    ],
    ids=["text", "reasoning", "limited", "refusal", "two-tools", "text-and-tool"],
)
async def test_its_events_are_those_of_the_sdk_s_models_and_end_as_the_whole_response(
    server: Server, reply: Reply, asked: dict[str, Any]
) -> None:
    vendor = OpenAISandbox([reply])
    events = await streamed(server, vendor, **asked)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        assert unknown_fields(EVENTS.validate_python(event, strict=True)) == []
    http = await server.http(vendor)
    whole = (await http.post("/v1/responses", json={**ASKED, **asked})).json()
    assert unknown_fields(Response.model_validate(whole, strict=True)) == []
    last = events[-1]["response"]
    assert last["usage"] == whole["usage"]
    assert events[-1]["type"] == f"response.{whole['status']}"
    assert [item["type"] for item in last["output"]] == [item["type"] for item in whole["output"]]
    one, other = vendor.bill.lines
    assert one.amounts == other.amounts
    assert one.amounts.completion_tokens == last["usage"]["output_tokens"]


async def test_deltas_add_up_to_what_is_done(server: Server) -> None:
    call = ToolCall("look_up", '{"order":"A 17"}')
    vendor = OpenAISandbox([Reply(SAID, tool_calls=(call,))])
    events = await streamed(server, vendor, tools=[LOOK_UP])

    def deltas(kind: str) -> str:
        return "".join(e["delta"] for e in events if e["type"] == f"response.{kind}.delta")

    message, called = events[-1]["response"]["output"]
    assert deltas("output_text") == message["content"][0]["text"] == SAID
    assert deltas("function_call_arguments") == called["arguments"] == call.arguments


async def test_a_conversation_with_tools_is_read_as_such(server: Server) -> None:
    said: list[list[str]] = []

    def script(messages: Any) -> str:
        said.append([message["role"] for message in messages])
        return SAID

    client = await server.openai(OpenAISandbox(script))
    items: Any = [
        {"role": "user", "content": [{"type": "input_text", "text": "Where is it?"}]},
        {"type": "function_call", "call_id": "c", "name": "look_up", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "on its way"},
    ]
    await client.responses.create(**{**ASKED, "input": items})
    assert said == [["system", "user", "assistant", "tool"]]


async def test_a_schema_is_answered_by(server: Server) -> None:
    client = await server.openai(spoken())
    schema = {
        "type": "object",
        "properties": {"summary": {"type": "string"}},
        "required": ["summary"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "name": "answer", "strict": True, "schema": schema}
    response = await client.responses.create(**ASKED, text={"format": form})
    assert [*json.loads(response.output_text)] == ["summary"]
    loose = {**form, "schema": {**schema, "additionalProperties": True}}
    with pytest.raises(openai.BadRequestError, match="Invalid schema"):
        await client.responses.create(**ASKED, text={"format": loose})


async def test_a_repeated_prompt_is_cached(server: Server) -> None:
    client = await server.openai(spoken())
    given = {**ASKED, "input": long_messages(1_500)}
    reports = [(await client.responses.create(**given)).usage for _ in range(2)]
    assert [report and report.input_tokens_details.cached_tokens for report in reports] == [
        0,
        1_408,
    ]


@pytest.mark.parametrize(
    ("asked", "param"),
    [({"input": []}, "input"), ({"max_output_tokens": 15}, "max_output_tokens")],
)
async def test_a_wrong_request_is_refused_and_free(
    server: Server, asked: dict[str, Any], param: str
) -> None:
    vendor = spoken()
    client = await server.openai(vendor)
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(**{**ASKED, **asked})
    assert str(refused.value.param).startswith(param)
    assert vendor.bill.lines == []


@pytest.mark.parametrize(
    ("fault", "last", "has_usage"),
    [("error_chunk", "error", False), ("failed_response", "response.failed", True)],
)
async def test_a_response_can_fail_in_the_middle(
    server: Server, fault: Any, last: str, has_usage: bool
) -> None:
    vendor = spoken()
    vendor.faults.add(Fault(kind=fault, chunks=6))
    events = await streamed(server, vendor)
    assert len(events) == 7
    event = events[-1]
    assert event["type"] == last
    EVENTS.validate_python(event, strict=True)
    (line,) = vendor.bill.lines
    assert (line.outcome, line.amounts.completion_tokens) == ("failed", 3)
    if has_usage:
        assert event["response"]["usage"]["output_tokens"] == 3


async def test_usage_can_be_missing_while_the_work_is_billed(server: Server) -> None:
    vendor = spoken()
    vendor.faults.add(Fault(kind="no_usage"))
    events = await streamed(server, vendor)
    assert events[-1]["response"]["usage"] is None
    assert vendor.bill.lines[0].amounts.completion_tokens == tokens(SAID)
