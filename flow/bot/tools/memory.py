"""What a bot that goes on with a call remembers of it: what was said, and what its tools did."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from flow.domain.calls.thread import Turn
from flow.domain.calls.tool_call import ToolCall, ToolOutcome

_UNKNOWN = {
    "error": ToolOutcome.UNKNOWN.value,
    "message": (
        "the connection was lost while this was under way: whether it was done is not known. Do"
        " not do it again unasked; find out, or tell the caller."
    ),
}


def messages_of(
    said: Sequence[Turn], used: Sequence[ToolCall], *, in_words: bool
) -> list[dict[str, Any]]:
    """The conversation so far as a context has it, in the order in which things began.

    Args:
        in_words: tell of tools in sentences, for models whose sessions cannot begin with calls
            of functions.
    """
    turns = [(turn.started_at, [{"role": turn.role, "content": turn.content}]) for turn in said]
    tell = _in_words if in_words else _as_calls
    uses = [(call.started_at, [*tell(call)]) for call in used]
    ordered = sorted([*turns, *uses], key=lambda item: item[0])
    return [message for _, messages in ordered for message in messages]


def _as_calls(call: ToolCall) -> Iterator[dict[str, Any]]:
    called = {"name": call.name, "arguments": json.dumps(dict(call.arguments), ensure_ascii=False)}
    asked = {"id": f"call_{call.id.hex}", "type": "function", "function": called}
    yield {"role": "assistant", "tool_calls": [asked]}
    yield {"role": "tool", "tool_call_id": asked["id"], "content": _result(call)}


def _in_words(call: ToolCall) -> Iterator[dict[str, Any]]:
    arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
    told = f"Earlier in this call you used {call.name} with {arguments}. It gave: {_result(call)}"
    yield {"role": "developer", "content": told}


def _result(call: ToolCall) -> str:
    is_known = call.outcome not in (ToolOutcome.RUNNING, ToolOutcome.UNKNOWN)
    told = dict(call.result) if is_known and call.result is not None else _UNKNOWN
    return json.dumps(told, ensure_ascii=False)
