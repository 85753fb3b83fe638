"""What carries sound into rooms: the packages of the transports that have rooms."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from importlib import import_module
from typing import Protocol

from flow.bot.transports.room import RoomTransport
from flow.bot.transports.spec import RoomSpec
from flow.domain.calls.room import Room


class RoomMedia(Protocol):
    """What carries sound into a room and out of it. ``transport`` is the name of one with rooms."""

    def missing(self, transport: str) -> str | None:
        """What is not installed here and has to be, in words, or ``None``."""
        ...

    async def prepare(self, transport: str) -> None:
        """Make `enter_room` quick."""
        ...

    def enter_room(self, room: Room) -> RoomTransport:
        """A transport that enters the room when its pipeline starts."""
        ...


class InstalledRoomMedia:
    """The packages that are installed here."""

    def __init__(self, specs: Mapping[str, RoomSpec]) -> None:
        self._specs = specs

    def missing(self, transport: str) -> str | None:
        """The extra of Flow's package that has to be installed, or ``None``."""
        return self._specs[transport].missing

    async def prepare(self, transport: str) -> None:
        """Import the vendor's package, which takes a second, so in a thread."""
        await asyncio.to_thread(import_module, self._specs[transport].pipecat_module)

    def enter_room(self, room: Room) -> RoomTransport:
        """A transport that enters the room when its pipeline starts."""
        return self._specs[room.type].transport(room)
