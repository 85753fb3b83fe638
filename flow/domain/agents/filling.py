"""Call settings with their placeholders filled in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from flow.domain.agents.system_variables import SYSTEM_VARIABLES, CallFacts
from flow.domain.agents.variables import Filling
from flow.domain.calls.conversation_flow import (
    ConversationFlow,
    FlowFunction,
    FlowNode,
)
from flow.domain.calls.join_request import CallSettings, JoinRequest
from flow.domain.calls.request_parts import Part
from flow.domain.calls.tools import Remote, Tool, TransferCallTool

Settings = TypeVar("Settings", bound=CallSettings)
P = TypeVar("P", bound=Part)

_ASSUMED = "x"


def filled_in(join: JoinRequest, facts: CallFacts) -> JoinRequest:
    """The join with its variables, and those that Flow gives, in every text that may hold them.

    Raises:
        InvalidInput: a variable is missing or does not fit where it stands; names each, with its
            field.
    """
    filling = Filling(
        join.variables | facts.variables(join.bot.timezone), reserved=SYSTEM_VARIABLES
    )
    filled = _filled(join, filling)
    filling.check()
    return filled


def check_templates(settings: CallSettings) -> None:
    """Raise `InvalidInput` for placeholders that no variables could fill."""
    filling = Filling({}, reserved=SYSTEM_VARIABLES, assumed=_ASSUMED)
    _filled(settings, filling)
    filling.check()


def check_without_variables(settings: CallSettings, facts: CallFacts) -> None:
    """Raise `InvalidInput` for what a call cannot have whose join gives no variables."""
    filling = Filling(facts.variables(settings.bot.timezone), reserved=SYSTEM_VARIABLES)
    _filled(settings, filling)
    filling.check()


def _filled(settings: Settings, filling: Filling) -> Settings:
    bot: dict[str, Any] = {
        name: filling.text(f"bot.{name}", text)
        for name in ("system_prompt", "greeting")
        if (text := getattr(settings.bot, name)) is not None
    }
    tools = [_tool(tool, filling, f"bot.tools.{at}") for at, tool in enumerate(settings.bot.tools)]
    if tools:
        bot["tools"] = tuple(tools)
    if settings.bot.flow is not None:
        bot["flow"] = _flow(settings.bot.flow, filling)
    update: dict[str, object] = {"bot": settings.bot.model_copy(update=bot)}
    if (text := settings.insights.instructions) is not None:
        instructions = filling.text("insights.instructions", text)
        update["insights"] = settings.insights.model_copy(update={"instructions": instructions})
    return settings.model_copy(update=update)


def _flow(flow: ConversationFlow, filling: Filling) -> ConversationFlow:
    nodes = {
        name: _node(node, filling, f"bot.flow.nodes.{name}") for name, node in flow.nodes.items()
    }
    functions = _functions(flow.global_functions, filling, "bot.flow.global_functions")
    return flow.model_copy(update={"nodes": nodes, "global_functions": functions})


def _node(node: FlowNode, filling: Filling, field: str) -> FlowNode:
    texts = filling.node_text
    update: dict[str, object] = {
        "task_messages": _each(node.task_messages, "content", texts, f"{field}.task_messages"),
        "functions": _functions(node.functions, filling, f"{field}.functions"),
        "pre_actions": _each(node.pre_actions, "text", texts, f"{field}.pre_actions"),
        "post_actions": _each(node.post_actions, "text", texts, f"{field}.post_actions"),
    }
    if node.role_message is not None:
        update["role_message"] = texts(f"{field}.role_message", node.role_message)
    return node.model_copy(update=update)


def _functions(
    functions: Sequence[FlowFunction], filling: Filling, field: str
) -> tuple[FlowFunction, ...]:
    return _each(functions, "description", filling.text, field)


def _each(
    parts: Sequence[P], name: str, filled: Callable[[str, str], str], field: str
) -> tuple[P, ...]:
    """The parts, each with this text of it filled in, where it has one."""
    return tuple(
        part.model_copy(update={name: filled(f"{field}.{at}.{name}", text)})
        if (text := getattr(part, name)) is not None
        else part
        for at, part in enumerate(parts)
    )


def _tool(tool: Tool, filling: Filling, field: str) -> Tool:
    if isinstance(tool, Remote | TransferCallTool):
        return tool.filled(filling, field)
    return tool
