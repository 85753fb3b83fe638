"""uvicorn's WebSockets, for handshakes that an application refuses with an answer of its own."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol


class RefusableWebSocketProtocol(WebSocketsSansIOProtocol):
    """Takes a handshake that was answered with a status for answered.

    uvicorn 0.54 logs an error for each, as if the application had not answered at all.
    """

    async def send(self, message: Any) -> None:
        """Send what the application says."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True
