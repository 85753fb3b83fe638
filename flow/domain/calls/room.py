"""Rooms of vendors, and the ways into one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from uuid import UUID

from pydantic import SecretStr

_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Room:
    """A room and the bot's way into it.

    ``name`` is set of a room that Flow made, which is closed after the call. ``token`` opens the
    room: it is in nobody's memory but that of the process that runs the call.
    """

    type: str
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


def token_problem(token: str) -> str | None:
    """What is wrong with the text of a room's token, or ``None``."""
    return None if _TOKEN.fullmatch(token) else "must be printable ASCII without spaces"
