"""``/v1/realtime``: a WebSocket for each session."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket

from flow.sandbox.openai.errors import ApiError
from flow.sandbox.openai.realtime.session import Session, Voice
from flow.sandbox.stand_in import exchange_of


class Realtime:
    """Opens sessions. ``check_key`` refuses a connection by an `ApiError`."""

    def __init__(self, voice: Voice, check_key: Callable[[HTTPConnection], None]) -> None:
        self._voice = voice
        self._check_key = check_key

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one connection."""
        model = websocket.query_params.get("model")
        try:
            self._check_key(websocket)
            if not model:
                raise ApiError(400, "You must provide a model parameter.", param="model")
        except ApiError as error:
            answer = error.response(exchange_of(websocket).request_id)
            await websocket.send_denial_response(answer)
            return
        await websocket.accept()
        await Session(websocket, self._voice, model).run()
