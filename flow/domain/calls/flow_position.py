"""Where a call is in its bot's flow, by what is on record of it, for any process to go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flow.domain.calls.conversation_flow import ConversationFlow, FlowBranch, case_key
from flow.domain.calls.tool_call import ToolCall, ToolOutcome


@dataclass(frozen=True, slots=True)
class FlowPosition:
    """Where a call is.

    ``role_message`` is the last that a node had. ``since`` is when the last node was entered that
    has the model forget what was before. ``entered_by`` is what led to the node; ``None``: the call
    began there.
    """

    node: str
    role_message: str | None = None
    since: datetime | None = None
    entered_by: ToolCall | None = None


def position_in(flow: ConversationFlow, used: Sequence[ToolCall]) -> FlowPosition:
    """Where a call is after these uses of tools and transitions, in whatever order they come."""
    position = FlowPosition(flow.initial_node, flow.nodes[flow.initial_node].role_message)
    moves = [call for call in used if call.transition_to in flow.nodes and call.ended_at]
    for call in sorted(moves, key=lambda call: (call.ended_at or call.started_at, call.id)):
        assert call.transition_to is not None, "it is no move"
        node = flow.nodes[call.transition_to]
        position = FlowPosition(
            call.transition_to,
            node.role_message or position.role_message,
            call.ended_at if node.context_strategy == "reset" else position.since,
            call,
        )
    return position


def answers_of(used: Sequence[ToolCall]) -> dict[str, Any]:
    """What each tool has answered last, by its name."""
    worked = [call for call in used if call.outcome is ToolOutcome.OK and call.result is not None]
    return {
        call.name: call.result["result"]
        for call in sorted(worked, key=lambda call: call.ended_at or call.started_at)
        if call.result is not None and "result" in call.result
    }


def destination(transition_to: str | FlowBranch | None, told: Mapping[str, Any]) -> str | None:
    """The node that a tool's answer leads to, by its function's ``transition_to``; ``None``: none.

    ``told`` is what the model is told: ``{"result": ...}``, or ``{"error": outcome, ...}`` of a use
    that failed.
    """
    has_failed = "result" not in told
    if transition_to is None or isinstance(transition_to, str):
        return None if has_failed else transition_to
    answer = told if has_failed else told["result"]
    if has_failed and transition_to.field != "error":
        return None
    default = None if has_failed else transition_to.default
    if not isinstance(answer, Mapping) or transition_to.field not in answer:
        return default
    return transition_to.cases.get(case_key(answer[transition_to.field]), default)
