"""A stand-in for ElevenLabs' API, with a bill of its own.

It serves text to speech in several contexts and real-time speech to text, both over WebSockets, so
that Pipecat's services and ElevenLabs' SDK run against it unchanged.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from flow.sandbox.bill import Bill
from flow.sandbox.elevenlabs.connection import POLICY_VIOLATION, Connection, Failure
from flow.sandbox.elevenlabs.dialects import Dialogue, Speech
from flow.sandbox.elevenlabs.speech import Speaking
from flow.sandbox.elevenlabs.speech import error_message as speech_error
from flow.sandbox.elevenlabs.transcription import Listening
from flow.sandbox.elevenlabs.transcription import error_message as transcription_error
from flow.sandbox.openai.speech import Speak
from flow.sandbox.openai.transcription import Hear, hear_something
from flow.sandbox.speech.synthesis import synthesize
from flow.sandbox.speech.voice_pace import VoicePace
from flow.sandbox.stand_in import ModelStandIn, exchange_of

Serve = Callable[[Connection], Awaitable[None]]
Say = Callable[[Failure], Mapping[str, Any]]


class ElevenLabsSandbox(ModelStandIn):
    """The app; its base URL is that of the server.

    Args:
        speak: the voice; espeak's, unless told.
        hear: the ears; by default they only notice that somebody spoke.
        voice_pace: how fast its sound comes; at once, unless told.
        api_keys: the keys accepted; any at all when left out.
        idle_secs: how long a client may send no sound.
    """

    def __init__(
        self,
        *,
        speak: Speak = synthesize,
        hear: Hear = hear_something,
        voice_pace: VoicePace | None = None,
        api_keys: Collection[str] | None = None,
        idle_secs: float = 20.0,
    ) -> None:
        bill = Bill()
        pace = voice_pace or VoicePace()
        self._api_keys = api_keys

        async def speech(connection: Connection) -> None:
            await Speaking(connection, Speech(connection), bill, speak, pace).serve()

        async def dialogue(connection: Connection) -> None:
            await Speaking(connection, Dialogue(connection), bill, speak, pace).serve()

        async def transcription(connection: Connection) -> None:
            await Listening(connection, bill, hear, idle_secs).serve()

        super().__init__(
            bill,
            [
                WebSocketRoute(
                    "/v1/text-to-speech/{voice}/multi-stream-input",
                    self._served(speech, "invalid_api_key", speech_error),
                ),
                WebSocketRoute(
                    "/v1/text-to-dialogue/multi-stream-input",
                    self._served(dialogue, "authentication_required", speech_error),
                ),
                WebSocketRoute(
                    "/v1/speech-to-text/realtime",
                    self._served(transcription, "auth_error", transcription_error),
                ),
                Route("/v1/models", self._list_models),
                Route("/{path:path}", _unknown_url, methods=["GET", "POST", "PUT", "DELETE"]),
            ],
            refusal,
        )

    def _served(
        self, serve: Serve, unauthorized: str, error_message: Say
    ) -> Callable[[WebSocket], Awaitable[None]]:
        async def served(socket: WebSocket) -> None:
            await socket.accept()
            connection = Connection(socket)
            try:
                if not self._is_known(socket.headers.get("xi-api-key")):
                    raise Failure(unauthorized, "Invalid API key")
                await serve(connection)
            except Failure as failure:
                await connection.send(error_message(failure))
                await connection.close(POLICY_VIOLATION, str(failure))

        return served

    async def _list_models(self, request: Request) -> Response:
        if not self._is_known(request.headers.get("xi-api-key")):
            return refusal(401, "Invalid API key", exchange_of(request).request_id)
        return JSONResponse([])

    def _is_known(self, key: str | None) -> bool:
        return bool(key) and (self._api_keys is None or key in self._api_keys)


def refusal(status: int, message: str, _request_id: str) -> Response:
    """ElevenLabs' way of saying no over HTTP."""
    known = {401: "invalid_api_key", 404: "not_found", 429: "too_many_concurrent_requests"}
    detail = {"status": known.get(status, "error"), "message": message}
    return JSONResponse({"detail": detail}, status)


async def _unknown_url(request: Request) -> Response:
    return refusal(404, f"There is no {request.url.path}.", exchange_of(request).request_id)
