"""What is wrong with the tools of a join or an agent that their form does not show."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import replace

from flow.api.dependencies import Services
from flow.domain.calls.tools import CALL_CONTROLS, HttpTool, Remote, Tool
from flow.domain.webhooks import public_url
from flow.errors import FieldProblem, InvalidInput


async def require_usable_tools(
    services: Services,
    tools: Iterable[Tool],
    transport: str | None = None,
    *,
    are_stored: bool = False,
) -> None:
    """Raise `InvalidInput` for tools that do not lead out into the internet, whose parameters break
    the rules of JSON Schema, or that the transport, where it is known, cannot do.

    Args:
        are_stored: their parameters were judged when they were stored, and are not judged again.
    """
    problems = [
        replace(problem, field=f"bot.tools.{place}.{problem.field}")
        for place, tool in enumerate(tools)
        async for problem in _problems(services, tool, transport, are_stored=are_stored)
    ]
    if problems:
        raise InvalidInput("The request is not valid.", problems)


async def _problems(
    services: Services, tool: Tool, transport: str | None, *, are_stored: bool
) -> AsyncIterator[FieldProblem]:
    problem: str | None = None
    if isinstance(tool, Remote):
        problem = public_url.problem_of(tool.url, allow_private=services.allow_private_webhooks)
        if problem is not None:
            yield FieldProblem("url", problem, public_url.private_hint(tool.url))
    if isinstance(tool, HttpTool) and not are_stored:
        problem = await services.checker.schema_problem(tool.parameters)
        if problem is not None:
            yield FieldProblem("parameters", problem)
    if transport is not None and tool.type in (
        CALL_CONTROLS - services.transports.specs[transport].controls
    ):
        yield FieldProblem("type", f"calls over {transport} have no {tool.type}")
