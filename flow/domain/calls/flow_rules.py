"""What is wrong with a bot's flow that its form does not show: in names, ways, placeholders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flow.domain.agents.templates import AnswerPlaceholder, TemplateError, parse_node_text
from flow.domain.calls.conversation_flow import ConversationFlow, FlowAction, FlowFunction, FlowNode
from flow.domain.calls.tools import CALL_ENDINGS, McpTool, is_tool_name, name_of
from flow.errors import FieldProblem

Problems = Iterator[tuple[str, str]]


def flow_problems(flow: ConversationFlow, tools: Sequence[Any]) -> Iterator[FieldProblem]:
    """Everything that keeps a flow from being run with these tools (``bot.tools``)."""
    known = _Tools(tools)
    problems: list[Problems] = [
        _initial_problems(flow),
        _name_problems(flow),
        _function_problems(flow, known),
        _target_problems(flow),
        _way_problems(flow),
        _placeholder_problems(flow),
    ]
    for found in problems:
        for field, message in found:
            yield FieldProblem(f"bot.flow.{field}", message)


class _Tools:
    """The tools of a bot by name. Those of an MCP server are known to the server, unless they
    are listed as ``allowed``."""

    def __init__(self, tools: Sequence[Any]) -> None:
        servers = [tool for tool in tools if isinstance(tool, McpTool)]
        allowed = [name for server in servers for name in server.allowed or ()]
        self.names = [*filter(None, map(name_of, tools)), *allowed]
        self.are_all = all(server.allowed is not None for server in servers)

    def may_have(self, name: str) -> bool:
        return name in self.names or (not self.are_all and is_tool_name(name))


def _initial_problems(flow: ConversationFlow) -> Problems:
    if flow.initial_node not in flow.nodes:
        yield "initial_node", _no_node(flow, flow.initial_node)
        return
    if not flow.nodes[flow.initial_node].task_messages:
        yield f"nodes.{flow.initial_node}.task_messages", "must say what the conversation is about"
    for name, node in flow.nodes.items():
        if node.context_strategy == "reset" and not node.task_messages:
            yield f"nodes.{name}.task_messages", "must not be empty where the context is reset"


def _name_problems(flow: ConversationFlow) -> Problems:
    """A model knows a function by its name alone."""
    everywhere = {function.name for function in flow.global_functions}
    yield from _repeated("global_functions", flow.global_functions, set())
    for name, node in flow.nodes.items():
        yield from _repeated(f"nodes.{name}.functions", node.functions, everywhere)


def _repeated(field: str, functions: Sequence[FlowFunction], taken: set[str]) -> Problems:
    seen = {*taken}
    for at, function in enumerate(functions):
        if function.name in seen:
            where = "global_functions" if function.name in taken else "this node"
            yield f"{field}.{at}.name", f"{function.name!r} is in {where} already"
        seen.add(function.name)


def _function_problems(flow: ConversationFlow, known: _Tools) -> Problems:
    for field, function in flow.functions():
        name = function.name
        if function.transition_only:
            if name in known.names or not is_tool_name(name):
                yield f"{field}.name", f"{name!r} is the name of a tool: choose another"
        elif not known.may_have(name):
            there_are = ", ".join(known.names) or "none"
            yield (
                f"{field}.name",
                f"there is no tool {name!r} in bot.tools (there: {there_are}): define it, or set"
                " transition_only",
            )
        elif name in CALL_ENDINGS and function.transition_to is not None:
            yield f"{field}.transition_to", f"{name} ends the bot's part in the call: leave it out"


def _target_problems(flow: ConversationFlow) -> Problems:
    for field, function in flow.functions():
        for part, target in function.targets():
            if target not in flow.nodes:
                yield f"{field}.{part}", _no_node(flow, target)


def _way_problems(flow: ConversationFlow) -> Problems:
    """Every node is to be reached from the first; not judged before all ways lead somewhere."""
    targets = {target for _, function in flow.functions() for _, target in function.targets()}
    if not {flow.initial_node, *targets} <= flow.nodes.keys():
        return
    reached, waiting = set[str](), [flow.initial_node]
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            for function in (*flow.global_functions, *flow.nodes[node].functions):
                waiting += [target for _, target in function.targets()]
    for name in flow.nodes:
        if name not in reached:
            yield (
                f"nodes.{name}",
                f"is not reached from {flow.initial_node!r}: no function leads to it",
            )


def _placeholder_problems(flow: ConversationFlow) -> Problems:
    """``{{tool.field}}`` is of a tool that the flow uses."""
    used = {function.name for _, function in flow.functions() if not function.transition_only}
    for name, node in flow.nodes.items():
        for field, text in _texts(node):
            try:
                pieces = parse_node_text(text)
            except TemplateError:
                continue  # told with the other placeholders
            for piece in pieces:
                if isinstance(piece, AnswerPlaceholder) and piece.tool not in used:
                    there_are = ", ".join(sorted(used)) or "none"
                    said = f"{piece}: no function of the flow is the tool {piece.tool!r}"
                    yield f"nodes.{name}.{field}", f"{said} (there: {there_are})"


def _texts(node: FlowNode) -> Problems:
    if node.role_message is not None:
        yield "role_message", node.role_message
    for at, message in enumerate(node.task_messages):
        yield f"task_messages.{at}.content", message.content
    actions: Mapping[str, Sequence[FlowAction]] = {
        "pre_actions": node.pre_actions,
        "post_actions": node.post_actions,
    }
    for field, some in actions.items():
        for at, action in enumerate(some):
            if action.text is not None:
                yield f"{field}.{at}.text", action.text


def _no_node(flow: ConversationFlow, name: str) -> str:
    return f"there is no node {name!r}; there are {', '.join(flow.nodes)}"
