"""Anthropic's SDK against the stand-in: what goes over the wire, and what is billed for it."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from flow.domain.usage.tokenizer import dictionary
from flow.sandbox.anthropic import AnthropicSandbox
from flow.sandbox.bill import Amounts
from flow.sandbox.faults import Fault
from flow.sandbox.openai.replies import REFUSAL, SMALL_TALK, Reply, ToolCall
from tests.sandbox.conftest import Server

HELLO: Any = [{"role": "user", "content": "hello"}]
MODEL = "claude-haiku-4-5"
SERVED = "claude-haiku-4-5-20251001"
LONG = "A sentence of a system prompt that is as long as it has to be. " * 120
CALL = Reply("Let me look.", tool_calls=(ToolCall("look", '{"a": 1}'),), reasoning_tokens=3)


def tokens(text: str) -> int:
    return len(dictionary("o200k_base").encode_ordinary(text))


async def ask(server: Server, vendor: AnthropicSandbox, **more: Any) -> Any:
    client = await server.anthropic(vendor)
    given = {"model": MODEL, "max_tokens": 500, "messages": HELLO, **more}
    return await client.messages.create(**given)


async def events_of(server: Server, vendor: AnthropicSandbox, **more: Any) -> list[Any]:
    return [event async for event in await ask(server, vendor, stream=True, **more)]


async def raw(server: Server, vendor: AnthropicSandbox, **more: Any) -> Any:
    http = await server.http(vendor)
    headers = {"x-api-key": "a key", "anthropic-version": "2023-06-01"}
    body = {"model": MODEL, "max_tokens": 500, "messages": HELLO, **more}
    return await http.post("/v1/messages", json=body, headers=headers)


async def test_a_message_names_the_dated_model_and_bills_exactly_its_usage(server: Server) -> None:
    vendor = AnthropicSandbox()
    message = await ask(server, vendor)
    assert message.model == SERVED
    assert message.content[0].text == SMALL_TALK[0]
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (8, tokens(SMALL_TALK[0]))
    [line] = vendor.bill.lines
    assert (line.kind, line.outcome, line.model) == ("llm", "complete", SERVED)
    assert (line.requested_model, line.response_id) == (MODEL, message.id)
    assert line.amounts == Amounts(prompt_tokens=8, completion_tokens=tokens(SMALL_TALK[0]))
    assert message._request_id == line.request_id


async def test_a_stream_says_the_same_with_its_usage_at_the_start_and_the_end(
    server: Server,
) -> None:
    vendor = AnthropicSandbox([CALL])
    events = await events_of(server, vendor)
    assert [e.type for e in events if "delta" not in e.type] == [
        "message_start", "content_block_start", "content_block_stop", "content_block_start",
        "content_block_stop", "message_stop",
    ]  # fmt: skip
    start, last = events[0].message.usage, events[-2].usage
    assert (start.input_tokens, start.output_tokens) == (8, 1)
    assert last.input_tokens is None
    deltas = [event.delta for event in events if event.type == "content_block_delta"]
    text = "".join(delta.text for delta in deltas if delta.type == "text_delta")
    arguments = "".join(d.partial_json for d in deltas if d.type == "input_json_delta")
    assert (text, json.loads(arguments)) == ("Let me look.", {"a": 1})
    assert events[-2].delta.stop_reason == "tool_use"
    assert last.output_tokens_details is not None
    assert last.output_tokens_details.thinking_tokens == 3
    [line] = vendor.bill.lines
    assert line.stream
    assert line.outcome == "complete"
    assert line.amounts.completion_tokens == last.output_tokens
    assert line.amounts.reasoning_tokens == 3


async def test_raw_json_is_what_the_sdk_s_models_describe_and_no_more(server: Server) -> None:
    whole = await raw(server, AnthropicSandbox([CALL]))
    Message.model_validate(whole.json(), strict=True, extra="forbid")
    streamed = await raw(server, AnthropicSandbox([CALL]), stream=True)
    adapter: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
    for written in streamed.text.strip().split("\n\n"):
        kind, data = written.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert kind == f"event: {event['type']}"
        adapter.validate_python(event, strict=True, extra="forbid")


def marked(text: str, ttl: str | None = None) -> dict[str, Any]:
    control = {"type": "ephemeral", **({"ttl": ttl} if ttl else {})}
    return {"type": "text", "text": text, "cache_control": control}


async def test_the_cache_is_written_once_and_read_after_and_bills_by_lifetime(
    server: Server,
) -> None:
    vendor = AnthropicSandbox()
    system = [marked(LONG, "1h"), marked(LONG + "More.")]
    first = (await ask(server, vendor, system=system)).usage
    again = (await ask(server, vendor, system=system)).usage
    hour, short = tokens(LONG), tokens(LONG + "More.")
    assert first.cache_creation is not None
    assert first.cache_creation.ephemeral_1h_input_tokens == pytest.approx(hour, abs=5)
    assert first.cache_creation.ephemeral_5m_input_tokens == pytest.approx(short, abs=5)
    assert first.cache_read_input_tokens == 0
    assert first.input_tokens == again.input_tokens < 20
    assert again.cache_read_input_tokens == first.cache_creation_input_tokens
    assert again.cache_creation_input_tokens == 0
    written = vendor.bill.lines[0].amounts
    assert written.cache_write_tokens == first.cache_creation_input_tokens
    assert written.cache_write_1h_tokens == first.cache_creation.ephemeral_1h_input_tokens
    assert written.prompt_tokens == first.input_tokens + written.cache_write_tokens


@pytest.mark.parametrize("system", ["", LONG, [marked("short")]])
async def test_what_is_short_or_not_marked_is_not_cached(server: Server, system: Any) -> None:
    vendor = AnthropicSandbox()
    for _ in range(2):
        usage = (await ask(server, vendor, system=system)).usage
        assert (usage.cache_creation_input_tokens, usage.cache_read_input_tokens) == (0, 0)


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"max_tokens": 0}, 400),
        ({"messages": []}, 400),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400),
        ({"system": [marked("a"), marked("b", "1h")]}, 400),
    ],
)
async def test_what_anthropic_refuses_is_refused_and_costs_nothing(
    server: Server, changed: dict[str, Any], status: int
) -> None:
    vendor = AnthropicSandbox()
    with pytest.raises(anthropic.APIStatusError) as refused:
        await ask(server, vendor, **changed)
    assert refused.value.status_code == status
    assert refused.value.body["type"] == "error"  # type: ignore[index]
    assert vendor.bill.lines == []


async def test_a_key_is_wanted(server: Server) -> None:
    with pytest.raises(anthropic.AuthenticationError):
        await ask(server, AnthropicSandbox(api_keys=["another key"]))


async def test_counting_tokens_costs_nothing(server: Server) -> None:
    vendor = AnthropicSandbox()
    client = await server.anthropic(vendor)
    counted = await client.messages.count_tokens(model=MODEL, messages=HELLO)
    assert counted.input_tokens == 8
    assert vendor.bill.lines == []


async def test_a_demanded_tool_is_called_and_a_schema_is_kept(server: Server) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    tool = {"name": "look", "input_schema": schema}
    called = await ask(server, AnthropicSandbox(), tools=[tool], tool_choice={"type": "any"})
    assert (called.stop_reason, called.content[-1].name) == ("tool_use", "look")
    assert isinstance(called.content[-1].input["n"], int)
    form = {"format": {"type": "json_schema", "schema": schema}}
    said = await ask(server, AnthropicSandbox(), output_config=form)
    assert isinstance(json.loads(said.content[0].text)["n"], int)


async def test_a_reply_is_cut_at_its_longest(server: Server) -> None:
    message = await ask(server, AnthropicSandbox(), max_tokens=3)
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 3)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "kind", ["no_usage", "cumulative_usage", "null_usage_details", "empty_reply", "same_id",
             "empty_choices"],
)  # fmt: skip
async def test_a_strange_reply_is_billed_all_the_same(
    server: Server, kind: Any, stream: bool
) -> None:
    vendor = AnthropicSandbox()
    vendor.faults.add(Fault(kind=kind))
    answer = await raw(server, vendor, stream=stream)
    assert ("usage" in answer.text) == (kind != "no_usage")
    if stream:
        last = json.loads(answer.text.strip().split("data: ")[-2].split("\n")[0])
        repeats = "input_tokens" in last.get("usage", {})
        assert repeats == (kind == "cumulative_usage") or kind == "empty_choices"
    [line] = vendor.bill.lines
    assert line.outcome == "complete"
    assert line.amounts.completion_tokens == (0 if kind == "empty_reply" else tokens(SMALL_TALK[0]))


async def test_a_refusal_is_a_reason_to_stop(server: Server) -> None:
    vendor = AnthropicSandbox()
    vendor.faults.add(Fault(kind="refusal"))
    message = await ask(server, vendor)
    assert (message.stop_reason, message.content[0].text) == ("refusal", REFUSAL)


@pytest.mark.parametrize("kind", ["error_chunk", "malformed_chunk", "cut"])
async def test_a_stream_can_break(server: Server, kind: Any) -> None:
    vendor = AnthropicSandbox()
    vendor.faults.add(Fault(kind=kind, chunks=3))
    with pytest.raises(Exception, match=r"Overloaded|JSON|Unterminated|peer|closed|EOF|Expecting"):
        await events_of(server, vendor)
    [line] = await vendor.bill.settled()
    assert line.outcome in {"failed", "complete", "disconnected"}
    assert line.amounts.prompt_tokens == 8


async def test_a_status_is_answered_in_anthropic_s_words(server: Server) -> None:
    vendor = AnthropicSandbox()
    vendor.faults.add(Fault(kind="status", status=529))
    with pytest.raises(anthropic.APIStatusError) as refused:
        await ask(server, vendor)
    assert refused.value.body["error"]["type"] == "overloaded_error"  # type: ignore[index]
