"""What models call functions with, before anybody relies on it.

Pipecat drops a call whose arguments are no JSON, so that the caller hears nothing, or runs it
without any; and what is JSON but cannot be sent (half a character, a number that is none) would
have a vendor's client fail at each request of the rest of the call.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from flow.domain.insights.insight_schema import MAX_DEPTH, is_deeper


class NoArguments(dict[str, Any]):
    """In place of arguments that are no JSON object, or none that can be sent on: an empty one,
    as which the conversation has them."""


def arguments_of(given: Any) -> dict[str, Any]:
    """What a function is called with, where that can be sent on; else `NoArguments`."""
    if not isinstance(given, dict) or is_deeper(given, MAX_DEPTH):
        return NoArguments()
    try:
        json.dumps(given, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        return NoArguments()
    return given


def as_json(arguments: str) -> str:
    """The text of arguments, or ``null`` where it cannot be read; an empty one is an object's."""
    try:
        json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return "null"
    return arguments or "{}"


@cache
def with_checked_arguments(kind: Any) -> Any:
    """The service whose functions are called with what `arguments_of` makes of it."""

    class CheckedArguments(kind):  # type: ignore[misc]
        async def run_function_calls(self, function_calls: Sequence[Any]) -> None:
            """As Pipecat's."""
            await super().run_function_calls(
                [replace(call, arguments=arguments_of(call.arguments)) for call in function_calls]
            )

    CheckedArguments.__name__ = CheckedArguments.__qualname__ = kind.__name__
    return CheckedArguments


class WholeCalls:
    """The chunks of a chat, with the functions that it calls in one piece each, at its end.

    Pipecat reads one call a chunk, in order, and there are vendors that send all of them in one.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[Any]:
        calls: dict[Any, tuple[str, str, str]] = {}
        last: Any = None
        async for chunk in self._stream:
            for part in _called(chunk):
                last, function = chunk, part.function
                id_, name, arguments = calls.get(part.index, ("", "", ""))
                calls[part.index] = (
                    id_ or part.id or "",
                    name + ((function and function.name) or ""),
                    arguments + ((function and function.arguments) or ""),
                )
            yield _calling(chunk, None) if _called(chunk) else chunk
        for index, (id_, name, arguments) in enumerate(calls.values()):
            function = {"name": name, "arguments": as_json(arguments)}
            yield _calling(last, {"index": index, "id": id_, "function": function})

    async def close(self) -> None:
        """Close the stream below."""
        await self._stream.close()


def _called(chunk: Any) -> Sequence[Any]:
    return (chunk.choices and chunk.choices[0].delta and chunk.choices[0].delta.tool_calls) or ()


def _calling(chunk: Any, call: dict[str, Any] | None) -> Any:
    """The chunk with this call of a function alone; with one, it has nothing else."""
    choice = chunk.choices[0]
    delta = choice.delta.model_copy(update={"tool_calls": None})
    if call is not None:
        delta = type(delta).model_validate({"tool_calls": [call]})
    return chunk.model_copy(update={"choices": [choice.model_copy(update={"delta": delta})]})
