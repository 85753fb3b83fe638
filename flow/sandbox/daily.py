"""A stand-in for Daily's REST API: rooms, meeting tokens, and putting people out.

It speaks https://docs.daily.co/reference/rest-api as far as Flow uses it, and carries no sound:
``present`` says who a test has let into which room.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import jwt
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from flow.sandbox.stand_in import OWN_PAGES, StandIn, exchange_of

API_KEY = "daily_sandbox_api_key_and_not_a_secret"
DOMAIN = "flow-sandbox"

_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_ERRORS: Mapping[int, str] = {
    400: "invalid-request-error",
    401: "authentication-error",
    403: "forbidden-error",
    404: "not-found",
    429: "rate-limit-error",
}
_ROOM = {"exp": int, "eject_at_room_exp": bool, "max_participants": int, "start_video_off": bool}
_TOKEN = {"room_name": str, "exp": int, "is_owner": bool, "user_id": str}
_SHORT = {"room_name": "r", "exp": "exp", "is_owner": "o", "user_id": "ud"}


@dataclass(slots=True)
class DailyRoom:
    """A room of the domain. ``present`` are the ``user_id`` of those in it."""

    name: str
    privacy: str
    properties: dict[str, Any]
    id: str = field(default_factory=lambda: str(uuid4()))
    present: set[str] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Where it is entered."""
        return f"https://{DOMAIN}.daily.co/{self.name}"

    def to_json(self) -> dict[str, Any]:
        """The room as the API shows it."""
        return {
            "id": self.id,
            "name": self.name,
            "api_created": True,
            "privacy": self.privacy,
            "url": self.url,
            "created_at": "2026-01-01T00:00:00.000Z",
            "config": self.properties,
        }


class DailySandbox(StandIn):
    """The app; its URL and ``/v1`` is the root of the API.

    ``rooms`` are those that are there, by name; ``deleted`` the names of those that were.
    """

    def __init__(self, *, api_key: str = API_KEY) -> None:
        self.rooms: dict[str, DailyRoom] = {}
        self.deleted: list[str] = []
        self._api_key = api_key
        one = "/v1/rooms/{name}"
        super().__init__(
            [
                Route("/v1/rooms", self._create, methods=["POST"]),
                Route("/v1/rooms", self._show_all, methods=["GET"]),
                Route(one, self._show, methods=["GET"]),
                Route(one, self._delete, methods=["DELETE"]),
                Route(f"{one}/eject", self._eject, methods=["POST"]),
                Route("/v1/meeting-tokens", self._give_token, methods=["POST"]),
                Route(f"{OWN_PAGES}/rooms", self._list_rooms),
            ],
            refuse,
        )

    def admits(self, token: str) -> dict[str, Any]:
        """What a token says; raises `jwt.InvalidTokenError` when it is none of ours, or expired.

        Daily abbreviates: ``r`` is the room, ``o`` whether its owner, ``ud`` the ``user_id``.
        """
        claims: dict[str, Any] = jwt.decode(
            token, self._api_key, algorithms=["HS256"], options={"require": ["exp", "r"]}
        )
        return claims

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        own = scope["path"].startswith(f"{OWN_PAGES}/")
        if own or (refusal := self._stranger(Request(scope))) is None:
            await super()._serve(scope, receive, send)
        else:
            await refusal(scope, receive, send)

    def _stranger(self, request: Request) -> Response | None:
        """The answer to a request without the domain's key."""
        given = request.headers.get("authorization", "")
        if not given.startswith("Bearer "):
            return JSONResponse({"error": "authorization-header-error"}, 400)
        if given != f"Bearer {self._api_key}":
            return refuse(401, "", exchange_of(request).request_id)
        return None

    async def _create(self, request: Request) -> Response:
        body = await _body(request)
        name, privacy = body.get("name"), body.get("privacy", "public")
        properties = body.get("properties", {})
        problem = _unknown(body, {"name", "privacy", "properties"}) or _wrong(properties, _ROOM)
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            problem = "name must match [A-Za-z0-9_-] and have at most 128 characters"
        elif privacy not in {"public", "private"}:
            problem = "privacy must be public or private"
        elif self._room(name) is not None:
            problem = f"a room named {name} already exists"
        if problem:
            return refuse(400, problem, exchange_of(request).request_id)
        room = self.rooms[str(name)] = DailyRoom(str(name), privacy, properties)
        return JSONResponse(room.to_json())

    async def _show(self, request: Request) -> Response:
        room = self._room(request.path_params["name"])
        return _missing(request) if room is None else JSONResponse(room.to_json())

    async def _show_all(self, _request: Request) -> Response:
        rooms = [room.to_json() for room in self.rooms.values()]
        return JSONResponse({"total_count": len(rooms), "data": rooms})

    async def _delete(self, request: Request) -> Response:
        room = self._room(request.path_params["name"])
        if room is None:
            return _missing(request)
        del self.rooms[room.name]
        self.deleted.append(room.name)
        return JSONResponse({"deleted": True, "name": room.name})

    async def _eject(self, request: Request) -> Response:
        room = self._room(request.path_params["name"])
        if room is None:
            return _missing(request)
        ejected = room.present & set((await _body(request)).get("user_ids", []))
        room.present -= ejected
        return JSONResponse({"ejectedIds": sorted(ejected)})

    async def _give_token(self, request: Request) -> Response:
        body = await _body(request)
        properties = body.get("properties", {})
        if problem := _unknown(body, {"properties"}) or _wrong(properties, _TOKEN):
            return refuse(400, problem, exchange_of(request).request_id)
        claims = {_SHORT[name]: value for name, value in properties.items()} | {"d": DOMAIN}
        return JSONResponse({"token": jwt.encode(claims, self._api_key, algorithm="HS256")})

    async def _list_rooms(self, _request: Request) -> Response:
        rooms = [asdict(room) | {"present": sorted(room.present)} for room in self.rooms.values()]
        return JSONResponse({"rooms": rooms, "deleted": self.deleted})

    def _room(self, name: str) -> DailyRoom | None:
        """The room; one that has expired counts as deleted."""
        room = self.rooms.get(name)
        if room is None or room.properties.get("exp", 1 << 62) > datetime.now(UTC).timestamp():
            return room
        del self.rooms[name]
        return None


def refuse(status: int, detail: str, _request_id: str) -> Response:
    """Daily's error."""
    error = {"error": _ERRORS.get(status, "server-error")}
    return JSONResponse(error | ({"info": detail} if detail else {}), status)


def _missing(request: Request) -> Response:
    name = request.path_params["name"]
    return refuse(404, f"room {name} not found", exchange_of(request).request_id)


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object that was sent; anything else is as good as an empty one."""
    try:
        body = await request.json()
    except ValueError:
        body = None
    return body if isinstance(body, dict) else {}


def _unknown(given: Mapping[str, Any], known: set[str]) -> str:
    return ", ".join(f"unknown parameter {name}" for name in sorted(set(given) - known))


def _wrong(given: Any, known: Mapping[str, type]) -> str:
    """What is wrong with ``properties``."""
    if not isinstance(given, dict):
        return "properties must be an object"
    wrong = [name for name, value in given.items() if type(value) is not known.get(name)]
    return ", ".join(f"invalid property {name}" for name in sorted(wrong))
