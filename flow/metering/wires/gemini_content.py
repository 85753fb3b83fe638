"""Gemini's turns and tools, as a chat in OpenAI's words (ai.google.dev/api/caching, "Content").

The service takes the names of fields in both spellings, and Google's SDK sends both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from flow.metering.evidence import Noted
from flow.metering.wires.json_exchange import objects, text

_CAPITAL = re.compile("[A-Z]")


def field(value: Any, *names: str) -> Any:
    """The value at this path of fields, named as ``camelCase`` and perhaps spelled
    ``snake_case``, or ``None``."""
    for name in names:
        if not isinstance(value, Mapping):
            return None
        found = value.get(name)
        value = value.get(_CAPITAL.sub(_lower, name)) if found is None else found
    return value


def messages(system: Any, contents: Any) -> list[dict[str, Any]]:
    """The turns as messages, without their sound and with a picture for each picture; the system
    instruction first."""
    told = [_message(content) for content in objects(contents)]
    if isinstance(system, Mapping):
        told.insert(0, {**_message(system), "role": "system"})
    return told


def functions(tools: Any) -> list[dict[str, Any]]:
    """The functions that are declared, each with what it takes under ``parameters``."""
    declared = [f for tool in objects(tools) for f in objects(field(tool, "functionDeclarations"))]
    return [_function(function) for function in declared]


def generated(part: Mapping[str, Any]) -> str:
    """The text, thought or code of a part, or the call of a function."""
    if isinstance(call := field(part, "functionCall"), Mapping):
        return called(call)
    return text(part.get("text")) or text(field(part, "executableCode", "code"))


def called(call: Mapping[str, Any]) -> str:
    """The call of a function as text."""
    return text(call.get("name")) + json.dumps(call.get("args") or {}, separators=(",", ":"))


def searched(content: Any) -> Iterator[Noted]:
    """What is billed beside the tokens of an answer that the web was searched for
    (ai.google.dev/pricing, "Grounding with Google Search")."""
    queries = field(content, "groundingMetadata", "webSearchQueries")
    if isinstance(queries, list) and queries:
        yield Noted(f"web searches ({len(queries)}) are billed beside the tokens")


def _message(content: Mapping[str, Any]) -> dict[str, Any]:
    parts = [_part(part) for part in objects(content.get("parts"))]
    return {"role": content.get("role") or "user", "content": parts}


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    for name in ("inlineData", "fileData"):
        if isinstance(data := field(part, name), Mapping):
            is_sound = text(field(data, "mimeType")).startswith("audio/")
            return {"type": "audio" if is_sound else "image"}
    answer = field(part, "functionResponse")
    said = json.dumps(answer, separators=(",", ":")) if answer else generated(part)
    return {"type": "text", "text": said}


def _function(declared: Mapping[str, Any]) -> dict[str, Any]:
    schema = declared.get("parameters") or field(declared, "parametersJsonSchema")
    return {**declared, "parameters": schema}


def _lower(capital: re.Match[str]) -> str:
    return f"_{capital[0].lower()}"
