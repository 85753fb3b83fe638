"""A stand-in for Anthropic's API, with a bill of its own.

It serves messages, so that Anthropic's SDK and anything built on it run against it unchanged.
What it bills, it writes down itself: `flow.sandbox.bill`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flow.sandbox.anthropic_messages import Messages
from flow.sandbox.bill import Bill
from flow.sandbox.openai.chat import Pace
from flow.sandbox.openai.errors import ApiError
from flow.sandbox.openai.replies import SMALL_TALK, Script
from flow.sandbox.stand_in import ModelStandIn, exchange_of

Handler = Callable[[Request], Awaitable[Response]]

# docs.claude.com, "Errors".
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


class AnthropicSandbox(ModelStandIn):
    """The app; its base URL for an SDK is that of the server.

    Args:
        script: what the model says.
        pace: how fast it says it; at once, unless told.
        api_keys: the keys accepted; any at all when left out.
    """

    def __init__(
        self,
        script: Script = SMALL_TALK,
        *,
        pace: Pace | None = None,
        api_keys: Collection[str] | None = None,
    ) -> None:
        bill = Bill()
        self._api_keys = api_keys
        messages = Messages(bill, script, pace or Pace())
        count = self._guarded(messages.count_tokens)
        super().__init__(
            bill,
            [
                Route("/v1/messages", self._guarded(messages), methods=["POST"]),
                Route("/v1/messages/count_tokens", count, methods=["POST"]),
                Route("/v1/models", self._guarded(_list_models)),
                Route("/{path:path}", self._guarded(_unknown_url)),
            ],
            error_response,
        )

    def _guarded(self, handler: Handler) -> Handler:
        async def serve(request: Request) -> Response:
            try:
                self._check_headers(request)
                return await handler(request)
            except ApiError as error:
                return error_response(error.status, str(error), exchange_of(request).request_id)

        return serve

    def _check_headers(self, request: Request) -> None:
        key = request.headers.get("x-api-key", "")
        if not key or (self._api_keys is not None and key not in self._api_keys):
            raise ApiError(401, "invalid x-api-key")
        if "anthropic-version" not in request.headers:
            raise ApiError(400, "anthropic-version: header is required")


def error_response(status: int, message: str, request_id: str) -> Response:
    """Anthropic's way of saying no."""
    kind = _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    body = {
        "type": "error",
        "error": {"type": kind, "message": message},
        "request_id": request_id,
    }
    return JSONResponse(body, status, headers={"request-id": request_id})


async def _list_models(_request: Request) -> Response:
    return JSONResponse({"data": [], "has_more": False, "first_id": None, "last_id": None})


async def _unknown_url(_request: Request) -> Response:
    raise ApiError(404, "Not found")
