"""How the protocols of language models write what save mode changes: a reply's limit, and an
instruction."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LEAST_RESPONSE_TOKENS = 16
"""The shortest limit that OpenAI's Responses API takes (its reference, "max_output_tokens")."""

Request = Mapping[str, Any]

_NEVER_THINKS = re.compile(r"gemini-(1\.|2\.0)")


@dataclass(frozen=True, slots=True)
class RequestForm:
    """The requests of one protocol. Both functions return the fields that change.

    Args:
        limit: of a request, the most tokens of a reply and the vendor: never above the limit that
            is in the request.
        instruct: of a request and the instruction, which it has once, however often it is told.
    """

    limit: Callable[[Request, int, str], dict[str, Any]]
    instruct: Callable[[Request, str], dict[str, Any]]


def form_of(request: Request, provider: str) -> RequestForm:
    """The protocol of a request to a vendor."""
    if provider == "anthropic":
        return MESSAGES
    if "contents" in request:
        return GENERATE_CONTENT
    return RESPONSES if "input" in request and "messages" not in request else CHAT


def _limit_chat(request: Request, most: int, provider: str) -> dict[str, Any]:
    """The limit in the field that the request uses.

    Where it uses none: OpenAI's newest models take ``max_completion_tokens`` alone, and not every
    vendor that speaks its protocol takes that (DeepSeek does not).
    """
    names = ("max_completion_tokens", "max_tokens")
    used = [name for name in names if request.get(name) is not None]
    if used:
        return {name: min(request[name], most) for name in used}
    return {names[0] if provider in ("openai", "azure") else names[1]: most}


def _limit_response(request: Request, most: int, _provider: str) -> dict[str, Any]:
    own = request.get("max_output_tokens")
    limit = most if own is None else min(own, most)
    return {"max_output_tokens": max(limit, LEAST_RESPONSE_TOKENS)}


def _limit_content(request: Request, most: int, _provider: str) -> dict[str, Any]:
    """The limit of Gemini's output, which has to have room for its thoughts as well
    (ai.google.dev, "Gemini thinking"): where nothing tells how long these are, there is none."""
    name, config = _either(request, "generationConfig", "generation_config")
    limit, own = _either(config or {}, "maxOutputTokens", "max_output_tokens")
    thoughts = _most_thoughts(str(request.get("model")), config or {})
    if thoughts is None:
        return {}
    room = most + thoughts
    return {name: {**(config or {}), limit: room if own is None else min(own, room)}}


def _most_thoughts(model: str, config: Mapping[str, Any]) -> int | None:
    """How many tokens Gemini may think; ``None``: as many as it likes."""
    _, thinking = _either(config, "thinkingConfig", "thinking_config")
    _, budget = _either(thinking or {}, "thinkingBudget", "thinking_budget")
    _, level = _either(thinking or {}, "thinkingLevel", "thinking_level")
    if isinstance(budget, int) and budget >= 0:
        return budget
    is_without = str(level).lower() == "minimal" or _NEVER_THINKS.search(model)
    return 0 if is_without else None


def _instruct_chat(request: Request, instruction: str) -> dict[str, Any]:
    """The messages with the instruction after them.

    After them, so that a cached prompt stays the same up to it. It speaks with the voice that
    the prompt speaks with, since OpenAI wants system or developer messages and not both: Pipecat
    puts a system message first.
    """
    messages = request["messages"]
    roles = {m.get("role") for m in messages if isinstance(m, Mapping)}
    role = "developer" if "developer" in roles and "system" not in roles else "system"
    told = {"role": role, "content": instruction}
    if told in messages:
        return {"messages": list(messages)}
    place = _end_of_turns(messages)
    return {"messages": [*messages[:place], told, *messages[place:]]}


def _instruct_message(request: Request, instruction: str) -> dict[str, Any]:
    """Anthropic's system prompt with the instruction after it: a block of its own, so that what
    is cached stays the same up to it. Not all of its models take system messages."""
    system = request.get("system")
    if isinstance(system, str):
        system = [{"type": "text", "text": system}] if system else []
    blocks = list(system) if isinstance(system, list) else []
    return {"system": _with_one(blocks, {"type": "text", "text": instruction})}


def _instruct_response(request: Request, instruction: str) -> dict[str, Any]:
    """The input of a response with the instruction after it."""
    given = request["input"]
    items = [{"role": "user", "content": given}] if isinstance(given, str) else list(given)
    return {"input": _with_one(items, {"role": "developer", "content": instruction})}


def _instruct_content(request: Request, instruction: str) -> dict[str, Any]:
    """Gemini's system instruction with another part. Its turns have no other voice."""
    name, system = _either(request, "systemInstruction", "system_instruction")
    content = system if isinstance(system, Mapping) else {}
    parts = content.get("parts")
    told = _with_one(parts if isinstance(parts, list) else [], {"text": instruction})
    return {name: {**content, "parts": told}}


CHAT = RequestForm(_limit_chat, _instruct_chat)
MESSAGES = RequestForm(_limit_chat, _instruct_message)
RESPONSES = RequestForm(_limit_response, _instruct_response)
GENERATE_CONTENT = RequestForm(_limit_content, _instruct_content)


def _with_one(items: list[Any], item: Any) -> list[Any]:
    return list(items) if item in items else [*items, item]


def _either(values: Mapping[str, Any], name: str, other: str) -> tuple[str, Any]:
    """The spelling that is used, or the first one, and the value."""
    used = other if other in values else name
    return used, values.get(used)


def _end_of_turns(messages: Sequence[Any]) -> int:
    """Where a message may be added last: nothing may stand between a tool call and its result."""
    answered: set[Any] = set()
    for place, message in reversed(list(enumerate(messages))):
        given = message if isinstance(message, Mapping) else {}
        if given.get("role") == "tool":
            answered.add(given.get("tool_call_id"))
            continue
        calls = given.get("tool_calls")
        asked = {call.get("id") for call in calls} if isinstance(calls, list) else set()
        return len(messages) if asked <= answered else place
    return len(messages)
