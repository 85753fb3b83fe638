"""Call settings with their placeholders filled in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from flow.domain.agents.system_variables import SYSTEM_VARIABLES, CallFacts
from flow.domain.agents.variables import Filling
from flow.domain.calls.conversation_flow import (
    ConversationFlow,
    FlowAction,
    FlowFunction,
    FlowNode,
)
from flow.domain.calls.join_request import CallSettings, JoinRequest
from flow.domain.calls.tools import Remote, Tool, TransferCallTool

Settings = TypeVar("Settings", bound=CallSettings)

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
    update: dict[str, object] = {
        "task_messages": tuple(
            message.model_copy(
                update={
                    "content": filling.node_text(
                        f"{field}.task_messages.{at}.content", message.content
                    )
                }
            )
            for at, message in enumerate(node.task_messages)
        ),
        "functions": _functions(node.functions, filling, f"{field}.functions"),
        "pre_actions": _actions(node.pre_actions, filling, f"{field}.pre_actions"),
        "post_actions": _actions(node.post_actions, filling, f"{field}.post_actions"),
    }
    if node.role_message is not None:
        update["role_message"] = filling.node_text(f"{field}.role_message", node.role_message)
    return node.model_copy(update=update)


def _actions(actions: Sequence[FlowAction], filling: Filling, field: str) -> tuple[FlowAction, ...]:
    return tuple(
        action
        if action.text is None
        else action.model_copy(
            update={"text": filling.node_text(f"{field}.{at}.text", action.text)}
        )
        for at, action in enumerate(actions)
    )


def _functions(
    functions: Sequence[FlowFunction], filling: Filling, field: str
) -> tuple[FlowFunction, ...]:
    return tuple(
        function
        if function.description is None
        else function.model_copy(
            update={"description": filling.text(f"{field}.{at}.description", function.description)}
        )
        for at, function in enumerate(functions)
    )


def _tool(tool: Tool, filling: Filling, field: str) -> Tool:
    if isinstance(tool, Remote | TransferCallTool):
        return tool.filled(filling, field)
    return tool
