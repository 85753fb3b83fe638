"""The texts of a node, with what tools have answered in the call so far."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from flow.domain.agents.templates import AnswerPlaceholder, parse_node_text
from flow.domain.agents.variables import MAX_VALUE_CHARS

# What Pipecat would fill in from a state of its own (`pipecat.flows.manager._PLACEHOLDER`), and
# raise for. What it looks like here is nothing but text: a caller's words among it.
_OF_PIPECAT = re.compile(r"(?=\{\{\s*[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*\s*\}\})")


def node_text(text: str, answers: Mapping[str, Any]) -> str:
    """A text of a node, whose variables are filled in, as Pipecat is to have it.

    Args:
        answers: the last answer of each tool, by its name.
    """
    return _OF_PIPECAT.sub(r"\\", plain_text(text, answers))


def plain_text(text: str, answers: Mapping[str, Any]) -> str:
    """The same as it is spoken or told."""
    return "".join(
        _value(piece, answers) if isinstance(piece, AnswerPlaceholder) else str(piece)
        for piece in parse_node_text(text)
    )


def _value(wanted: AnswerPlaceholder, answers: Mapping[str, Any]) -> str:
    value = answers.get(wanted.tool)
    for name in wanted.path:
        value = _part(value, name)
    if value is None:
        return wanted.default
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text[:MAX_VALUE_CHARS]


def _part(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(name)
    if isinstance(value, Sequence) and not isinstance(value, str) and name.isdecimal():
        return value[int(name)] if int(name) < len(value) else None
    return None
