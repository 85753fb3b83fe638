"""The tools of MCP servers, over streamable HTTP.

It is the MCP SDK's client that Pipecat's ``services/mcp_service.py`` is built on. Pipecat's own
wrapper takes no HTTP client, so it could be led to private addresses, logs what tools answer, and
does not tell a tool's error from its answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from importlib import import_module
from itertools import compress
from typing import TYPE_CHECKING, Any

import httpx2
import structlog

from flow.bot.tools.call_tools import CheckArguments
from flow.bot.tools.tool import ToolAnswer, ToolUse, answered, failed
from flow.domain.calls.tools import MAX_TOOLS, McpTool, is_tool_name, parameters_problem
from flow.errors import FlowError
from flow.vendors.bounded_answers import BoundedAnswers
from flow.vendors.tool_client import AGENT, MAX_ANSWER_BYTES

if TYPE_CHECKING:
    from mcp.client.session import ClientSession

log = structlog.get_logger(__name__)

LIST_SECS = 3.0
"""Within which a server must have said what tools it has: the call waits for that."""
CLOSE_SECS = 2.0
MAX_DESCRIPTION = 1_024
MAX_PAGES = 4
MAX_LISTED = 100
"""Of a page's tools, as many as are looked at: no bot has a third of them."""
MAX_PARTS = 2_000
"""Of a tool's schema, written out."""


class McpFailed(Exception):
    """A server did not say what tools it has."""


class McpFunction:
    """One tool of a server."""

    def __init__(self, server: McpServer, name: str, description: str, parameters: Any) -> None:
        self._server = server
        self.name = name
        self.description = description[:MAX_DESCRIPTION] or name
        self.parameters: Mapping[str, Any] = parameters
        self.timeout_secs = server.described.timeout_secs
        self.say_while_waiting = server.described.say_while_waiting

    async def use(self, use: ToolUse) -> ToolAnswer:
        """Call it once: whether a repeat would double an effect is not known."""
        return await self._server.call(self.name, use.arguments)


class McpServer:
    """The session with one server, as long as a call takes.

    The SDK's session must be opened and closed by the same task: `run` is that task.

    Args:
        described: the server as the join has it, with its variables filled in.
        network: reaches public addresses only (`flow.vendors.public_http.PublicTransport`).
        check: finds what is wrong with arguments, and whether a schema can be used at all.
    """

    def __init__(
        self, described: McpTool, network: httpx2.AsyncBaseTransport, check: CheckArguments
    ) -> None:
        self.described = described
        self._check = check
        self._network = BoundedAnswers(network)
        self._is_over = asyncio.Event()
        self._session: ClientSession | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> list[McpFunction]:
        """Connect, and read what tools there are; those that cannot be used are left out.

        Raises:
            McpFailed: that did not work in time.
        """
        listed: asyncio.Future[list[McpFunction]] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(listed), name="mcp")
        try:
            async with asyncio.timeout(LIST_SECS):
                return await listed
        except TimeoutError:
            await self.close()
            raise McpFailed("it did not answer in time") from None

    async def close(self) -> None:
        """End the session, within bounds."""
        self._is_over.set()
        if self._task is not None:
            if self._session is None:  # it does not wait for that yet
                self._task.cancel()
            await asyncio.wait({self._task}, timeout=CLOSE_SECS)
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=CLOSE_SECS)

    async def call(self, name: str, arguments: Mapping[str, Any]) -> ToolAnswer:
        """Call a tool of the server."""
        from mcp import types

        if self._session is None:
            return failed("the connection to the tool is lost")
        # Not `call_tool`, which checks an answer by the server's own schema in this process, for
        # as long as that takes.
        params = types.CallToolRequestParams(name=name, arguments=dict(arguments))
        request = types.CallToolRequest(params=params)
        try:
            result = await self._session.send_request(request, types.CallToolResult)
        except Exception as error:
            log.info("mcp_call_failed", tool=name, error_type=type(error).__name__)
            return failed("the tool could not be called")
        return _answer(result)

    async def _run(self, listed: asyncio.Future[list[McpFunction]]) -> None:
        try:
            async with AsyncExitStack() as stack:
                session = await self._connected(stack)
                functions = await self._functions(session)
                self._session = session
                if not listed.done():
                    listed.set_result(functions)
                await self._is_over.wait()
        except Exception as error:
            if not listed.done():
                listed.set_exception(McpFailed(_reason(error)))
            elif not self._is_over.is_set():
                host = httpx2.URL(self.described.url).host
                log.warning("mcp_session_lost", host=host, error_type=_reason(error))
        finally:
            self._session = None
            listed.cancel()

    async def _connected(self, stack: AsyncExitStack) -> ClientSession:
        from mcp.client.session import ClientSession
        from mcp.client.streamable_http import streamable_http_client

        client = await stack.enter_async_context(
            httpx2.AsyncClient(
                transport=self._network,
                headers={**self.described.plain_headers, "user-agent": AGENT},
                timeout=httpx2.Timeout(self.described.timeout_secs, read=None),
                follow_redirects=False,
                trust_env=False,
            )
        )
        streams = await stack.enter_async_context(
            streamable_http_client(self.described.url, http_client=client)
        )
        session = await stack.enter_async_context(ClientSession(*streams))
        await session.initialize()
        return session

    async def _functions(self, session: ClientSession) -> list[McpFunction]:
        from mcp import types

        found: list[McpFunction] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            page = await session.list_tools(params=types.PaginatedRequestParams(cursor=cursor))
            # A server may list thousands: no more are looked at than are told of in the log.
            for tool in self._allowed(page.tools)[:MAX_LISTED]:
                if (function := self._function(tool)) is not None:
                    found.append(function)
                if len(found) == MAX_TOOLS:
                    break
            if (cursor := page.next_cursor) is None or len(found) == MAX_TOOLS:
                break
        usable = await asyncio.gather(*map(self._has_usable_schema, found))
        return [*compress(found, usable)]

    def _allowed(self, tools: Sequence[Any]) -> Sequence[Any]:
        allowed = self.described.allowed
        return tools if allowed is None else [tool for tool in tools if tool.name in allowed]

    def _function(self, tool: Any) -> McpFunction | None:
        problem = None if is_tool_name(tool.name) else "has a name that models do not take"
        schema: dict[str, Any] = {"type": "object", "properties": {}}
        try:
            schema |= _written_out(tool.input_schema)
        except (ValueError, TypeError) as error:
            problem = problem or str(error)
        if problem := problem or parameters_problem(schema):
            log.warning("mcp_tool_left_out", tool=tool.name[:64], problem=problem)
            return None
        return McpFunction(self, tool.name, tool.description or "", schema)

    async def _has_usable_schema(self, function: McpFunction) -> bool:
        """Whether its parameters keep the rules of JSON Schema.

        With one schema that does not, vendors refuse every request of the call.
        """
        try:
            await self._check({}, function.parameters)
        except FlowError as error:
            problem = f"has a schema that cannot be used: {type(error).__name__}"
            log.warning("mcp_tool_left_out", tool=function.name, problem=problem)
            return False
        return True


async def open_servers(
    described: Sequence[McpTool], network: httpx2.AsyncBaseTransport, check: CheckArguments
) -> tuple[list[McpServer], list[McpFunction]]:
    """The sessions with these servers, and the tools of those that answer in time."""
    if described:
        # Seconds of work for its first call in a process, which no other call is to wait for.
        await asyncio.to_thread(import_module, "mcp.client.streamable_http")
    servers = [McpServer(one, network, check) for one in described]
    try:
        opened = await asyncio.gather(*(one.open() for one in servers), return_exceptions=True)
    except asyncio.CancelledError:  # the call is over already
        await close_servers(servers)
        raise
    functions: list[McpFunction] = []
    for server, found in zip(servers, opened, strict=True):
        if isinstance(found, BaseException):
            host = httpx2.URL(server.described.url).host
            log.warning("mcp_server_left_out", host=host, problem=str(found)[:200])
        else:
            functions += found
    return servers, functions


async def close_servers(servers: Sequence[McpServer]) -> None:
    """End the sessions."""
    await asyncio.gather(*(server.close() for server in servers))


def _answer(result: Any) -> ToolAnswer:
    """What a model is told of an answer: its structured content, or its texts."""
    texts = [part.text for part in result.content if part.type == "text"]
    told = result.structured_content
    if told is None:
        told = "\n".join(texts)
    if len(json.dumps(told, ensure_ascii=False).encode(errors="replace")) > MAX_ANSWER_BYTES:
        return failed(f"the tool's answer has more than {MAX_ANSWER_BYTES} bytes")
    if result.is_error:
        return failed(f"the tool said: {' '.join(texts)[:1_000]}")
    return answered(told)


def _written_out(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema with its definitions where they are referred to, as SDKs make them of nested models.

    Raises:
        ValueError: it refers to itself, to something else, or is too long so.
    """
    definitions, left = schema.get("$defs", {}), MAX_PARTS

    def written(value: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError("refers to itself, or is too long")
        if isinstance(value, list):
            return [written(item) for item in value]
        if not isinstance(value, dict):
            return value
        if (reference := value.get("$ref")) is None:
            return {name: written(item) for name, item in value.items()}
        name = str(reference).removeprefix("#/$defs/")
        if name not in definitions:
            raise ValueError("has a reference that leads elsewhere")
        return written(definitions[name])

    try:
        return {name: written(part) for name, part in schema.items() if name != "$defs"}
    except RecursionError:
        raise ValueError("refers to itself") from None


def _reason(error: BaseException) -> str:
    """The one error that groups of one hold, by its class: its message may hold anything."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return type(error).__name__
