"""A stand-in for what Flow asks of LiveKit's server API: listing and deleting rooms.

The protocol is Twirp, https://docs.livekit.io/reference/other/roomservice-api. Tokens are read as
a LiveKit server reads them (`LiveKitSandbox.admits`).
"""

from __future__ import annotations

from typing import Any

import jwt
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flow.sandbox.stand_in import StandIn, exchange_of

API_KEY = "APIsandbox"
API_SECRET = "livekit_sandbox_secret_that_is_none"  # noqa: S105 - a stand-in's, and no secret

_CODES = {401: "unauthenticated", 403: "permission_denied", 404: "not_found", 429: "unavailable"}


class LiveKitSandbox(StandIn):
    """The app. ``rooms`` are the names of those that somebody has entered."""

    def __init__(self) -> None:
        self.rooms: set[str] = set()
        self.deleted: list[str] = []
        service = "/twirp/livekit.RoomService"
        super().__init__(
            [
                Route(f"{service}/DeleteRoom", self._delete, methods=["POST"]),
                Route(f"{service}/ListRooms", self._list, methods=["POST"]),
            ],
            refuse,
        )

    def admits(self, token: str) -> dict[str, Any]:
        """What a token says; raises `jwt.InvalidTokenError` when it is none of ours, or expired."""
        claims: dict[str, Any] = jwt.decode(
            token, API_SECRET, algorithms=["HS256"], issuer=API_KEY, options={"require": ["exp"]}
        )
        return claims

    async def _delete(self, request: Request) -> Response:
        request_id = exchange_of(request).request_id
        if (refusal := self._refusal(request, "roomCreate")) is not None:
            return refusal
        name = (await request.json()).get("room")
        if name not in self.rooms:
            return refuse(404, "requested room does not exist", request_id)
        self.rooms.discard(name)
        self.deleted.append(name)
        return JSONResponse({})

    async def _list(self, request: Request) -> Response:
        refusal = self._refusal(request, "roomList")
        return refusal or JSONResponse({"rooms": [{"name": name} for name in sorted(self.rooms)]})

    def _refusal(self, request: Request, grant: str) -> Response | None:
        """The answer to a request whose token does not grant this."""
        request_id = exchange_of(request).request_id
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        try:
            claims = self.admits(token)
        except jwt.InvalidTokenError:
            return refuse(401, "invalid token", request_id)
        if not claims.get("video", {}).get(grant):
            return refuse(403, "permissions denied", request_id)
        return None


def refuse(status: int, detail: str, _request_id: str) -> Response:
    """A Twirp error."""
    return JSONResponse({"code": _CODES.get(status, "internal"), "msg": detail}, status)
