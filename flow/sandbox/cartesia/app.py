"""A stand-in for Cartesia's API, with a bill of its own.

It serves ``/tts/websocket``, ``/stt/websocket`` and ``/stt/turns/websocket`` of the version
2026-03-01 (https://docs.cartesia.ai/api-reference).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from flow.sandbox.bill import Bill
from flow.sandbox.cartesia.connection import Connection, Problem, Refused
from flow.sandbox.cartesia.hearing import Hearing, HearingPace
from flow.sandbox.cartesia.listening import Listening
from flow.sandbox.cartesia.speaking import Speaking
from flow.sandbox.cartesia.turns import Turns
from flow.sandbox.openai.speech import Speak
from flow.sandbox.openai.transcription import Hear, hear_something
from flow.sandbox.speech.synthesis import synthesize
from flow.sandbox.speech.voice_pace import VoicePace
from flow.sandbox.stand_in import ModelStandIn, Session, exchange_of

Begin = Callable[[Connection], Session]
"""Begins what goes on over a connection.

Raises:
    Refused: its query asks for what there is not, which is told once the connection is open.
"""


class CartesiaSandbox(ModelStandIn):
    """The app; its base URL is that of the server.

    Args:
        speak: the voice; espeak's, unless told.
        hear: the ears; by default they only notice that somebody spoke.
        voice_pace: how fast the voice's sound comes; at once, unless told.
        hearing_pace: how long the ears take; no time, unless told.
        api_keys: the keys accepted; any at all when left out.
    """

    def __init__(
        self,
        *,
        speak: Speak = synthesize,
        hear: Hear = hear_something,
        voice_pace: VoicePace | None = None,
        hearing_pace: HearingPace | None = None,
        api_keys: Collection[str] | None = None,
    ) -> None:
        bill = Bill()
        self._api_keys = api_keys
        voice, ears = voice_pace or VoicePace(), hearing_pace or HearingPace()
        sessions: dict[str, Begin] = {
            "/tts/websocket": lambda c: Speaking(c, bill, speak, voice),
            "/stt/websocket": lambda c: Listening(c, Hearing(c, bill, hear, ears, model="ink")),
            "/stt/turns/websocket": lambda c: Turns(
                c, Hearing(c, bill, hear, ears, model="ink-2"), ears.turn_end_secs
            ),
        }
        super().__init__(
            bill,
            [
                *(WebSocketRoute(path, self._served(begin)) for path, begin in sessions.items()),
                Route("/voices", self._list_voices),
                Route("/{path:path}", _unknown_url, methods=["GET", "POST", "PUT", "DELETE"]),
            ],
            _refusal,
        )

    def _served(self, begin: Begin) -> Callable[[WebSocket], object]:
        async def serve(socket: WebSocket) -> None:
            request_id = exchange_of(socket).request_id
            if (problem := self._problem(socket)) is not None:
                await socket.send_denial_response(problem.response(request_id))
                return
            await socket.accept(headers=[(b"x-request-id", request_id.encode())])
            connection = Connection(socket)
            try:
                session = begin(connection)
            except Refused as refused:
                await connection.send_error(refused.problem)
                await connection.close()
            else:
                await session.serve()

        return serve

    async def _list_voices(self, request: Request) -> Response:
        if (problem := self._problem(request)) is not None:
            return problem.response(exchange_of(request).request_id)
        return JSONResponse({"data": [], "has_more": False, "next_page": None})

    def _problem(self, asked: HTTPConnection) -> Problem | None:
        scheme, _, bearer = asked.headers.get("authorization", "").partition(" ")
        key = asked.headers.get("x-api-key") or (bearer if scheme.lower() == "bearer" else "")
        is_known = self._api_keys is None or key.strip() in self._api_keys
        if not key.strip() or not is_known:
            return Problem(401, "unauthorized", "Unauthorized", "Invalid or missing API key.")
        version = asked.headers.get("cartesia-version") or asked.query_params.get(
            "cartesia_version"
        )
        if not version:
            return Problem(
                400, "invalid_request", "Invalid request", "Cartesia-Version is missing."
            )
        return None


def _refusal(status: int, message: str, request_id: str) -> Response:
    return Problem(status, "sandbox_fault", "Told to fail", message).response(request_id)


async def _unknown_url(request: Request) -> Response:
    said = f"There is no {request.method} {request.url.path}."
    return Problem(404, "not_found", "Not found", said).response(exchange_of(request).request_id)
