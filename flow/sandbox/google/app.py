"""A stand-in for Google's Gemini API, with a bill of its own.

It generates content and holds Live sessions, so that Google's SDK and anything built on it run
against it unchanged, and serves chat completions and embeddings in OpenAI's protocol. What it
bills, it writes down itself: `flow.sandbox.bill`.
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from flow.sandbox.bill import Bill
from flow.sandbox.google.errors import error_response
from flow.sandbox.google.generate import Generate
from flow.sandbox.google.live import Live
from flow.sandbox.google.live_generation import Speaker
from flow.sandbox.google.openai_protocol import openai_routes
from flow.sandbox.openai.chat import Pace
from flow.sandbox.openai.errors import ApiError
from flow.sandbox.openai.replies import SMALL_TALK, Script
from flow.sandbox.openai.speech import Speak
from flow.sandbox.openai.transcription import Hear, hear_something
from flow.sandbox.speech.synthesis import synthesize
from flow.sandbox.stand_in import ModelStandIn, exchange_of

_SERVICE = "google.ai.generativelanguage.{version}.GenerativeService"


class GoogleSandbox(ModelStandIn):
    """The app; its base URL for an SDK is that of the server.

    Args:
        script: what the model says.
        pace: how fast it says it; at once, unless told.
        speak: its voice in a Live session; espeak's, unless told.
        hear: its ears there; by default they only notice that somebody spoke.
        session_secs: how long a Live connection lasts; for ever, unless told.
        api_keys: the keys accepted; any at all when left out.
    """

    def __init__(
        self,
        script: Script = SMALL_TALK,
        *,
        pace: Pace | None = None,
        speak: Speak = synthesize,
        hear: Hear = hear_something,
        session_secs: float | None = None,
        api_keys: Collection[str] | None = None,
    ) -> None:
        bill = Bill()
        self._api_keys = api_keys
        pace = pace or Pace()
        self._generate = Generate(bill, script, pace)
        self._live = Live(Speaker(bill, script, pace, speak), hear, session_secs)
        super().__init__(
            bill,
            [
                Route("/{version}/models/{method:path}", self._serve_model, methods=["POST"]),
                *openai_routes(bill, script, pace, api_keys),
                Route("/{version}/models", self._list_models),
                WebSocketRoute(f"/ws/{_SERVICE}.BidiGenerateContent", self._serve_live),
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

    async def _list_models(self, request: Request) -> Response:
        try:
            self._check_key(request)
        except ApiError as error:
            return error_response(error.status, str(error), exchange_of(request).request_id)
        return JSONResponse({"models": []})

    async def _serve_live(self, socket: WebSocket) -> None:
        try:
            self._check_key(socket)
        except ApiError as error:
            await socket.accept()
            await socket.close(1007 if error.status == 400 else 1008, str(error))
        else:
            await self._live(socket)

    def _check_key(self, request: HTTPConnection) -> None:
        key = request.headers.get("x-goog-api-key") or request.query_params.get("key") or ""
        if not key:
            raise ApiError(403, "Method doesn't allow unregistered callers.")
        if self._api_keys is not None and key not in self._api_keys:
            raise ApiError(400, "API key not valid. Please pass a valid API key.")


async def _unknown_url(request: Request) -> Response:
    return error_response(404, "Not found.", exchange_of(request).request_id)
