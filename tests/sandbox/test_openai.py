"""OpenAI's SDK against the stand-in: what goes over the wire, and what is billed for it."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any, Literal

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openai.types.audio import TranscriptionVerbose
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from posthog import Posthog
from posthog.ai.openai import AsyncOpenAI as TrackedOpenAI
from pydantic import BaseModel

from flow.domain.usage.tokenizer import dictionary
from flow.sandbox.faults import Fault
from flow.sandbox.openai.app import OpenAISandbox
from flow.sandbox.openai.pattern import matching
from flow.sandbox.openai.replies import SMALL_TALK, Reply, ToolCall
from flow.sandbox.openai.schema import example
from flow.sandbox.openai.speech import as_wav
from flow.sandbox.posthog.app import PROJECT_KEY, PostHogSandbox
from tests.sandbox.conftest import Server, count_bytes, ramp

HELLO: Any = [{"role": "user", "content": "hello"}]


def tokens(text: str) -> int:
    return len(dictionary("o200k_base").encode_ordinary(text))


def strictly(model: type[BaseModel], raw: dict[str, Any]) -> None:
    """The raw JSON fits the SDK's own model and holds nothing that the model does not know."""
    parsed = model.model_validate(raw, strict=True)
    assert unknown_fields(parsed) == []


def unknown_fields(value: object) -> list[str]:
    if isinstance(value, BaseModel):
        inner = [unknown_fields(getattr(value, name)) for name in type(value).model_fields]
        return [*(value.model_extra or {}), *(name for names in inner for name in names)]
    if isinstance(value, list):
        return [name for item in value for name in unknown_fields(item)]
    return []


def events(body: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in body.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


async def test_embeddings_are_billed_by_their_tokens_however_they_are_given(
    server: Server, vendor: OpenAISandbox
) -> None:
    model = "text-embedding-3-small"
    text = "A text to be found again."
    client = await server.openai(vendor)
    one = await client.embeddings.create(model=model, input=text)
    same = await client.embeddings.create(
        model=model,
        input=[dictionary("o200k_base").encode_ordinary(text), [1, 2, 3]],
        encoding_format="float",
    )
    assert len(one.data[0].embedding) == 1536
    assert same.data[0].embedding == pytest.approx(one.data[0].embedding)
    assert same.data[1].embedding != same.data[0].embedding
    assert one.usage.prompt_tokens == one.usage.total_tokens == tokens(text)
    assert [line.amounts.prompt_tokens for line in vendor.bill.lines] == [
        tokens(text),
        tokens(text) + 3,
    ]
    with pytest.raises(openai.BadRequestError):
        await client.embeddings.create(model=model, input="")


# --- chat -----------------------------------------------------------------------------------


async def test_a_reply_names_the_dated_model_and_bills_exactly_its_usage(
    server: Server, vendor: OpenAISandbox
) -> None:
    client = await server.openai(vendor)
    reply = await client.chat.completions.create(model="gpt-4.1", messages=HELLO)
    assert reply.model == "gpt-4.1-2025-04-14"
    assert reply.service_tier == "default"
    assert reply.choices[0].message.content == SMALL_TALK[0]
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    # 3 for the message, 1 for its role, 1 for its word and 3 to prime the answer.
    assert reply.usage.prompt_tokens == 8
    assert reply.usage.completion_tokens == tokens(SMALL_TALK[0])
    [line] = vendor.bill.lines
    assert (line.kind, line.outcome, line.model) == ("llm", "complete", reply.model)
    assert (line.requested_model, line.response_id) == ("gpt-4.1", reply.id)
    assert line.amounts.prompt_tokens == reply.usage.prompt_tokens
    assert line.amounts.completion_tokens == reply.usage.completion_tokens
    assert reply._request_id == line.request_id


async def test_a_stream_says_the_same_as_a_whole_reply_with_usage_in_its_last_chunk(
    server: Server, vendor: OpenAISandbox
) -> None:
    client = await server.openai(vendor)
    stream = await client.chat.completions.create(
        model="gpt-4.1", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == SMALL_TALK[0]
    assert [c.usage is not None for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == tokens(text) == len(chunks) - 3
    [line] = vendor.bill.lines
    assert line.stream
    assert line.amounts.completion_tokens == chunks[-1].usage.completion_tokens


async def test_usage_is_streamed_only_when_asked_for(server: Server, vendor: OpenAISandbox) -> None:
    client = await server.openai(vendor)
    stream = await client.chat.completions.create(model="m", messages=HELLO, stream=True)
    chunks = [chunk async for chunk in stream]
    assert [c for c in chunks if c.usage is not None or not c.choices] == []


async def test_raw_json_is_what_the_sdk_s_models_describe_and_no_more(server: Server) -> None:
    script = [Reply("Hi 👋🏽", tool_calls=(ToolCall("look", '{"a":1}'),), reasoning_tokens=3)]
    http = await server.http(OpenAISandbox(script))
    body = {"model": "gpt-4o", "messages": HELLO}
    whole = await http.post("/v1/chat/completions", json=body)
    strictly(ChatCompletion, whole.json())
    usage = whole.json()["usage"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 3
    assert usage["completion_tokens"] == 3 + tokens("Hi 👋🏽") + tokens("look") + tokens('{"a":1}')
    streamed = await http.post(
        "/v1/chat/completions",
        json={**body, "stream": True, "stream_options": {"include_usage": True}},
    )
    assert streamed.headers["content-type"].startswith("text/event-stream")
    chunks = events(streamed.text)
    for chunk in chunks:
        strictly(ChatCompletionChunk, chunk)
    said = [c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"]]
    assert "".join(said) == "Hi 👋🏽"
    assert chunks[-1]["usage"] == usage


async def test_tool_calls_arrive_in_parts_and_whole(server: Server) -> None:
    calls = (ToolCall("weather", '{"city":"Bern"}'), ToolCall("time"))
    client = await server.openai(OpenAISandbox([Reply(tool_calls=calls)]))
    whole = await client.chat.completions.create(model="gpt-4.1", messages=HELLO)
    assert whole.choices[0].finish_reason == "tool_calls"
    assert whole.choices[0].message.content is None
    got = [c.function for c in whole.choices[0].message.tool_calls or [] if c.type == "function"]
    assert [(f.name, f.arguments) for f in got] == [(c.name, c.arguments) for c in calls]
    async with client.chat.completions.stream(model="gpt-4.1", messages=HELLO) as stream:
        final = await stream.get_final_completion()
    streamed = [c.function for c in final.choices[0].message.tool_calls or []]
    assert [(f.name, f.arguments) for f in streamed] == [(c.name, c.arguments) for c in calls]


async def test_a_demanded_tool_is_called_with_arguments_that_fit(server: Server) -> None:
    client = await server.openai(OpenAISandbox())
    parameters = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 4}}}
    reply = await client.chat.completions.create(
        model="gpt-4.1",
        messages=HELLO,
        tools=[{"type": "function", "function": {"name": "pick", "parameters": parameters}}],
        tool_choice="required",
    )
    [call] = reply.choices[0].message.tool_calls or []
    assert call.type == "function"
    Draft202012Validator(parameters).validate(json.loads(call.function.arguments))


PICK = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
NAMED: list[tuple[str, dict[str, Any], dict[str, Any] | None]] = [
    ('pick {"n": 7}', {}, {"n": 7}),
    (" pick ", {}, {"n": 1}),
    ('pick {"n": 7}', {"tool_choice": "none"}, None),
    ("pick one, please", {}, None),
    ("choose", {}, None),
]


@pytest.mark.parametrize(("said", "asked", "arguments"), NAMED)
async def test_a_tool_is_called_whose_name_is_all_that_the_user_says(
    server: Server, said: str, asked: dict[str, Any], arguments: dict[str, Any] | None
) -> None:
    client = await server.openai(OpenAISandbox())
    reply = await client.chat.completions.create(
        model="gpt-4.1",
        messages=[{"role": "user", "content": said}],
        tools=[{"type": "function", "function": {"name": "pick", "parameters": PICK}}],
        **asked,
    )
    calls = reply.choices[0].message.tool_calls or []
    found = [json.loads(call.function.arguments) for call in calls if call.type == "function"]
    assert found == ([] if arguments is None else [arguments])


async def test_each_turn_of_a_conversation_gets_its_line_whoever_else_is_talking(
    server: Server,
) -> None:
    client = await server.openai(OpenAISandbox(["one", "two"]))

    async def answer(turns: int) -> str | None:
        said: Any = [{"role": "user", "content": f"{n}"} for n in range(turns)]
        reply = await client.chat.completions.create(model="gpt-4.1", messages=said)
        return reply.choices[0].message.content

    assert [await answer(n) for n in (1, 1, 2, 3)] == ["one", "one", "two", "one"]


async def test_a_function_scripts_replies_and_may_leave_one_to_the_stand_in(
    server: Server,
) -> None:
    client = await server.openai(
        OpenAISandbox(lambda m: "Bern" if m[-1]["content"] == "capital?" else None)
    )
    asked: Any = [{"role": "user", "content": "capital?"}]
    told = await client.chat.completions.create(model="gpt-4.1", messages=asked)
    left = await client.chat.completions.create(model="gpt-4.1", messages=HELLO)
    assert told.choices[0].message.content == "Bern"
    assert left.choices[0].message.content == SMALL_TALK[0]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("limit", [1, 7])
async def test_the_limit_on_tokens_is_kept_and_said(
    server: Server, vendor: OpenAISandbox, name: str, limit: int
) -> None:
    client = await server.openai(vendor)
    options: Any = {name: limit}
    reply = await client.chat.completions.create(model="gpt-4.1", messages=HELLO, **options)
    assert reply.choices[0].finish_reason == "length"
    assert tokens(reply.choices[0].message.content or "") == limit
    assert vendor.bill.lines[0].amounts.completion_tokens == limit


async def test_a_stop_sequence_ends_the_reply_unsaid(server: Server) -> None:
    client = await server.openai(OpenAISandbox(["one, two, three"]))
    reply = await client.chat.completions.create(model="m", messages=HELLO, stop=[" two"])
    assert reply.choices[0].message.content == "one,"


@pytest.mark.parametrize(
    ("asked", "forced", "served"),
    [
        (None, None, "default"),
        ("auto", None, "default"),
        ("flex", None, "flex"),
        ("fast", None, "priority"),
        ("priority", "default", "default"),
    ],
)
async def test_the_reply_names_the_tier_that_served(
    server: Server, asked: Any, forced: str | None, served: str
) -> None:
    vendor = OpenAISandbox(tier=forced)
    client = await server.openai(vendor)
    options = {} if asked is None else {"service_tier": asked}
    reply = await client.chat.completions.create(model="gpt-4.1", messages=HELLO, **options)
    assert reply.service_tier == served == vendor.bill.lines[0].service_tier


async def test_names_tools_and_sound_count_as_prompt(server: Server, vendor: OpenAISandbox) -> None:
    http = await server.http(vendor)

    async def prompt(message: dict[str, Any], **more: Any) -> dict[str, Any]:
        body = {"model": "gpt-4.1", "messages": [message], **more}
        usage: dict[str, Any] = (await http.post("/v1/chat/completions", json=body)).json()["usage"]
        return usage

    plain = (await prompt(HELLO[0]))["prompt_tokens"]
    assert (await prompt({**HELLO[0], "name": "Ada"}))["prompt_tokens"] == plain + 1 + tokens("Ada")
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    written = json.dumps(tool, separators=(",", ":"))
    assert (await prompt(HELLO[0], tools=[tool]))["prompt_tokens"] == plain + tokens(written)
    second = {"type": "input_audio", "input_audio": {"data": "AAAA" * 16_000, "format": "wav"}}
    heard = await prompt({"role": "user", "content": [{"type": "text", "text": "hello"}, second]})
    assert heard["prompt_tokens"] == plain + 10
    assert heard["prompt_tokens_details"]["audio_tokens"] == 10


# --- prompt caching -------------------------------------------------------------------------


def long_messages(words: int, end: str = "") -> Any:
    return [{"role": "user", "content": " hello" * words + end}]


async def cached(
    client: openai.AsyncOpenAI, messages: Any, model: str = "gpt-4.1", **options: Any
) -> tuple[int, int, int]:
    reply = await client.chat.completions.create(model=model, messages=messages, **options)
    assert reply.usage is not None
    assert reply.usage.prompt_tokens_details is not None
    parts = reply.usage.prompt_tokens_details
    return reply.usage.prompt_tokens, parts.cached_tokens or 0, parts.cache_write_tokens or 0


@pytest.mark.parametrize("words", [100, 1016, 1017, 1300, 4000])
async def test_a_repeated_prompt_is_cached_from_1024_tokens_in_steps_of_128(
    server: Server, vendor: OpenAISandbox, words: int
) -> None:
    client = await server.openai(vendor)
    total, first, _ = await cached(client, long_messages(words))
    _, second, _ = await cached(client, long_messages(words))
    assert first == 0
    assert second == (total // 128 * 128 if total >= 1024 else 0)


async def test_only_the_common_prefix_is_cached(server: Server, vendor: OpenAISandbox) -> None:
    client = await server.openai(vendor)
    await cached(client, long_messages(1500, " one" * 500))
    _, found, _ = await cached(client, long_messages(1500, " two" * 500))
    assert found == 1408


@pytest.mark.parametrize(
    "other", [{"model": "gpt-4.1-mini"}, {"prompt_cache_key": "somebody else"}]
)
async def test_caches_of_models_and_keys_share_nothing(
    server: Server, vendor: OpenAISandbox, other: dict[str, Any]
) -> None:
    client = await server.openai(vendor)
    await cached(client, long_messages(1500))
    _, found, _ = await cached(client, long_messages(1500), **other)
    assert found == 0


@pytest.mark.parametrize(("model", "written"), [("gpt-4.1", 0), ("gpt-5.6-sol", 1408)])
async def test_cache_writes_are_billed_by_the_newest_models_alone(
    server: Server, vendor: OpenAISandbox, model: str, written: int
) -> None:
    client = await server.openai(vendor)
    assert (await cached(client, long_messages(1500), model))[2] == written
    assert (await cached(client, long_messages(1500), model))[1:] == (1408, 0)
    assert [line.amounts.cache_write_tokens for line in vendor.bill.lines] == [written, 0]


# --- structured output ----------------------------------------------------------------------


class Item(BaseModel):
    name: str
    urgency: Literal["low", "high"]
    due: str | None
    inner: list[Item]


class Insights(BaseModel):
    summary: str
    mood: Literal["good", "bad"]
    score: float
    solved: bool
    items: list[Item]


async def test_parse_gets_an_object_of_its_class_about_what_was_said(server: Server) -> None:
    client = await server.openai(OpenAISandbox())
    said: Any = [
        {"role": "system", "content": "Summarise."},
        {"role": "user", "content": "The caller wanted a refund."},
    ]
    reply = await client.chat.completions.parse(
        model="gpt-4.1-mini", messages=said, response_format=Insights
    )
    parsed = reply.choices[0].message.parsed
    assert parsed is not None
    assert parsed.summary == "The caller wanted a refund."
    assert len(parsed.items) >= 1


SCHEMAS: list[dict[str, Any]] = [
    {"type": "object"},
    {"type": "object", "minProperties": 2, "additionalProperties": {"type": "integer"}},
    {"type": "object", "properties": {"children": {"items": {"$ref": "#"}}}, "required": ["x"]},
    {"allOf": [{"properties": {"a": {"type": "string"}}, "required": ["a"]}, {"required": ["b"]}]},
    {"oneOf": [{"type": "integer", "minimum": 5}, {"type": "integer", "maximum": 5}]},
    {"anyOf": [{"$ref": "#/$defs/no"}, {"enum": ["a", 3]}], "$defs": {"no": False}},
    {"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True, "minItems": 3},
    {"type": "array", "items": {"type": "integer"}, "uniqueItems": True, "minItems": 4},
    {"type": "array", "prefixItems": [{"const": 1}, {"type": "null"}], "items": False},
    {"type": "array", "maxItems": 0},
    {"type": "array", "contains": {"const": "x"}, "minContains": 2},
    {"type": "string", "minLength": 300},
    {"type": "string", "maxLength": 2},
    {"type": "string", "pattern": r"^[A-Z]{3}-\d{4,}$", "minLength": 12},
    {"type": "string", "format": "date-time"},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"type": "integer", "multipleOf": 7, "minimum": 10, "maximum": 15},
    {"type": "integer", "maximum": -3},
    {"type": "integer", "exclusiveMinimum": 5},
    {"type": ["null", "string"]},
    {"const": {"deep": [1]}},
    {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "boolean"}}},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_an_example_is_valid_and_always_the_same(schema: dict[str, Any]) -> None:
    value = example(schema, "The caller wanted a refund.")
    Draft202012Validator(schema).validate(value)
    assert value == example(schema, "The caller wanted a refund.")


def _objects(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def strict(properties: dict[str, Any]) -> dict[str, Any]:
        required = list(properties)
        closed = {"additionalProperties": False, "required": required}
        return {"type": "object", "properties": properties, **closed}

    names = st.text("abcdefgh_", min_size=1, max_size=6)
    return st.dictionaries(names, parts, max_size=4).map(strict)


_leaves = st.one_of(
    st.sampled_from([{"type": t} for t in ("string", "integer", "number", "boolean", "null")]),
    st.builds(lambda v: {"enum": v}, st.lists(st.text(max_size=4), min_size=1, max_size=3)),
    st.builds(
        lambda low, size: {"type": "integer", "minimum": low, "maximum": low + size},
        st.integers(-1000, 1000),
        st.integers(0, 50),
    ),
    st.builds(
        lambda low, size: {"type": "string", "minLength": low, "maxLength": low + size},
        st.integers(0, 40),
        st.integers(0, 40),
    ),
)
_schemas = _objects(
    st.recursive(
        _leaves,
        lambda parts: st.one_of(
            _objects(parts),
            st.builds(
                lambda items, least: {"type": "array", "items": items, "minItems": least},
                parts,
                st.integers(0, 3),
            ),
            st.builds(
                lambda branches: {"anyOf": branches}, st.lists(parts, min_size=1, max_size=3)
            ),
        ),
        max_leaves=12,
    )
)


@given(_schemas, st.text(max_size=80))
def test_an_example_is_valid_for_any_strict_schema(schema: dict[str, Any], about: str) -> None:
    Draft202012Validator(schema).validate(example(schema, about))


@pytest.mark.parametrize(
    "pattern",
    [r"^\+?[1-9]\d{1,14}$", r"^(foo|bar)+baz?$", r"[^a-z]", r"^\S+@\S+\.\S+$", r"^#[0-9a-f]{6}$"],
)
def test_a_pattern_gets_a_string_that_matches(pattern: str) -> None:
    assert Draft202012Validator({"pattern": pattern}).is_valid(matching(pattern))


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "array"}, "'type: \"object\"'"),
        ({"type": "object", "properties": {}}, "additionalProperties"),
        (
            {"type": "object", "properties": {"a": {}}, "additionalProperties": False},
            "every key in properties. Missing 'a'",
        ),
        (
            {"type": "object", "additionalProperties": False, "allOf": []},
            "'allOf' is not permitted",
        ),
    ],
)
async def test_strict_mode_refuses_what_openai_refuses(
    server: Server, vendor: OpenAISandbox, schema: dict[str, Any], why: str
) -> None:
    client = await server.openai(vendor)

    async def ask(strict: bool) -> None:
        wanted: Any = {"name": "insights", "schema": schema, "strict": strict}
        await client.chat.completions.create(
            model="gpt-4.1",
            messages=HELLO,
            response_format={"type": "json_schema", "json_schema": wanted},
        )

    with pytest.raises(openai.BadRequestError, match="Invalid schema") as refused:
        await ask(strict=True)
    assert why in str(refused.value)
    assert refused.value.code == "invalid_json_schema"
    await ask(strict=False)
    assert len(vendor.bill.lines) == 1


async def test_a_refusal_is_told_apart_from_an_answer(server: Server) -> None:
    vendor = OpenAISandbox()
    client = await server.openai(vendor)
    vendor.faults.add(Fault(kind="refusal"))
    reply = await client.chat.completions.parse(
        model="gpt-4.1", messages=HELLO, response_format=Insights
    )
    message = reply.choices[0].message
    assert message.refusal
    assert (message.content, message.parsed) == (None, None)
    assert vendor.bill.lines[0].amounts.completion_tokens == tokens(message.refusal)


# --- keys, requests, models -----------------------------------------------------------------


@pytest.mark.parametrize("credential", ["Bearer wrong", "Bearer", "Basic right"])
async def test_a_key_is_needed_and_its_refusal_billed_nothing(
    server: Server, credential: str
) -> None:
    vendor = OpenAISandbox(api_keys={"right"})
    http = await server.http(vendor)
    answer = await http.post(
        "/v1/chat/completions",
        json={"model": "gpt-4.1", "messages": HELLO},
        headers={"authorization": credential},
    )
    assert answer.status_code == 401
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"] == vendor.requests[0].request_id
    assert vendor.requests[0].status == 401
    assert vendor.bill.lines == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": HELLO}, "model"),
        ({"model": "gpt-4.1"}, "messages"),
        ({"model": "gpt-4.1", "messages": []}, "messages"),
        ({"model": "gpt-4.1", "messages": [{"role": "nobody"}]}, "messages.0.role"),
        ({"model": "gpt-4.1", "messages": HELLO, "max_tokens": 0}, "max_tokens"),
        ({"model": "gpt-4.1", "messages": HELLO, "n": 2}, "n"),
        ([], None),
    ],
)
async def test_a_wrong_request_is_refused_by_the_name_of_its_field(
    server: Server, vendor: OpenAISandbox, body: Any, param: str | None
) -> None:
    http = await server.http(vendor)
    answer = await http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert vendor.bill.lines == []


async def test_an_unknown_url_is_said_so_in_openai_s_words(
    server: Server, vendor: OpenAISandbox
) -> None:
    http = await server.http(vendor)
    assert (await http.post("/v1/nowhere")).json()["error"]["code"] == "unknown_url"


async def test_models_are_listed_and_looked_up(server: Server, vendor: OpenAISandbox) -> None:
    client = await server.openai(vendor)
    names = [model.id async for model in client.models.list()]
    assert {"gpt-4.1", "gpt-4.1-2025-04-14", "whisper-1", "gpt-4o-mini-tts"} <= set(names)
    assert (await client.models.retrieve("gpt-4.1")).object == "model"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nothing")


async def test_attribution_headers_are_on_the_bill_and_the_key_is_nowhere(
    server: Server, vendor: OpenAISandbox
) -> None:
    http = await server.http(vendor)
    headers = {"x-posthog-property-team_id": "team-7", "authorization": "Bearer very-secret"}
    body = {"model": "gpt-4.1", "messages": HELLO}
    await http.post("/v1/chat/completions", json=body, headers=headers)
    shown = [(await http.get(f"/_sandbox/{page}")).text for page in ("bill", "requests")]
    assert vendor.bill.lines[0].headers == {"x-posthog-property-team_id": "team-7"}
    assert all("team-7" in text and "very-secret" not in text for text in shown)


async def test_the_bill_adds_up_by_kind_and_model(server: Server, vendor: OpenAISandbox) -> None:
    client = await server.openai(vendor)
    for model in ("gpt-4.1", "gpt-4.1", "gpt-4o"):
        await client.chat.completions.create(model=model, messages=HELLO, max_tokens=5)
    await client.audio.speech.create(
        model="tts-1", voice="alloy", input="hi", response_format="pcm"
    )
    http = await server.http(vendor)
    bill = (await http.get("/_sandbox/bill")).json()
    assert [(t["kind"], t["model"], t["requests"]) for t in bill["totals"]] == [
        ("llm", "gpt-4.1-2025-04-14", 2),
        ("llm", "gpt-4o-2024-08-06", 1),
        ("tts", "tts-1", 1),
    ]
    assert bill["totals"][0]["amounts"]["completion_tokens"] == 10
    assert bill["totals"][2]["amounts"]["audio_seconds"] == "0.000833"
    assert bill["open"] == 0
    assert len(bill["lines"]) == 4


# --- speech and transcription ---------------------------------------------------------------


@pytest.mark.parametrize(("speed", "samples"), [(1.0, 3000), (2.0, 1500), (0.5, 6000)])
async def test_speech_streams_pcm_and_bills_its_characters(
    server: Server, vendor: OpenAISandbox, speed: float, samples: int
) -> None:
    client = await server.openai(vendor)
    async with client.audio.speech.with_streaming_response.create(
        model="gpt-4o-mini-tts", voice="alloy", input="x" * 300, response_format="pcm", speed=speed
    ) as response:
        sound = b"".join([part async for part in response.iter_bytes(1000)])
    assert len(sound) == 2 * samples
    if speed == 1.0:
        assert sound == ramp("x" * 300)
    [line] = await vendor.bill.settled()
    assert (line.kind, line.amounts.characters, line.outcome) == ("tts", 300, "complete")
    assert line.amounts.audio_seconds == Decimal(samples) / 24_000


async def test_speech_comes_as_wav_and_as_events(server: Server, vendor: OpenAISandbox) -> None:
    client = await server.openai(vendor)
    wav = await client.audio.speech.create(
        model="tts-1", voice="alloy", input="hi", response_format="wav"
    )
    assert await wav.aread() == as_wav(ramp("hi"))
    http = await server.http(vendor)
    answer = await http.post(
        "/v1/audio/speech",
        json={
            "model": "gpt-4o-mini-tts",
            "voice": "alloy",
            "input": "hi",
            "response_format": "pcm",
            "stream_format": "sse",
        },
    )
    kinds = [json.loads(e.removeprefix("data: "))["type"] for e in answer.text.split("\n\n") if e]
    assert kinds == ["speech.audio.delta", "speech.audio.done"]


@pytest.mark.parametrize(
    "wrong",
    [{"input": ""}, {"input": "x" * 4097}, {"speed": 9}, {"response_format": "mp3"}],
    ids=str,
)
async def test_speech_that_cannot_be_made_is_refused_and_free(
    server: Server, vendor: OpenAISandbox, wrong: dict[str, Any]
) -> None:
    http = await server.http(vendor)
    right = {"model": "tts-1", "voice": "alloy", "input": "hi", "response_format": "pcm"}
    assert (await http.post("/v1/audio/speech", json=right | wrong)).status_code == 400
    assert vendor.bill.lines == []


WAV = ("speech.wav", as_wav(b"\1\0" * 24_000, 16_000))


async def test_whisper_bills_the_seconds_it_heard(server: Server, vendor: OpenAISandbox) -> None:
    client = await server.openai(vendor)
    heard = await client.audio.transcriptions.create(model="whisper-1", file=WAV)
    assert heard.text == "heard 48000 bytes at 16000"
    assert heard.usage is not None
    assert heard.usage.type == "duration"
    assert heard.usage.seconds == 1.5
    verbose = await client.audio.transcriptions.create(
        model="whisper-1", file=WAV, response_format="verbose_json"
    )
    assert (verbose.duration, verbose.text) == (1.5, heard.text)
    plain = await client.audio.transcriptions.create(
        model="whisper-1", file=WAV, response_format="text"
    )
    assert str(plain).strip() == heard.text
    assert [line.amounts.audio_seconds for line in vendor.bill.lines] == [Decimal("1.5")] * 3


async def test_the_newer_models_report_tokens_whole_and_streamed(
    server: Server, vendor: OpenAISandbox
) -> None:
    client = await server.openai(vendor)
    whole = await client.audio.transcriptions.create(
        model="gpt-4o-transcribe", file=WAV, include=["logprobs"]
    )
    assert whole.usage is not None
    assert whole.usage.type == "tokens"
    assert whole.usage.input_tokens == 15
    assert whole.usage.output_tokens == tokens(whole.text)
    assert len(whole.logprobs or []) == tokens(whole.text)
    stream = await client.audio.transcriptions.create(
        model="gpt-4o-transcribe", file=WAV, stream=True
    )
    got = [event async for event in stream]
    deltas = [event.delta for event in got if event.type == "transcript.text.delta"]
    done = got[-1]
    assert done.type == "transcript.text.done"
    assert "".join(deltas) == done.text == whole.text
    assert done.usage is not None
    assert [line.amounts.audio_seconds for line in vendor.bill.lines] == [Decimal("1.5")] * 2


async def test_verbose_transcriptions_hold_what_the_sdk_describes(
    server: Server, vendor: OpenAISandbox
) -> None:
    http = await server.http(vendor)
    form = {"model": "whisper-1", "response_format": "verbose_json"}
    raw = (await http.post("/v1/audio/transcriptions", data=form, files={"file": WAV})).json()
    assert raw.pop("task") == "transcribe"
    strictly(TranscriptionVerbose, raw)


@pytest.mark.parametrize(
    ("form", "file"),
    [
        ({"model": "whisper-1"}, b"no sound at all"),
        ({"model": "whisper-1"}, b""),
        ({}, WAV[1]),
        ({"model": "gpt-4o-transcribe", "response_format": "verbose_json"}, WAV[1]),
    ],
)
async def test_sound_that_cannot_be_heard_is_refused_and_free(
    server: Server, vendor: OpenAISandbox, form: dict[str, str], file: bytes
) -> None:
    http = await server.http(vendor)
    files = {"file": ("speech.wav", file)}
    answer = await http.post("/v1/audio/transcriptions", data=form, files=files)
    assert answer.status_code == 400
    assert vendor.bill.lines == []


async def test_ears_that_understand_nothing_still_tell_speech_from_silence(
    server: Server,
) -> None:
    client = await server.openai(OpenAISandbox())
    silence = as_wav(b"\0\0" * 16_000, 16_000)
    noise = as_wav(b"\0\x20" * 16_000, 16_000)
    texts = [
        (await client.audio.transcriptions.create(model="whisper-1", file=("a.wav", f))).text
        for f in (silence, noise)
    ]
    assert texts[0] == ""
    assert texts[1] != ""


async def test_the_voice_is_real_speech_unless_told_otherwise(server: Server) -> None:
    client = await server.openai(OpenAISandbox(hear=count_bytes))
    sound = await client.audio.speech.create(
        model="tts-1", voice="alloy", input="Hello there.", response_format="pcm"
    )
    assert len(await sound.aread()) > 24_000


# --- PostHog's wrapper ----------------------------------------------------------------------


async def test_posthog_s_wrapper_captures_the_usage_that_was_billed(
    server: Server, vendor: OpenAISandbox
) -> None:
    analytics = PostHogSandbox()
    posthog = Posthog(PROJECT_KEY, host=await server.url(analytics), flush_interval=0.05)
    client = TrackedOpenAI(
        posthog_client=posthog,
        api_key="a key",
        base_url=f"{await server.url(vendor)}/v1",
        http_client=openai.DefaultAsyncHttpxClient(),
    )
    stream = await client.chat.completions.create(
        model="gpt-4.1", messages=HELLO, stream=True, posthog_distinct_id="key-1"
    )
    async for _ in stream:
        pass
    await client.close()
    await _shut_down(posthog)
    [event] = analytics.unique_events
    [line] = await vendor.bill.settled()
    assert event.name == "$ai_generation"
    assert event.properties["$ai_input_tokens"] == line.amounts.prompt_tokens
    assert event.properties["$ai_output_tokens"] == line.amounts.completion_tokens


async def _shut_down(posthog: Posthog) -> None:
    # Its thread sends to a server on this very loop, so the loop must keep running.
    await asyncio.to_thread(posthog.shutdown)
