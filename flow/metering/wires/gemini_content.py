"""Gemini's turns and tools, as a chat in OpenAI's words (ai.google.dev/api/caching, "Content").

The service takes the names of fields in both spellings, and Google's SDK sends both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flow.metering.wires.json_exchange import objects, text


def messages(system: Any, contents: Any) -> list[dict[str, Any]]:
    """The turns as messages, without their sound and with a picture for each picture; the system
    instruction first."""
    told = [_message(content) for content in objects(contents)]
    if isinstance(system, Mapping):
        told.insert(0, {**_message(system), "role": "system"})
    return told


def functions(tools: Any) -> list[dict[str, Any]]:
    """The functions that are declared, each with what it takes under ``parameters``."""
    names = ("functionDeclarations", "function_declarations")
    declared = [f for tool in objects(tools) for name in names for f in objects(tool.get(name))]
    return [_function(function) for function in declared]


def generated(part: Mapping[str, Any]) -> str:
    """The text, thought or code of a part, or the call of a function."""
    call = part.get("functionCall") or part.get("function_call")
    if isinstance(call, Mapping):
        return called(call)
    code = part.get("executableCode")
    return text(part.get("text")) or text(code.get("code") if isinstance(code, Mapping) else None)


def called(call: Mapping[str, Any]) -> str:
    """The call of a function as text."""
    return text(call.get("name")) + json.dumps(call.get("args") or {}, separators=(",", ":"))


def _message(content: Mapping[str, Any]) -> dict[str, Any]:
    parts = [_part(part) for part in objects(content.get("parts"))]
    return {"role": content.get("role") or "user", "content": parts}


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    for name in ("inlineData", "inline_data", "fileData", "file_data"):
        if isinstance(data := part.get(name), Mapping):
            kind = text(data.get("mimeType")) or text(data.get("mime_type"))
            return {"type": "audio" if kind.startswith("audio/") else "image"}
    answer = part.get("functionResponse") or part.get("function_response")
    said = json.dumps(answer, separators=(",", ":")) if answer else generated(part)
    return {"type": "text", "text": said}


def _function(declared: Mapping[str, Any]) -> dict[str, Any]:
    names = ("parameters", "parametersJsonSchema", "parameters_json_schema")
    return {**declared, "parameters": next(filter(None, map(declared.get, names)), None)}
