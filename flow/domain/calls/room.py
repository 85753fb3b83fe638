"""Rooms at Daily and LiveKit: which a caller may name, and the ways into one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, urlsplit
from uuid import UUID

from pydantic import SecretStr

RoomType = Literal["daily", "livekit"]
ROOM_TYPES: tuple[RoomType, ...] = ("daily", "livekit")
NOBODY_CAME = "nobody_came"
"""Why a call ended that never began: the bot waited in the room, and expired with its thread."""

# What Daily allows in a room's name: https://docs.daily.co/reference/rest-api/rooms/create-room
_DAILY_ROOM = re.compile(
    r"https://[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.daily\.co/[A-Za-z0-9_-]{1,128}"
)
_TOKEN = re.compile(r"[\x21-\x7e]+")
_PORTS = {"ws": 80, "http": 80, "wss": 443, "https": 443}


@dataclass(frozen=True, slots=True)
class Room:
    """A room and the bot's way into it.

    ``name`` is set of a room that Flow made, which is closed after the call. ``token`` opens the
    room: it is in nobody's memory but that of the process that runs the call.
    """

    type: RoomType
    url: str
    token: SecretStr | None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Meeting:
    """A room with the caller's own way into it; a caller who named the room has one already."""

    room: Room
    token: SecretStr | None = None


def room_name(thread_id: UUID) -> str:
    """What the room of a thread is called: making it again makes the same."""
    return f"flow-{thread_id.hex}"


def daily_problem(url: str) -> str | None:
    """What is wrong with the URL of a caller's Daily room, or ``None``.

    Nothing but a room is let through: no port, no credentials, no token in a query.
    """
    if _DAILY_ROOM.fullmatch(url):
        return None
    return "must be the URL of a Daily room, https://DOMAIN.daily.co/ROOM, and nothing more"


def livekit_problem(url: str, own: str) -> str | None:
    """What is wrong with the URL of a caller's LiveKit, or ``None``: it must be our ``own``."""
    try:
        given, ours = urlsplit(url), urlsplit(own)
        plain = given.path in {"", "/"} and not (given.query or given.fragment or "@" in url)
        same = plain and url.isprintable() and _place(given) == _place(ours)
    except ValueError:
        same = False
    return None if same else "must be the LiveKit server of this service (LIVEKIT_URL)"


def token_problem(token: str) -> str | None:
    """What is wrong with the text of a room's token, or ``None``."""
    return None if _TOKEN.fullmatch(token) else "must be printable ASCII without spaces"


def _place(url: SplitResult) -> tuple[str, int]:
    """The host and port of a LiveKit URL; raises `ValueError` where it has none."""
    if url.scheme not in _PORTS or not url.hostname:
        raise ValueError("no URL of a server")
    return url.hostname, url.port or _PORTS[url.scheme]
