"""What models call functions with, and how the chunks of a chat have it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai.types.chat import ChatCompletionChunk

from flow.bot.vendors.function_calls import NoArguments, WholeCalls, arguments_of, as_json


def chunk(**delta: Any) -> ChatCompletionChunk:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    about = {"id": "c", "created": 0, "model": "m", "object": "chat.completion.chunk"}
    return ChatCompletionChunk.model_validate({**about, "choices": [choice]})


def part(index: int, arguments: str, name: str | None = None) -> dict[str, Any]:
    return {"index": index, "id": name, "function": {"name": name, "arguments": arguments}}


STREAMS = {
    "in pieces": [[part(0, "", "f")], [part(0, '{"a":')], [part(0, "1}")], [part(1, "{}", "g")]],
    "in one chunk": [[part(0, '{"a":1}', "f"), part(1, "", "g")]],
    "counted from one": [[part(1, '{"a":1}', "f")], [part(2, "{}", "g")]],
}


@pytest.mark.parametrize("stream", STREAMS)
async def test_each_call_comes_whole_and_in_order(stream: str) -> None:
    async def chunks() -> AsyncIterator[ChatCompletionChunk]:
        yield chunk(content="Let me see.")
        for parts in STREAMS[stream]:
            yield chunk(tool_calls=parts)

    came = [one.choices[0].delta async for one in WholeCalls(chunks())]
    assert [delta.content for delta in came if delta.content] == ["Let me see."]
    calls = [delta.tool_calls for delta in came if delta.tool_calls]
    assert [(call.index, call.id, call.function.arguments) for (call,) in calls] == [
        (0, "f", '{"a":1}'),
        (1, "g", "{}"),
    ]


DEEP = '{"a": ' + "[" * 900 + "]" * 900 + "}"
NO_ARGUMENTS = [
    *('{"a": ', "a=1", "null", "[1]", '"a"', r'{"a": "\ud83d"}', r'{"\ud83d": 1}'),
    *('{"a": 1e999}', '{"a": NaN}', '{"a": ' + "9" * 5_000 + "}", DEEP, "[" * 9_000),
]


@pytest.mark.parametrize("text", NO_ARGUMENTS, ids=lambda text: text[:12])
def test_what_is_no_object_or_cannot_be_sent_is_no_arguments(text: str) -> None:
    assert isinstance(arguments_of(json.loads(as_json(text))), NoArguments)


@pytest.mark.parametrize("text", ["", "{}", '{"a": "😀\\u0000", "__proto__": {"n": 1e3}}'])
def test_arguments_are_taken_as_they_are(text: str) -> None:
    assert arguments_of(json.loads(as_json(text))) == json.loads(text or "{}")
