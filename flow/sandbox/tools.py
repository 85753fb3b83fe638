"""A customer's tool server: tools over HTTP at ``/tools/NAME``, and the same over MCP at ``/mcp``.

It does what it is asked once for each id (``Idempotency-Key``), as a server of sense would, and
keeps every request that came. A tool over HTTP is done only where the signature is right by one of
the secrets that the server was given; without any it takes all.

Its faults are those of every stand-in (`flow.sandbox.faults`): slow (``delay``), wrong (``status``,
``malformed``), redirecting (``status`` 302 with a ``location``), half-closed (``cut``, ``stall``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from standardwebhooks import Webhook, WebhookVerificationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flow.sandbox.stand_in import StandIn

# modelcontextprotocol.io/specification/2025-06-18
_PROTOCOL = "2025-06-18"
_INVALID_PARAMS, _METHOD_NOT_FOUND = -32602, -32601
_IN_QUERY = ("GET", "DELETE")

Answer = Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class Tool:
    """What a tool answers to its arguments: JSON, or a whole response."""

    answer: Answer
    description: str = "A tool."
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object"})


@dataclass(frozen=True, slots=True)
class Use:
    """A request that came and was genuine; ``told`` is all of its body, or of its query."""

    tool: str
    id: str
    arguments: Mapping[str, Any]
    told: Mapping[str, Any]
    headers: Mapping[str, str]


class ToolServer(StandIn):
    """The app. ``uses`` are the requests that came, ``effects`` what was done, by id.

    ``sessions`` counts the MCP sessions that are open.
    """

    def __init__(self, tools: Mapping[str, Tool], *secrets: str) -> None:
        self.tools = dict(tools)
        self.secrets = secrets
        self.uses: list[Use] = []
        self.effects: dict[str, str] = {}
        self.sessions: set[str] = set()
        super().__init__(
            [
                Route(
                    "/tools/{name}", self._use, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]
                ),
                Route("/mcp", self._mcp, methods=["POST", "GET", "DELETE"]),
            ],
            _problem,
        )

    async def _use(self, request: Request) -> Response:
        payload = (await request.body()).decode()
        if request.method in _IN_QUERY:
            payload = request.url.query
        if not self._is_genuine(payload, request):
            return _problem(401, "The signature is not right.", "")
        told: Mapping[str, Any] = (
            dict(request.query_params) if request.method in _IN_QUERY else json.loads(payload)
        )
        arguments = told if request.method in _IN_QUERY else told["arguments"]
        name = request.path_params["name"]
        key = request.headers.get("idempotency-key", "")
        answer = self._done(Use(name, key, arguments, told, dict(request.headers)))
        return answer if isinstance(answer, Response) else JSONResponse(answer)

    def _done(self, use: Use) -> Any:
        self.uses.append(use)
        self.effects.setdefault(use.id, use.tool)
        return self.tools[use.tool].answer(use.arguments)

    def _is_genuine(self, payload: str, request: Request) -> bool:
        for secret in self.secrets:
            try:
                # It parses what it has verified, which a query is not.
                Webhook(secret).verify(payload, dict(request.headers))
            except WebhookVerificationError:
                continue
            except ValueError:
                pass
            return True
        return not self.secrets

    async def _mcp(self, request: Request) -> Response:
        session = request.headers.get("mcp-session-id", "")
        if request.method == "DELETE":
            self.sessions.discard(session)
            return Response(status_code=204)
        if request.method == "GET":
            return Response(status_code=405)
        asked = await request.json()
        if "id" not in asked:
            return Response(status_code=202)
        answer = {"jsonrpc": "2.0", "id": asked["id"], **self._rpc(asked, request)}
        headers = {}
        if asked["method"] == "initialize":
            headers["mcp-session-id"] = uuid4().hex
            self.sessions.add(headers["mcp-session-id"])
        return JSONResponse(answer, headers=headers)

    def _rpc(self, asked: Mapping[str, Any], request: Request) -> dict[str, Any]:
        params = asked.get("params") or {}
        match asked["method"]:
            case "initialize":
                info = {"name": "sandbox", "version": "1"}
                about = {"protocolVersion": _PROTOCOL, "serverInfo": info}
                return {"result": {**about, "capabilities": {"tools": {}}}}
            case "tools/list":
                return {"result": {"tools": [_listed(*tool) for tool in self.tools.items()]}}
            case "tools/call" if params.get("name") in self.tools:
                arguments = params.get("arguments") or {}
                use = Use(params["name"], uuid4().hex, arguments, params, dict(request.headers))
                return {"result": _called(self._done(use))}
            case "tools/call":
                said = f"Unknown tool: {params.get('name')}"
                return {"error": {"code": _INVALID_PARAMS, "message": said}}
        return {"error": {"code": _METHOD_NOT_FOUND, "message": "Method not found"}}


def _listed(name: str, tool: Tool) -> dict[str, Any]:
    return {
        "name": name,
        "description": tool.description,
        "inputSchema": dict(tool.parameters),
    }


def _called(answer: Any) -> dict[str, Any]:
    if isinstance(answer, Response):
        return {"content": [{"type": "text", "text": "It went wrong."}], "isError": True}
    text = {"type": "text", "text": json.dumps(answer, ensure_ascii=False)}
    return {"content": [text], "isError": False}


def _problem(status: int, detail: str, _request_id: str) -> Response:
    return JSONResponse({"error": detail}, status)
