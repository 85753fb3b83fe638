"""A stand-in for Google's Gemini API, with a bill of its own.

It generates content, so that Google's SDK and anything built on it run against it unchanged. What
it bills, it writes down itself: `flow.sandbox.bill`.
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flow.sandbox.bill import Bill
from flow.sandbox.google.errors import error_response
from flow.sandbox.google.generate import Generate
from flow.sandbox.openai.chat import Pace
from flow.sandbox.openai.errors import ApiError
from flow.sandbox.openai.replies import SMALL_TALK, Script
from flow.sandbox.stand_in import OWN_PAGES, StandIn, exchange_of


class GoogleSandbox(StandIn):
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
        self.bill = Bill()
        self._api_keys = api_keys
        self._generate = Generate(self.bill, script, pace or Pace())
        super().__init__(
            [
                Route("/{version}/models/{method:path}", self._serve_model, methods=["POST"]),
                Route(f"{OWN_PAGES}/bill", self._show_bill),
                Route("/{path:path}", _unknown_url),
            ],
            error_response,
        )

    async def _serve_model(self, request: Request) -> Response:
        model, _, method = request.path_params["method"].rpartition(":")
        try:
            self._check_key(request)
            if method == "countTokens":
                return await self._generate.count_tokens(request)
            if method not in ("generateContent", "streamGenerateContent"):
                return await _unknown_url(request)
            return await self._generate(request, model, stream=method != "generateContent")
        except ApiError as error:
            return error_response(error.status, str(error), exchange_of(request).request_id)

    def _check_key(self, request: Request) -> None:
        key = request.headers.get("x-goog-api-key") or request.query_params.get("key") or ""
        if not key:
            raise ApiError(403, "Method doesn't allow unregistered callers.")
        if self._api_keys is not None and key not in self._api_keys:
            raise ApiError(400, "API key not valid. Please pass a valid API key.")

    async def _show_bill(self, _request: Request) -> Response:
        return JSONResponse(self.bill.to_json())


async def _unknown_url(request: Request) -> Response:
    return error_response(404, "Not found.", exchange_of(request).request_id)
