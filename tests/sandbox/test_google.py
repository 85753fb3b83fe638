"""Google's SDK against the stand-in: what goes over the wire, and what is billed for it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.genai import errors
from google.genai.types import GenerateContentConfig, GenerateContentResponse

from flow.domain.usage.tokenizer import dictionary
from flow.sandbox.bill import Amounts
from flow.sandbox.faults import Fault
from flow.sandbox.google.app import GoogleSandbox
from flow.sandbox.openai.replies import SMALL_TALK, Reply, ToolCall
from tests.sandbox.conftest import Server

MODEL = "gemini-2.5-flash"
HELLO = [{"role": "user", "parts": [{"text": "hello"}]}]
LONG = "A sentence of a system prompt that is as long as it has to be. " * 120
CALL = Reply("Let me look.", tool_calls=(ToolCall("look", '{"a": 1}'),), reasoning_tokens=3)
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def tokens(text: str) -> int:
    return len(dictionary("o200k_base").encode_ordinary(text))


async def ask(server: Server, vendor: GoogleSandbox, **config: Any) -> GenerateContentResponse:
    client = await server.google(vendor)
    return await client.models.generate_content(
        model=MODEL, contents="hello", config=GenerateContentConfig(**config)
    )


async def chunks_of(server: Server, vendor: GoogleSandbox) -> list[GenerateContentResponse]:
    client = await server.google(vendor)
    stream = await client.models.generate_content_stream(model=MODEL, contents="hello")
    return [chunk async for chunk in stream]


async def raw(
    server: Server, vendor: GoogleSandbox, method: str = "generateContent", **more: Any
) -> Any:
    http = await server.http(vendor)
    body = {"contents": HELLO, **more}
    url = f"/v1beta/models/{MODEL}:{method}"
    return await http.post(url, json=body, headers={"x-goog-api-key": "a key"})


async def test_an_answer_bills_exactly_its_usage(server: Server) -> None:
    vendor = GoogleSandbox()
    answer = await ask(server, vendor)
    assert answer.text == SMALL_TALK[0]
    assert answer.model_version == MODEL
    usage = answer.usage_metadata
    assert usage is not None
    said = tokens(SMALL_TALK[0])
    assert (usage.prompt_token_count, usage.candidates_token_count) == (8, said)
    assert usage.total_token_count == 8 + said
    [line] = vendor.bill.lines
    assert (line.kind, line.outcome, line.model) == ("llm", "complete", MODEL)
    assert line.response_id == answer.response_id
    assert line.amounts == Amounts(prompt_tokens=8, completion_tokens=said)


async def test_a_stream_tells_its_usage_so_far_with_every_chunk(server: Server) -> None:
    vendor = GoogleSandbox([CALL])
    chunks = await chunks_of(server, vendor)
    assert "".join(chunk.text for chunk in chunks[:-1] if chunk.text) == "Let me look."
    calls = chunks[-1].function_calls or []
    assert [(call.name, call.args) for call in calls] == [("look", {"a": 1})]
    told = [chunk.usage_metadata.total_token_count for chunk in chunks if chunk.usage_metadata]
    assert len(told) == len(chunks) > 2
    assert told == sorted(told, key=int)
    last = chunks[-1].usage_metadata
    assert last is not None
    assert last.thoughts_token_count == 3
    [line] = vendor.bill.lines
    assert line.stream
    assert line.amounts.reasoning_tokens == 3
    assert line.amounts.completion_tokens == (last.candidates_token_count or 0) + 3


@pytest.mark.parametrize("query", ["", "?alt=sse"])
async def test_raw_json_is_what_the_sdk_s_models_describe_and_no_more(
    server: Server, query: str
) -> None:
    vendor = GoogleSandbox([CALL])
    whole = await raw(server, vendor)
    streamed = await raw(server, vendor, f"streamGenerateContent{query}")
    written = streamed.text
    if query:
        events = [part.removeprefix("data: ") for part in written.strip().split("\r\n\r\n")]
        chunks = [json.loads(event) for event in events]
    else:
        chunks = json.loads(written)
    assert len(chunks) > 2
    for answer in (whole.json(), *chunks):
        GenerateContentResponse.model_validate(answer, extra="forbid")


async def test_a_long_prompt_is_read_from_the_cache_the_second_time(server: Server) -> None:
    vendor = GoogleSandbox()
    first, again = [
        (await ask(server, vendor, system_instruction=LONG)).usage_metadata for _ in range(2)
    ]
    assert first is not None
    assert again is not None
    assert first.cached_content_token_count is None
    assert 1024 <= (again.cached_content_token_count or 0) < (again.prompt_token_count or 0)
    assert vendor.bill.lines[1].amounts.cached_tokens == again.cached_content_token_count


async def test_sound_is_told_apart_from_text(server: Server) -> None:
    vendor = GoogleSandbox()
    sound = {"inlineData": {"mimeType": "audio/pcm", "data": "AAAA" * 10_667}}
    heard = await raw(server, vendor, contents=[{"role": "user", "parts": [sound]}])
    details = heard.json()["usageMetadata"]["promptTokensDetails"]
    assert {"modality": "AUDIO", "tokenCount": 33} in details
    assert vendor.bill.lines[0].amounts.prompt_audio_tokens == 33


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"contents": []}, "contents is not specified"),
        ({"contents": [{"role": "assistant", "parts": []}]}, "Invalid value"),
        ({"messages": []}, 'Unknown name "messages"'),
        ({"model": MODEL}, 'Unknown name "model"'),
        ({"generationConfig": {"maxOutputTokens": 0}}, "Invalid value"),
    ],
)
async def test_what_google_refuses_is_refused_in_its_words_and_costs_nothing(
    server: Server, changed: dict[str, Any], said: str
) -> None:
    vendor = GoogleSandbox()
    refused = await raw(server, vendor, **changed)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["status"]) == (400, 400, "INVALID_ARGUMENT")
    assert said in error["message"]
    assert vendor.bill.lines == []


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_the_sdk_knows_its_errors(server: Server, status: int) -> None:
    vendor = GoogleSandbox()
    vendor.faults.add(Fault(kind="status", status=status))
    with pytest.raises(errors.APIError) as failed:
        await ask(server, vendor)
    named = {429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE"}
    assert (failed.value.code, failed.value.status) == (status, named[status])


async def test_an_error_in_mid_stream_is_one_for_the_sdk(server: Server) -> None:
    vendor = GoogleSandbox()
    vendor.faults.add(Fault(kind="error_chunk", chunks=2))
    with pytest.raises(errors.ServerError):
        await chunks_of(server, vendor)
    [line] = vendor.bill.lines
    assert line.outcome == "failed"


@pytest.mark.parametrize(("key", "code"), [("another key", 400)])
async def test_a_key_is_wanted(server: Server, key: str, code: int) -> None:
    client = await server.google(GoogleSandbox(api_keys=["the key"]), key)
    with pytest.raises(errors.ClientError) as refused:
        await client.models.generate_content(model=MODEL, contents="hello")
    assert refused.value.code == code
    http = await server.http(GoogleSandbox())
    anonymous = await http.post(f"/v1beta/models/{MODEL}:generateContent", json={})
    assert anonymous.json()["error"]["status"] == "PERMISSION_DENIED"


async def test_counting_tokens_costs_nothing(server: Server) -> None:
    vendor = GoogleSandbox()
    client = await server.google(vendor)
    counted = await client.models.count_tokens(model=MODEL, contents="hello")
    assert counted.total_tokens == 8
    assert vendor.bill.lines == []


async def test_a_demanded_tool_is_called_and_a_schema_is_kept(server: Server) -> None:
    tool = {"function_declarations": [{"name": "look", "parameters_json_schema": SCHEMA}]}
    wanted = {"function_calling_config": {"mode": "ANY"}}
    called = await ask(server, GoogleSandbox(), tools=[tool], tool_config=wanted)
    [call] = called.function_calls or []
    assert call.name == "look"
    assert isinstance((call.args or {})["n"], int)
    said = await ask(
        server,
        GoogleSandbox(),
        response_mime_type="application/json",
        response_json_schema=SCHEMA,
    )
    assert isinstance(json.loads(said.text or "")["n"], int)


async def test_a_reply_is_cut_at_its_longest(server: Server) -> None:
    answer = await ask(server, GoogleSandbox(), max_output_tokens=3)
    assert answer.candidates is not None
    assert answer.candidates[0].finish_reason == "MAX_TOKENS"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata.candidates_token_count == 3


async def test_a_blocked_prompt_costs_what_was_read(server: Server) -> None:
    vendor = GoogleSandbox()
    vendor.faults.add(Fault(kind="refusal"))
    answer = await ask(server, vendor)
    assert answer.prompt_feedback is not None
    assert answer.candidates is None
    [line] = vendor.bill.lines
    assert (line.outcome, line.amounts) == ("complete", Amounts(prompt_tokens=8))


@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent"])
@pytest.mark.parametrize(
    "kind", ["no_usage", "null_usage_details", "empty_reply", "same_id", "empty_choices"]
)
async def test_a_strange_reply_is_billed_all_the_same(
    server: Server, kind: Any, method: str
) -> None:
    vendor = GoogleSandbox()
    vendor.faults.add(Fault(kind=kind))
    answer = await raw(server, vendor, method)
    assert ("usageMetadata" in answer.text) == (kind != "no_usage")
    assert ("Details" in answer.text) == (kind not in ("no_usage", "null_usage_details"))
    [line] = vendor.bill.lines
    assert line.outcome == "complete"
