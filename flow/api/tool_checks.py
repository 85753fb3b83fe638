"""What is wrong with the tools of a join that their form does not show."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from flow.api.dependencies import Services
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.tools import CALL_CONTROLS, HttpTool, Remote
from flow.domain.webhooks import public_url
from flow.errors import FieldProblem, InvalidInput


async def require_usable_tools(services: Services, join: JoinRequest) -> None:
    """Raise `InvalidInput` for tools that do not lead out into the internet, whose parameters break
    the rules of JSON Schema, or that the transport of the join cannot do."""
    problems = [
        FieldProblem(f"bot.tools.{place}.{field}", problem)
        for place, tool in enumerate(join.bot.tools)
        async for field, problem in _problems(services, join, tool)
    ]
    if problems:
        raise InvalidInput("The request is not valid.", problems)


async def _problems(
    services: Services, join: JoinRequest, tool: Any
) -> AsyncIterator[tuple[str, str]]:
    problem: str | None = None
    if isinstance(tool, Remote):
        problem = public_url.problem_of(tool.url, allow_private=services.allow_private_webhooks)
    if problem is not None:
        yield "url", problem
    if isinstance(tool, HttpTool):
        problem = await services.checker.schema_problem(tool.parameters)
        if problem is not None:
            yield "parameters", problem
    transport = join.transport.type
    controls = services.transports.specs[transport].controls
    if tool.type in CALL_CONTROLS - controls:
        yield "type", f"calls over {transport} have no {tool.type}"
