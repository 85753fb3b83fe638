"""A stand-in for Deepgram's API, with a bill of its own.

It serves ``/v1/listen``, ``/v2/listen`` and ``/v1/speak`` over WebSockets, as Deepgram's SDK and
Pipecat speak with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from flow.sandbox.bill import Bill
from flow.sandbox.deepgram.connection import Connection, Refused, refusal
from flow.sandbox.deepgram.flux import Flux
from flow.sandbox.deepgram.hearing import HearingPace
from flow.sandbox.deepgram.listen import IDLE_SECS, Nova
from flow.sandbox.deepgram.speak import Speaking
from flow.sandbox.openai.speech import Speak
from flow.sandbox.openai.transcription import Hear, hear_something
from flow.sandbox.speech.synthesis import synthesize
from flow.sandbox.speech.voice_pace import VoicePace
from flow.sandbox.stand_in import ModelStandIn, Session, exchange_of

Open = Callable[[Connection], Session]
"""Begins a session.

Raises:
    Refused: the query asks for what there is not.
"""


class DeepgramSandbox(ModelStandIn):
    """The app; its base URL for an SDK is that of the server.

    Args:
        speak: the voice; espeak's, unless told.
        voice_pace: how fast its sound comes; at once, unless told.
        hear: the ears; by default they only notice that somebody spoke.
        hearing_pace: how fast they understand.
        idle_secs: how long a connection to Nova may be idle.
        api_keys: the keys accepted; any at all when left out.
    """

    def __init__(
        self,
        *,
        speak: Speak = synthesize,
        voice_pace: VoicePace | None = None,
        hear: Hear = hear_something,
        hearing_pace: HearingPace | None = None,
        idle_secs: float = IDLE_SECS,
        api_keys: Collection[str] | None = None,
    ) -> None:
        bill = Bill()
        self._api_keys = api_keys
        pace = voice_pace or VoicePace()
        hearing = hearing_pace or HearingPace()
        super().__init__(
            bill,
            [
                WebSocketRoute(
                    "/v1/listen", self._served(lambda c: Nova(c, bill, hear, hearing, idle_secs))
                ),
                WebSocketRoute("/v2/listen", self._served(lambda c: Flux(c, bill, hear, hearing))),
                WebSocketRoute(
                    "/v1/speak",
                    self._served(lambda c: Speaking(c, bill, speak, pace)),
                ),
                Route("/v1/projects", self._list_projects),
                Route("/{path:path}", _unknown_url, methods=["GET", "POST", "PUT", "DELETE"]),
            ],
            refusal,
        )

    def _served(self, begin: Open) -> Callable[[WebSocket], object]:
        async def serve(socket: WebSocket) -> None:
            connection = Connection(socket)
            try:
                self._check_key(socket)
                session = begin(connection)
            except Refused as refused:
                await connection.refuse(refused)
                return
            await connection.accept()
            await session.serve()

        return serve

    async def _list_projects(self, request: Request) -> Response:
        try:
            self._check_key(request)
        except Refused as refused:
            return refusal(refused.status, str(refused), exchange_of(request).request_id)
        return JSONResponse({"projects": [{"project_id": "sandbox", "name": "sandbox"}]})

    def _check_key(self, asked: HTTPConnection) -> None:
        scheme, _, key = asked.headers.get("authorization", "").partition(" ")
        is_known = self._api_keys is None or key.strip() in self._api_keys
        if scheme.lower() not in ("token", "bearer") or not key.strip() or not is_known:
            raise Refused(401, "Invalid credentials.")


async def _unknown_url(request: Request) -> Response:
    message = f"No route for {request.method} {request.url.path}."
    return refusal(404, message, exchange_of(request).request_id)
