"""Tools of MCP servers: which there are, what they answer, and what is never reached."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from mcp.server.mcpserver import MCPServer
from pydantic import BaseModel
from starlette.responses import Response
from structlog.testing import capture_logs

from flow.bot.tools import mcp_tools
from flow.bot.tools.mcp_tools import McpFunction, close_servers, open_servers
from flow.bot.tools.tool import ToolUse
from flow.domain.calls.tool_call import ToolOutcome
from flow.domain.calls.tools import McpTool
from flow.insights.schema_checker import Checker
from flow.sandbox.faults import Fault
from flow.sandbox.server import Served
from flow.sandbox.tools import Tool, ToolServer
from flow.vendors.public_http import PublicTransport


class Guest(BaseModel):
    name: str


PARAMETERS = {"type": "object", "properties": {"name": {"type": "string"}}}


def servers_tools(answer: Any = "found") -> dict[str, Tool]:
    return {
        "search": Tool(lambda arguments: [answer, arguments], "Searches.", PARAMETERS),
        "book": Tool(lambda _: answer, "Books.", PARAMETERS),
        "bad name!": Tool(lambda _: answer),
        "end_call": Tool(lambda _: answer),
        "strange": Tool(lambda _: answer, parameters={"type": "object", "anyOf": []}),
    }


@asynccontextmanager
async def opened(
    server: ToolServer, *, allow_private: bool = True, **given: Any
) -> AsyncIterator[dict[str, McpFunction]]:
    network = PublicTransport(allow_private=allow_private)
    async with Served(server) as url:
        described = McpTool.model_validate({"type": "mcp", "url": f"{url}/mcp", **given})
        servers, functions = await open_servers([described], network, Checker().problems)
        try:
            yield {function.name: function for function in functions}
        finally:
            await close_servers(servers)
    await network.aclose()


def use(**arguments: Any) -> ToolUse:
    return ToolUse(uuid4(), arguments)


async def test_a_servers_tools_are_those_that_models_take_and_are_closed_at_the_end() -> None:
    server = ToolServer(servers_tools())
    headers = {"x-tenant": "a", "authorization": "Bearer s3cret"}
    async with opened(server, headers=headers) as functions:
        assert sorted(functions) == ["book", "search"]
        assert functions["search"].parameters == PARAMETERS
        answer = await functions["search"].use(use(name="Ada"))
        assert len(server.sessions) == 1
    assert (answer.outcome, answer.told) == (
        ToolOutcome.OK,
        {"result": '["found", {"name": "Ada"}]'},
    )
    (seen,) = server.uses
    assert seen.headers["authorization"] == "Bearer s3cret"
    assert server.sessions == set()


@pytest.mark.parametrize(
    "broken",
    [
        {"additionalProperties": 5},
        {"properties": {"name": {"type": "text"}}},
        {"$defs": ["a"], "properties": {"name": {"$ref": "#/$defs/a"}}},
        {"$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}, "items": {"$ref": "#/$defs/a"}},
    ],
    ids=str,
)
async def test_a_tool_whose_schema_no_model_takes_is_left_out(broken: dict[str, Any]) -> None:
    tools = servers_tools() | {"broken": Tool(lambda _: "", parameters=PARAMETERS | broken)}
    async with opened(ToolServer(tools)) as functions:
        assert sorted(functions) == ["book", "search"]


async def test_of_a_server_that_lists_thousands_few_are_looked_at() -> None:
    tools = {f"no name {n}": Tool(lambda _: "") for n in range(2_000)} | servers_tools()
    with capture_logs() as told:
        async with opened(ToolServer(tools)) as functions:
            assert functions == {}
        async with opened(ToolServer(tools), allowed=["book"]) as functions:
            assert [*functions] == ["book"]
    assert 1 < len(told) <= mcp_tools.MAX_LISTED


async def test_only_what_is_allowed_is_there() -> None:
    async with opened(ToolServer(servers_tools()), allowed=["book"]) as functions:
        assert sorted(functions) == ["book"]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Response(status_code=500), "It went wrong"),
        ("x" * 100_000, "more than 65536 bytes"),
        ("x" * 2_000_000, "could not be called"),
    ],
)
async def test_an_answer_that_cannot_be_used_is_told_as_a_failure(answer: Any, why: str) -> None:
    async with opened(ToolServer(servers_tools(answer))) as functions:
        told = await asyncio.wait_for(functions["book"].use(use()), 10)
    assert told.outcome is ToolOutcome.FAILED
    assert why in told.told["message"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="hang"),
        Fault(kind="status", status=500),
        Fault(kind="status", status=307, headers={"location": "http://10.0.0.1/"}),
        Fault(kind="malformed"),
        Fault(kind="drop"),
        Fault(kind="stall", chunks=0),
    ],
    ids=lambda fault: fault.kind,
)
async def test_a_call_goes_on_without_a_server_that_does_not_answer(
    fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_tools, "LIST_SECS", 0.5)
    server = ToolServer(servers_tools())
    server.faults.add(fault)
    async with asyncio.timeout(10), opened(server) as functions:
        assert functions == {}


async def test_a_server_that_hangs_is_waited_for_no_longer_than_it_may_take_to_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mcp_tools, "LIST_SECS", 0.2)
    monkeypatch.setattr(mcp_tools, "CLOSE_SECS", 60.0)
    server = ToolServer(servers_tools())
    server.faults.add(Fault(kind="hang"))
    async with asyncio.timeout(10), opened(server) as functions:
        assert functions == {}


async def test_no_session_outlives_a_call_that_is_over_before_its_server_answers() -> None:
    server, network = ToolServer(servers_tools()), PublicTransport(allow_private=True)
    server.faults.add(Fault(kind="hang"))
    async with Served(server) as url:
        described = McpTool.model_validate({"type": "mcp", "url": f"{url}/mcp"})
        opening = asyncio.create_task(open_servers([described], network, Checker().problems))
        await asyncio.sleep(0.2)
        opening.cancel()
        await asyncio.wait({opening}, timeout=10)
        assert opening.cancelled()
        assert "mcp" not in {task.get_name() for task in asyncio.all_tasks()}
    await network.aclose()


async def test_a_private_server_is_not_reached() -> None:
    server = ToolServer(servers_tools())
    async with asyncio.timeout(10), opened(server, allow_private=False) as functions:
        assert functions == {}
    assert server.sessions == set()


async def test_it_works_with_the_sdks_own_server() -> None:
    """Whose models are nested, and whose answers are structured."""
    own = MCPServer("reservations")

    @own.tool()
    def find(guest: Guest) -> dict[str, str]:
        """Finds a booking."""
        return {"time": "18:00", "name": guest.name}

    app = own.streamable_http_app(json_response=True)
    async with app.router.lifespan_context(app), Served(app) as url:
        described = McpTool.model_validate({"type": "mcp", "url": f"{url}/mcp"})
        network = PublicTransport(allow_private=True)
        servers, functions = await open_servers([described], network, Checker().problems)
        (function,) = functions
        answer = await function.use(use(guest={"name": "Ada"}))
        await close_servers(servers)
    properties: Mapping[str, Any] = function.parameters["properties"]
    assert properties["guest"]["properties"]["name"]["type"] == "string"
    assert answer.told["result"] == {"time": "18:00", "name": "Ada"}
