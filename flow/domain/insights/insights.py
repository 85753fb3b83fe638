"""What is extracted from a call, and the transcript as a model is shown it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from flow.domain.calls.thread import Turn
from flow.domain.calls.tool_call import ToolCall

MAX_TRANSCRIPT_CHARS = 200_000
"""About 50,000 tokens of English, some five hours of talk."""

DEFAULT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "summary": {"type": "string", "description": "What the call was about, 1-3 sentences."},
        "outcome": {
            "type": "string",
            "enum": ["resolved", "unresolved", "follow_up_needed", "abandoned", "unclear"],
        },
        "sentiment": {"type": "string", "enum": ["positive", "neutral", "negative", "mixed"]},
        "topics": {"type": "array", "items": {"type": "string"}},
        "action_items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "owner": {"type": "string", "enum": ["caller", "bot", "business", "unclear"]},
                    "action": {"type": "string"},
                },
                "required": ["owner", "action"],
                "additionalProperties": False,
            },
        },
        "language": {
            "type": "string",
            "description": "BCP 47 tag of the language mostly spoken, such as en or pt-BR.",
        },
    },
    "required": ["summary", "outcome", "sentiment", "topics", "action_items", "language"],
    "additionalProperties": False,
}

Reason = Literal[
    "disabled",
    "empty_transcript",
    "unusable_schema",
    "refused",
    "truncated",
    "invalid_output",
    "vendor_error",
    "timeout",
]


@dataclass(frozen=True, slots=True)
class InsightsResult:
    """What came of it. ``data`` is there when ``status`` is ``ok``, ``reason`` when it is not.

    ``detail`` is a short word on the reason that quotes nothing of the call. ``model`` is the
    one that answered. ``omitted_turns`` counts the turns that the model was not shown, because
    the transcript was too long.
    """

    status: Literal["ok", "skipped", "failed"]
    data: dict[str, Any] | None = None
    reason: Reason | None = None
    detail: str | None = None
    model: str | None = None
    omitted_turns: int = 0

    def to_json(self) -> dict[str, Any]:
        """The result as it is stored on the thread; what is unknown is left out."""
        known = {"reason": self.reason, "detail": self.detail, "model": self.model}
        return {
            "status": self.status,
            **({"data": self.data} if self.status == "ok" else {}),
            **{name: value for name, value in known.items() if value is not None},
            **({"omitted_turns": self.omitted_turns} if self.omitted_turns else {}),
        }


@dataclass(frozen=True, slots=True)
class Rendered:
    """A transcript as text, and how many turns of it were left out."""

    text: str
    omitted_turns: int


def has_words(transcript: Sequence[Turn]) -> bool:
    """Whether anybody said anything."""
    return any(turn.content.strip() for turn in transcript)


def render_transcript(
    transcript: Sequence[Turn],
    max_chars: int = MAX_TRANSCRIPT_CHARS,
    tool_calls: Sequence[ToolCall] = (),
) -> Rendered:
    """The transcript, and what the bot did meanwhile, as JSON lines, at most about ``max_chars``
    long.

    One object a line, so that nothing said in a turn can pass for another turn or for the end
    of the transcript. Of one that is too long the beginning (who calls, and why) and, twice as
    much, the end (how it came out) are kept; a line in between says how many turns are missing.
    A single turn is cut in its middle when it takes more than a quarter of the room.
    """
    first, most = transcript[0], max_chars // 4
    told = [(turn.started_at, _line(turn, first, most)) for turn in transcript]
    if tool_calls:
        told += [(call.started_at, _use(call, first, most)) for call in tool_calls]
        told.sort(key=lambda one: one[0])
    lines = [line for _, line in told]
    sizes = [len(line) + 1 for line in lines]
    if sum(sizes) <= max_chars:
        return Rendered("\n".join(lines), 0)
    head = _fitting(sizes, max_chars // 3)
    tail = min(_fitting(sizes[::-1], max_chars - max_chars // 3), len(lines) - head)
    omitted = len(lines) - head - tail
    gap = json.dumps({"omitted_turns": omitted})
    return Rendered("\n".join([*lines[:head], gap, *lines[len(lines) - tail :]]), omitted)


def _fitting(sizes: Sequence[int], room: int) -> int:
    return sum(1 for total in accumulate(sizes) if total <= room)


def _line(turn: Turn, first: Turn, max_chars: int) -> str:
    said = {
        "seconds": max(0, round((turn.started_at - first.started_at).total_seconds())),
        "role": turn.role,
        "text": _cut(turn.content, max_chars),
        **({"interrupted": True} if turn.interrupted else {}),
    }
    return json.dumps(said, ensure_ascii=False)


def _use(call: ToolCall, first: Turn, max_chars: int) -> str:
    used = {
        "seconds": max(0, round((call.started_at - first.started_at).total_seconds())),
        "role": "tool",
        "tool": call.name,
        "arguments": _cut(json.dumps(dict(call.arguments), ensure_ascii=False), max_chars),
        "outcome": call.outcome.value,
        "result": _cut(json.dumps(call.result, ensure_ascii=False), max_chars),
    }
    return json.dumps(used, ensure_ascii=False)


def _cut(text: str, max_chars: int) -> str:
    if len(text) <= max_chars:
        return text
    half = max_chars // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]} […{left_out} characters left out…] {text[len(text) - half :]}"
