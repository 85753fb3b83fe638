"""Every error as an HTTP answer: problem details (RFC 9457) with a stable ``code``.

This is the one place that knows which error is which status. `Problems` catches whatever is
raised further in, on requests and on WebSocket handshakes alike; what was not raised on purpose
is logged and answered without its details.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flow.api.error_codes import REFUSED
from flow.api.exact_json import ExactJSONResponse
from flow.api.problem_details import FieldError, Problem
from flow.api.protocol_errors import protocol_error
from flow.api.request_bodies import invalid
from flow.api.request_context import context_of, log_of
from flow.domain.limits.permissions import TEAM_LIMITS
from flow.errors import (
    Conflict,
    DatabaseUnavailable,
    FieldProblem,
    FlowError,
    InvalidInput,
    NotFound,
    Refused,
    Unavailable,
    UpstreamTimeout,
    UpstreamUnavailable,
    VersionMismatch,
)

BILLED = ("budget_exceeded", "quota_exceeded")
"""What is raised by whoever pays."""

_MAX_TEXT = 300

KEYED = (400, 401, 403, 429, 503)
"""What any request that needs a key may be answered."""

_DEFAULT_RETRY_SECS: Mapping[int, int] = {429: 60, 503: 5}
_HTTP_CODES: Mapping[int, str] = {404: "not_found", 405: "method_not_allowed"}


class Problems:
    """Answers every error raised further in, and logs those nobody foresaw.

    Args:
        billing_url: where customers can raise their budgets and quotas.
    """

    def __init__(self, app: ASGIApp, *, billing_url: str | None = None) -> None:
        self._app = app
        self._billing_url = billing_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; an error after its answer began can only cut the connection."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        context = context_of(scope)

        async def routed(message: Message) -> None:
            if message["type"] == "websocket.close" and not context.status:
                # No route takes the path: for a server that would be a 403.
                raise NotFound("There is nothing at this path.")
            await send(message)

        try:
            await self._app(scope, receive, send if scope["type"] == "http" else routed)
        except ClientDisconnect:
            log_of(scope).debug("caller_left")
        except Exception as error:
            if self._billing_url is not None:
                error = _with_billing(error, self._billing_url)
            if not isinstance(error, FlowError) or _status(error) == 500:
                log_of(scope).exception("request_failed", path=scope["path"])
            if not context.status:
                await _answer(scope, error, receive, send)
            elif scope["type"] == "websocket":
                await _hang_up(scope, send)
            else:
                raise


def problem_response(scope: Scope, error: Exception) -> Response:
    """The answer to ``error`` on the request of ``scope``; its hint is logged, not answered."""
    status = _status(error)
    if isinstance(error, FlowError) and error.hint:
        log_of(scope).warning("operator_hint", code=error.code, hint=error.hint)
    retry_after = _retry_after(error, status)
    code = error.code if isinstance(error, FlowError) and status != 500 else "internal_error"
    context_of(scope).problem = code
    problem = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=str(error) if isinstance(error, FlowError) and status != 500 else _detail(status),
        code=code,
        request_id=context_of(scope).request_id,
        retry_after=retry_after,
        errors=_errors(error),
        limit=_limit(scope, error),
    )
    return _render(scope, problem, _headers(status, retry_after))


async def on_invalid(request: Request, error: Exception) -> Response:
    """The answer to a request whose query or headers FastAPI found wrong."""
    assert isinstance(error, RequestValidationError)
    found = [{**each, "loc": each["loc"][1:]} for each in error.errors()]
    return problem_response(request.scope, invalid(found))


async def on_http_error(request: Request, error: Exception) -> Response:
    """The answer when no route takes the path or the method."""
    assert isinstance(error, HTTPException)
    problem = Problem(
        title=HTTPStatus(error.status_code).phrase,
        status=error.status_code,
        detail=_detail(error.status_code),
        code=_HTTP_CODES.get(error.status_code, "http_error"),
        request_id=context_of(request.scope).request_id,
    )
    headers = {"allow": _allowed(request)} if error.status_code == 405 else error.headers
    return _render(request.scope, problem, headers or {})


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of an endpoint beside `KEYED`, for its OpenAPI description."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in sorted({*KEYED, *statuses})
    }


def _with_billing(error: Exception, url: str) -> Exception:
    """The error, saying where its limit can be raised if it is of one that can be."""
    if not isinstance(error, Refused) or error.code not in BILLED:
        return error
    said = f"{error} See {url}"
    secs, limit = error.retry_after_secs, error.limit
    return Refused(error.code, said, secs, limit, hint=error.hint)


async def _answer(scope: Scope, error: Exception, receive: Receive, send: Send) -> None:
    # Whoever would ask the database for one more thing need not find out again.
    context_of(scope).is_database_away = isinstance(error, DatabaseUnavailable)
    response = problem_response(scope, error)
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get(
        "extensions", {}
    ):
        # The server answers 403, and can say no more.
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
        return
    await response(scope, receive, send)


async def _hang_up(scope: Scope, send: Send) -> None:
    try:
        await send({"type": "websocket.close", "code": 1011, "reason": "internal_error"})
    except Exception:
        log_of(scope).debug("websocket_was_closed_before")


def _allowed(request: Request) -> str:
    """The methods of every route of the path; Starlette names those of one only."""
    routes: Sequence[Route] = request.app.state.routes
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    found = [route.methods or () for route in routes if route.path_regex.match(path)]
    return ", ".join(sorted({method for methods in found for method in methods}))


def _status(error: Exception) -> int:
    if isinstance(error, Refused):
        known = REFUSED.get(error.code)
        return 403 if known is None else known.status
    if isinstance(error, InvalidInput):
        return 422
    if isinstance(error, NotFound):
        return 404
    if isinstance(error, Conflict):
        return 412 if isinstance(error, VersionMismatch) else 409
    if isinstance(error, UpstreamUnavailable):
        return 504 if isinstance(error, UpstreamTimeout) else 502
    if isinstance(error, Unavailable):
        return 503
    return 500


def _retry_after(error: Exception, status: int) -> int | None:
    secs = getattr(error, "retry_after_secs", None)
    return secs if secs is not None else _DEFAULT_RETRY_SECS.get(status)


def _headers(status: int, retry_after: int | None) -> dict[str, str]:
    headers = {}
    if retry_after is not None:
        headers["retry-after"] = str(retry_after)
    if status == 401:
        headers["www-authenticate"] = 'Bearer realm="flow"'
    if status in {408, 413, 431}:
        headers["connection"] = "close"
    return headers


def _render(scope: Scope, problem: Problem, headers: Mapping[str, str]) -> Response:
    protocol = context_of(scope).protocol
    if protocol is not None:
        return protocol_error(protocol, problem, headers)
    return ExactJSONResponse(
        problem.model_dump(exclude_none=True),
        status_code=problem.status,
        headers=headers,
        media_type="application/problem+json",
    )


def _detail(status: int) -> str:
    if status == 500:
        return "Something went wrong in Flow; it was logged under this request id."
    return HTTPStatus(status).description or HTTPStatus(status).phrase


def _limit(scope: Scope, error: Exception) -> dict[str, Any] | None:
    """The limit that was reached; of a team's, what others of the team used is not told."""
    limit = error.limit if isinstance(error, Refused) else None
    if not limit:
        return None
    may_see = limit.get("scope") == "key" or TEAM_LIMITS in context_of(scope).permissions
    return dict(limit) if may_see else {**limit, "used": None, "reserved": None}


def _errors(error: Exception) -> list[FieldError] | None:
    if not isinstance(error, InvalidInput):
        return None
    return [_field_error(problem) for problem in error.problems]


def _field_error(problem: FieldProblem) -> FieldError:
    return FieldError(field=problem.field[:_MAX_TEXT], message=problem.message[:_MAX_TEXT])
