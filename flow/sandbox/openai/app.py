"""A stand-in for OpenAI's API, with a bill of its own.

It serves chat completions, responses, realtime sessions, embeddings, speech, transcriptions and
the list of models, so that OpenAI's SDK and anything built on it run against it unchanged. What it
served, and what of it a client that left early would still be billed for, it writes down itself:
`flow.sandbox.bill`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute

from flow.sandbox.bill import Bill
from flow.sandbox.openai.chat import OPENAI, Chat, Dialect, Pace
from flow.sandbox.openai.embeddings import Embeddings
from flow.sandbox.openai.errors import ApiError, error_response
from flow.sandbox.openai.generator import Generator
from flow.sandbox.openai.models import all_models
from flow.sandbox.openai.realtime.configuration import SESSION_SECS
from flow.sandbox.openai.realtime.endpoint import Realtime
from flow.sandbox.openai.realtime.session import Voice
from flow.sandbox.openai.replies import SMALL_TALK, Script
from flow.sandbox.openai.responses import Responses
from flow.sandbox.openai.speech import Speak, Speech
from flow.sandbox.openai.transcription import Hear, Transcription, hear_something
from flow.sandbox.speech.synthesis import synthesize
from flow.sandbox.stand_in import ModelStandIn, exchange_of

Handler = Callable[[Request], Awaitable[Response]]


class OpenAISandbox(ModelStandIn):
    """The app; its base URL for an SDK is that of the server with ``/v1``.

    Args:
        script: what the model says.
        pace: how fast it says it; at once, unless told.
        speak: the voice; espeak's, unless told.
        hear: the ears; by default they only notice that somebody spoke.
        api_keys: the keys accepted; any at all when left out.
        tier: the service tier that serves, whatever was asked for.
        dialect: how its chat differs from OpenAI's, where it plays another vendor.
        session_secs: how long a realtime session may last.
    """

    def __init__(
        self,
        script: Script = SMALL_TALK,
        *,
        pace: Pace | None = None,
        speak: Speak = synthesize,
        hear: Hear = hear_something,
        api_keys: Collection[str] | None = None,
        tier: str | None = None,
        dialect: Dialect = OPENAI,
        session_secs: float = SESSION_SECS,
    ) -> None:
        bill = Bill()
        self._api_keys = api_keys
        pace = pace or Pace()
        generator = Generator(bill, script, tier)
        chat = Chat(generator, pace, dialect)
        responses = Responses(generator, pace)
        speech = Speech(bill, speak)
        transcription = Transcription(bill, hear, pace.token_secs)
        voice = Voice(generator, pace, speak, hear, session_secs)
        super().__init__(
            bill,
            [
                Route("/v1/chat/completions", self._guarded(chat), methods=["POST"]),
                Route("/v1/embeddings", self._guarded(Embeddings(bill)), methods=["POST"]),
                Route("/v1/responses", self._guarded(responses), methods=["POST"]),
                WebSocketRoute("/v1/realtime", Realtime(voice, self._check_key).serve),
                Route("/v1/audio/speech", self._guarded(speech), methods=["POST"]),
                Route("/v1/audio/transcriptions", self._guarded(transcription), methods=["POST"]),
                Route("/v1/models", self._guarded(_list_models)),
                Route("/v1/models/{model:path}", self._guarded(_read_model)),
                Route("/{path:path}", self._guarded(_unknown_url), methods=_ALL_METHODS),
            ],
            error_response,
        )

    def _guarded(self, handler: Handler) -> Handler:
        return guarded(handler, self._check_key)

    def _check_key(self, request: HTTPConnection) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise ApiError(401, "You didn't provide an API key.", code="missing_api_key")
        if self._api_keys is not None and key.strip() not in self._api_keys:
            raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key")


def guarded(
    handler: Handler,
    check_key: Callable[[Request], None],
    refused: Callable[[ApiError, str], Response] = ApiError.response,
) -> Handler:
    """The handler behind a check of its requests' key, with every refusal as an answer:
    ``refused`` makes it, of the error and the request's id."""

    async def serve(request: Request) -> Response:
        try:
            check_key(request)
            return await handler(request)
        except ApiError as error:
            return refused(error, exchange_of(request).request_id)

    return serve


_ALL_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


async def _list_models(_request: Request) -> Response:
    return JSONResponse({"object": "list", "data": all_models()})


async def _read_model(request: Request) -> Response:
    name = request.path_params["model"]
    for model in all_models():
        if model["id"] == name:
            return JSONResponse(model)
    raise ApiError(404, f"The model '{name}' does not exist.", param="model")


async def _unknown_url(request: Request) -> Response:
    url = f"{request.method} {request.url.path}"
    raise ApiError(404, f"Invalid URL ({url})", code="unknown_url")
