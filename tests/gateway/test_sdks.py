"""The vendors' own SDKs against the gateway, each request held against the vendor's bill."""

from __future__ import annotations

import base64
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from flow.sandbox.faults import Fault
from flow.sandbox.openai.speech import as_wav
from tests.gateway.conftest import REPLY, THOUGHTS, Caller

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO: Any = [{"role": "user", "content": "Hello!"}]
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(40)).decode()
TOOL: Any = {
    "name": "find_booking",
    "description": "Finds a booking.",
    "parameters": {
        "type": "object",
        "properties": {"name": {"type": "string"}},
        "required": ["name"],
        "additionalProperties": False,
    },
}


@pytest.mark.parametrize("model", ["gpt-4.1", "openai/gpt-4.1", "OpenAI/gpt-4.1"])
async def test_chat_by_any_name_of_the_model(caller: Caller, model: str) -> None:
    answer = await caller.openai.chat.completions.create(model=model, messages=HELLO)
    assert answer.choices[0].message.content == REPLY
    assert answer.model == "gpt-4.1-2025-04-14"
    (row,) = await caller.conserved(1)
    assert (row["provider"], row["model"]) == ("openai", "gpt-4.1-2025-04-14")
    assert (row["requested_model"], row["sent_model"]) == ("gpt-4.1", None)
    assert (row["outcome"], row["provenance"]) == ("ok", "reported")


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True}}])
async def test_streamed_chat_reports_its_usage_whether_asked_or_not(
    caller: Caller, options: dict[str, Any]
) -> None:
    said = ""
    async with await caller.openai.chat.completions.create(
        model="gpt-4.1", messages=HELLO, stream=True, **options
    ) as stream:
        async for chunk in stream:
            said += "".join(choice.delta.content or "" for choice in chunk.choices)
    assert said == REPLY
    assert chunk.usage is not None
    (row,) = await caller.conserved(1)
    assert (row["stream"], row["provenance"]) == (True, "reported")
    assert row["time_to_first_token_secs"] is not None


async def test_tools_images_and_what_the_gateway_does_not_know(caller: Caller) -> None:
    content: Any = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
    ]
    answer = await caller.openai.chat.completions.create(
        model="gpt-4.1",
        messages=[{"role": "user", "content": content}],
        tools=[{"type": "function", "function": TOOL}],
        tool_choice="required",
        extra_body={"some_new_field": {"deep": [1, None]}},
    )
    (call,) = answer.choices[0].message.tool_calls or ()
    assert call.type == "function"
    assert call.function.name == "find_booking"
    await caller.conserved(1)


@pytest.mark.parametrize("stream", [False, True])
async def test_responses(caller: Caller, stream: bool) -> None:
    if stream:
        async with caller.openai.responses.stream(model="gpt-4.1", input="Hello!") as events:
            answer = await events.get_final_response()
    else:
        answer = await caller.openai.responses.create(model="openai/gpt-4.1", input="Hello!")
    assert answer.output_text == REPLY
    assert answer.usage is not None
    (row,) = await caller.conserved(1)
    assert (row["model"], row["requested_model"]) == ("gpt-4.1-2025-04-14", "gpt-4.1")
    assert (row["stream"], row["provenance"]) == (stream, "reported")


async def test_responses_with_tools_and_structured_output(caller: Caller) -> None:
    answer = await caller.openai.responses.create(
        model="gpt-4.1",
        input=[{"role": "user", "content": "Find my booking."}],
        tools=[{"type": "function", "strict": True, **TOOL}],
        tool_choice="required",
    )
    assert [item.type for item in answer.output] == ["function_call"]
    parsed = await caller.openai.responses.parse(
        model="gpt-4.1", input="Hello!", text_format=Insight
    )
    assert isinstance(parsed.output_parsed, Insight)
    await caller.conserved(2)


async def test_a_deployment_of_azures(caller: Caller) -> None:
    async with await caller.openai.chat.completions.create(
        model="azure/gpt-4.1", messages=HELLO, stream=True
    ) as stream:
        chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage is not None
    (row,) = await caller.conserved(1)
    assert (row["provider"], row["provenance"]) == ("azure", "reported")


TWO_TURNS: Any = [*HELLO, {"role": "assistant", "content": "Hi."}, *HELLO]


@pytest.mark.parametrize("stream", [False, True])
async def test_gemini_thinks_beside_its_answer(caller: Caller, stream: bool) -> None:
    chat = caller.openai.chat.completions
    model: Any = "google/gemini-2.5-flash"
    if stream:
        async with await chat.create(model=model, messages=TWO_TURNS, stream=True) as chunks:
            told = [chunk.usage async for chunk in chunks]
        assert None not in told
        usage = told[-1]
    else:
        usage = (await chat.create(model=model, messages=TWO_TURNS)).usage
    assert usage is not None
    (row,) = await caller.conserved(1)
    assert (row["provider"], row["model"]) == ("google", "gemini-2.5-flash")
    assert (row["outcome"], row["provenance"]) == ("ok", "reported")
    used = {line["unit"]: int(line["quantity"]) for line in row["lines"]}
    assert used["reasoning_tokens"] == THOUGHTS
    assert used["output_tokens"] == usage.completion_tokens + THOUGHTS
    assert float(row["total_cost_usd"]) > 0


async def test_gemini_with_tools_images_structured_output_and_embeddings(caller: Caller) -> None:
    content: Any = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
    ]
    answer = await caller.openai.chat.completions.create(
        model="gemini-2.5-flash",
        messages=[{"role": "user", "content": content}],
        tools=[{"type": "function", "function": TOOL}],
        tool_choice="required",
        reasoning_effort="low",
    )
    assert answer.choices[0].message.tool_calls
    parsed = await caller.openai.chat.completions.parse(
        model="google/gemini-2.5-flash", messages=HELLO, response_format=Insight
    )
    assert isinstance(parsed.choices[0].message.parsed, Insight)
    vectors = await caller.openai.embeddings.create(
        model="google/gemini-embedding-001", input="A text."
    )
    assert vectors.data[0].embedding
    rows = await caller.conserved(3)
    assert [row["provenance"] for row in rows] == ["reported", "reported", "estimated"]
    assert {float(row["total_cost_usd"]) > 0 for row in rows} == {True}


async def test_gemini_is_of_no_use_with_a_key_that_is_none(caller: Caller) -> None:
    said = '[{"error": {"code": 400, "details": [{"reason": "API_KEY_INVALID"}]}}]'
    fault = Fault(kind="status", status=400, body=said, times=1)
    caller.world.vendors.models["google"].faults.add(fault)
    with pytest.raises(openai.InternalServerError, match="credentials") as raised:
        await caller.openai.chat.completions.create(model="google/gemini-2.5-flash", messages=HELLO)
    assert raised.value.status_code == 502
    assert (await caller.row())["failure"]["http_status"] == 400


class Insight(BaseModel):
    topic: str
    is_urgent: bool


async def test_structured_output(caller: Caller) -> None:
    answer = await caller.openai.chat.completions.parse(
        model="gpt-4.1", messages=HELLO, response_format=Insight
    )
    assert isinstance(answer.choices[0].message.parsed, Insight)
    await caller.conserved(1)


async def test_embeddings(caller: Caller) -> None:
    answer = await caller.openai.embeddings.create(
        model="text-embedding-3-small", input=["A text.", "And another one."]
    )
    assert len(answer.data[1].embedding) == 1536
    (row,) = await caller.conserved(1)
    assert row["kind"] == "embedding"
    assert [line["component"] for line in row["lines"]] == ["embedding"]
    event = await caller.event(row)
    assert event.name == "$ai_embedding"
    assert event.properties["$ai_input_tokens"] == answer.usage.prompt_tokens
    assert event.properties["$ai_output_cost_usd"] == 0
    assert event.properties["$ai_total_cost_usd"] == float(row["total_cost_usd"])


async def test_speech_and_transcription(caller: Caller) -> None:
    spoken = await caller.openai.audio.speech.create(
        model="tts-1", voice="alloy", input="Good evening!", response_format="pcm"
    )
    assert len(spoken.content) > 1000
    heard = await caller.openai.audio.transcriptions.create(
        model="openai/whisper-1", file=("a.wav", as_wav(spoken.content)), language="en"
    )
    assert heard.text
    tts, stt = await caller.conserved(2)
    assert (tts["kind"], stt["kind"]) == ("tts", "stt")
    assert {(await caller.event(row)).name for row in (tts, stt)} == {"$ai_generation"}


@pytest.mark.parametrize("model", ["claude-haiku-4-5", "anthropic/claude-haiku-4-5"])
async def test_messages(caller: Caller, model: str) -> None:
    answer = await caller.anthropic.messages.create(model=model, max_tokens=99, messages=HELLO)
    assert answer.content[0].type == "text"
    (row,) = await caller.conserved(1)
    assert (row["provider"], row["requested_model"]) == ("anthropic", "claude-haiku-4-5")


async def test_streamed_messages_with_tools_and_images(caller: Caller) -> None:
    source: Any = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    content: Any = [{"type": "image", "source": source}, {"type": "text", "text": "Well?"}]
    async with caller.anthropic.messages.stream(
        model="claude-haiku-4-5",
        max_tokens=200,
        system="You see things.",
        messages=[{"role": "user", "content": content}],
        tools=[
            {
                "name": TOOL["name"],
                "description": TOOL["description"],
                "input_schema": TOOL["parameters"],
            }
        ],
    ) as stream:
        assert (await stream.get_final_message()).usage.output_tokens > 0
    (row,) = await caller.conserved(1)
    assert row["stream"] is True


async def test_counting_tokens_is_passed_on_and_costs_nothing(caller: Caller) -> None:
    counted = await caller.anthropic.messages.count_tokens(model="claude-haiku-4-5", messages=HELLO)
    assert counted.input_tokens > 0
    beta = await caller.anthropic.beta.messages.count_tokens(
        model="claude-haiku-4-5", messages=HELLO
    )
    assert beta.input_tokens == counted.input_tokens
    assert await caller.rows(0) == []


async def test_models_are_listed_in_either_protocol(caller: Caller) -> None:
    ids = [model.id async for model in caller.openai.models.list()]
    assert "openai/gpt-4.1" in ids
    assert "anthropic/claude-haiku-4-5" in ids
    assert "openai/tts-1" in ids
    small = caller.openai.with_options(base_url=f"{caller.world.url}/small/v1")
    few = [model.id async for model in small.models.list()]
    assert {id_ for id_ in few if id_.startswith("openai/") and "-4.1" in id_} == {
        "openai/gpt-4.1-mini"
    }
    assert {id_ for id_ in few if "tts" in id_} == {"openai/tts-1", "openai/tts-1-hd"}
    assert "openai/whisper-1" in few
    theirs = [model.id async for model in caller.anthropic.models.list()]
    assert theirs == ids


async def test_a_conversation_in_both_products_and_protocols(caller: Caller) -> None:
    little = caller.openai.with_options(base_url=f"{caller.world.url}/little/v1")
    await little.chat.completions.create(model="gpt-4.1-mini", messages=HELLO)
    claude = caller.anthropic.with_options(base_url=f"{caller.world.url}/small")
    await claude.messages.create(model="claude-haiku-4-5", max_tokens=9, messages=HELLO)
    await caller.openai.chat.completions.create(model="gpt-4.1", messages=HELLO)
    rows = await caller.conserved(3)
    assert [(row["product"], row["billable"]) for row in rows] == [
        ("small", False),
        ("small", False),
        ("gateway", True),
    ]
