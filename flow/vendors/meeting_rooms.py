"""The meeting rooms of calls, at Daily or LiveKit as a join names."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from flow.domain.calls.join_request import Transport
from flow.domain.calls.room import Meeting, Room, livekit_problem, room_name
from flow.domain.calls.room_call import OpenRoom, lasts_until
from flow.errors import FieldProblem, TransportUnavailable
from flow.vendors import livekit as lk
from flow.vendors.daily import BOT, Daily
from flow.vendors.livekit import LiveKit

OPEN_SECS = 10.0


class MeetingRooms:
    """Opens, enters and closes the rooms of threads.

    Args:
        daily, livekit: the vendors that are configured.
        open_secs: how long opening or entering a room may take, with all requests.
    """

    def __init__(
        self, daily: Daily | None, livekit: LiveKit | None, *, open_secs: float = OPEN_SECS
    ) -> None:
        self._daily = daily
        self._livekit = livekit
        self._open_secs = open_secs

    def problems(self, transport: Transport) -> Iterator[FieldProblem]:
        """What keeps a room of this kind from being opened."""
        given, token = transport.room_url, transport.token
        if given is None and token is not None:
            yield FieldProblem("transport.token", "goes with transport.room_url, which is missing")
        if transport.type == "daily":
            if given is None and self._daily is None:
                missing = "'daily' is not set up here: DAILY_API_KEY is missing; name a room_url"
                yield FieldProblem("transport.type", missing)
        elif self._livekit is None:
            missing = "LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET are missing"
            yield FieldProblem("transport.type", f"'livekit' is not set up here: {missing}")
        elif given is not None:
            if (problem := livekit_problem(given, self._livekit.url)) is not None:
                yield FieldProblem("transport.room_url", problem)
            if token is None:
                yield FieldProblem("transport.token", "is needed to enter a LiveKit room")

    async def meet(
        self, thread_id: UUID, transport: Transport, until: datetime, longest_secs: int
    ) -> Meeting:
        """The room of a thread, opened if it is not, with new tokens for bot and caller.

        ``until`` is when the caller must have entered, ``longest_secs`` how long the call may then
        last. A room that the caller named is used as it is. The transport must have no `problems`.

        Raises:
            TransportUnavailable: the vendor does not open it, or not in time.
        """
        if transport.room_url is not None:
            return self._given(transport)
        name, end = room_name(thread_id), lasts_until(until, longest_secs)
        try:
            async with asyncio.timeout(self._open_secs):
                if transport.type == "daily":
                    return await self._at_daily(name, until, end)
                return self._at_livekit(name, until, end)
        except TimeoutError:
            raise TransportUnavailable("The room could not be opened in time.") from None

    async def enter(self, kept: OpenRoom, *, again: bool) -> Room:
        """The room with a new token for the bot; ``again`` ejects an earlier bot that may be in it.

        LiveKit ejects an earlier participant of the same name by itself.

        Raises:
            TransportUnavailable: the vendor does not give it, or is not set up here.
        """
        room = kept.room
        if room.name is None:
            return room
        try:
            async with asyncio.timeout(self._open_secs):
                if room.type == "daily" and self._daily is not None:
                    if again:
                        await self._daily.put_out(room.name, BOT)
                    token = await self._daily.token(room.name, kept.lasts_until, owner=True)
                    return replace(room, token=token)
        except TimeoutError:
            raise TransportUnavailable("The room could not be entered in time.") from None
        if room.type == "livekit" and self._livekit is not None:
            now = datetime.now(UTC)
            token = self._livekit.token(room.name, lk.BOT, now, kept.lasts_until)
            return replace(room, token=token)
        raise TransportUnavailable(f"'{room.type}' is not set up here.")

    async def close(self, room: Room) -> None:
        """Close a room that Flow opened, ejecting all participants; leave other rooms alone.

        Raises:
            TransportUnavailable: the vendor does not do it.
        """
        vendor = self._daily if room.type == "daily" else self._livekit
        if room.name is not None and vendor is not None:
            await vendor.close(room.name)

    async def aclose(self) -> None:
        """Close the connections to the vendors."""
        for vendor in (self._daily, self._livekit):
            if vendor is not None:
                await vendor.aclose()

    def _given(self, transport: Transport) -> Meeting:
        assert transport.room_url is not None
        if transport.type == "daily":
            return Meeting(Room("daily", transport.room_url, transport.token))
        assert self._livekit is not None
        # The configured URL, not the caller's spelling of it.
        return Meeting(Room("livekit", self._livekit.url, transport.token))

    async def _at_daily(self, name: str, until: datetime, lasts_until: datetime) -> Meeting:
        assert self._daily is not None
        url = await self._daily.open(name, lasts_until)
        bot, caller = await asyncio.gather(
            self._daily.token(name, lasts_until, owner=True),
            self._daily.token(name, until, owner=False),
        )
        return Meeting(Room("daily", url, bot, name), caller)

    def _at_livekit(self, name: str, until: datetime, lasts_until: datetime) -> Meeting:
        assert self._livekit is not None
        now = datetime.now(UTC)
        bot = self._livekit.token(name, lk.BOT, now, lasts_until)
        caller = self._livekit.token(name, lk.CALLER, now, until)
        return Meeting(Room("livekit", self._livekit.url, bot, name), caller)
