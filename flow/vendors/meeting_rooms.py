"""The meeting rooms of calls, at Daily or LiveKit as a join names."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Protocol
from uuid import UUID

from pydantic import SecretStr

from flow.domain.calls.join_request import Transport
from flow.domain.calls.room import Meeting, Room, room_name
from flow.domain.calls.room_call import OpenRoom, lasts_until
from flow.errors import FieldProblem, TransportUnavailable

OPEN_SECS = 10.0


class RoomProvider(Protocol):
    """A vendor's rooms, as its settings name an account. Any call may raise
    `TransportUnavailable`."""

    def problems(self, transport: Transport) -> Iterator[FieldProblem]:
        """What keeps the bot out of a room that the caller names."""
        ...

    def address(self, room_url: str) -> str:
        """Where the bot finds a room that the caller named."""
        ...

    async def open(self, name: str, until: datetime, lasts_until: datetime) -> Meeting:
        """The room ``name``, made if it is not there, and ways into it: the caller's is good
        ``until`` then, the bot's and the room ``lasts_until``."""
        ...

    async def admit(self, name: str, lasts_until: datetime, *, again: bool) -> SecretStr:
        """A new way in for the bot; ``again`` puts one out that may be in the room still."""
        ...

    async def close(self, name: str) -> None:
        """Delete a room, with whoever is left in it; one that is gone is left alone."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


class MeetingRooms:
    """Opens and closes the rooms of threads.

    Args:
        providers: the vendors that are set up here, by the name of their transport.
        open_secs: how long opening a room may take in all.
    """

    def __init__(
        self, providers: Mapping[str, RoomProvider], *, open_secs: float = OPEN_SECS
    ) -> None:
        self.providers = providers
        self._open_secs = open_secs

    def has(self, transport: str) -> bool:
        """Whether rooms of this transport can be opened here."""
        return transport in self.providers

    def problems(self, transport: Transport) -> Iterator[FieldProblem]:
        """What keeps the bot out of a room that the caller names."""
        if transport.room_url is None and transport.token is not None:
            yield FieldProblem("transport.token", "goes with transport.room_url, which is missing")
        if (provider := self.providers.get(transport.type)) is not None:
            yield from provider.problems(transport)

    async def meet(
        self, thread_id: UUID, transport: Transport, until: datetime, longest_secs: int
    ) -> Meeting:
        """The room of a thread, opened if it is not, with new tokens for bot and caller.

        ``until`` is when the caller must have entered, ``longest_secs`` how long the call may then
        last. A room that the caller named is used as it is. The transport must have no `problems`.

        Raises:
            TransportUnavailable: the vendor does not open it, or not in time.
        """
        provider, url = self.providers.get(transport.type), transport.room_url
        if url is not None:
            address = url if provider is None else provider.address(url)
            return Meeting(Room(transport.type, address, transport.token))
        if provider is None:
            raise TransportUnavailable(f"'{transport.type}' is not set up here.")
        try:
            async with asyncio.timeout(self._open_secs):
                end = lasts_until(until, longest_secs)
                return await provider.open(room_name(thread_id), until, end)
        except TimeoutError:
            raise TransportUnavailable("The room could not be opened in time.") from None

    async def enter(self, kept: OpenRoom, *, again: bool) -> Room:
        """The room with a new token for the bot; ``again`` ejects an earlier bot that may be in it.

        Raises:
            TransportUnavailable: the vendor does not give it, or is not set up here.
        """
        room = kept.room
        if room.name is None:
            return room
        if (provider := self.providers.get(room.type)) is None:
            raise TransportUnavailable(f"'{room.type}' is not set up here.")
        try:
            async with asyncio.timeout(self._open_secs):
                token = await provider.admit(room.name, kept.lasts_until, again=again)
        except TimeoutError:
            raise TransportUnavailable("The room could not be entered in time.") from None
        return replace(room, token=token)

    async def close(self, room: Room) -> None:
        """Close a room that Flow opened, ejecting all participants; leave other rooms alone.

        Raises:
            TransportUnavailable: the vendor does not do it.
        """
        provider = self.providers.get(room.type)
        if room.name is not None and provider is not None:
            await provider.close(room.name)

    async def aclose(self) -> None:
        """Close the connections to the vendors."""
        for provider in self.providers.values():
            await provider.aclose()
