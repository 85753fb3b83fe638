"""Calls in a room of Daily's: one that Flow makes, or any that a caller names."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from datetime import datetime

import httpx
from pydantic import SecretStr

from flow.bot.transports.room import BOT_NAME, RoomTransport, room_connect_params
from flow.bot.transports.spec import RoomSpec
from flow.domain.calls.join_request import Transport
from flow.domain.calls.room import Meeting, Room
from flow.errors import FieldProblem
from flow.vendors.daily import API_URL, BOT, Daily
from flow.vendors.key_requests import get

# What Daily allows in a room's name: https://docs.daily.co/reference/rest-api/rooms/create-room
_ROOM = re.compile(r"https://[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.daily\.co/[A-Za-z0-9_-]{1,128}")


def daily_problem(url: str) -> str | None:
    """What is wrong with the URL of a caller's Daily room, or ``None``.

    Nothing but a room is let through: no port, no credentials, no token in a query.
    """
    if _ROOM.fullmatch(url):
        return None
    return "must be the URL of a Daily room, https://DOMAIN.daily.co/ROOM, and nothing more"


def daily_transport(room: Room) -> RoomTransport:
    """A transport into a Daily room.

    Each speaker has a stream of their own. Daily's other way, one stream of the whole room, goes
    through a loudspeaker that all calls of a process share.
    """
    from pipecat.transports.daily.transport import DailyParams, DailyTransport

    params = DailyParams(audio_in_enabled=True, audio_out_enabled=True, audio_in_user_tracks=True)
    token = None if room.token is None else room.token.get_secret_value()
    transport = DailyTransport(room.url, token, BOT_NAME, params)
    return RoomTransport(transport, lost="on_error")


class DailyRooms:
    """The rooms of one Daily domain."""

    def __init__(self, daily: Daily) -> None:
        self._daily = daily

    def problems(self, transport: Transport) -> Iterator[FieldProblem]:
        """Nothing more is wrong with a room that passed `daily_problem`."""
        yield from ()

    def address(self, room_url: str) -> str:
        """Where the bot finds a room that the caller named."""
        return room_url

    async def open(self, name: str, until: datetime, lasts_until: datetime) -> Meeting:
        """A private room for two, and a token for each of them."""
        url = await self._daily.open(name, lasts_until)
        bot, caller = await asyncio.gather(
            self._daily.token(name, lasts_until, owner=True),
            self._daily.token(name, until, owner=False),
        )
        return Meeting(Room(TRANSPORT.name, url, bot, name), caller)

    async def admit(self, name: str, lasts_until: datetime, *, again: bool) -> SecretStr:
        """A new token for the bot; one that may be in the room still is put out of it."""
        if again:
            await self._daily.put_out(name, BOT)
        return await self._daily.token(name, lasts_until, owner=True)

    async def close(self, name: str) -> None:
        """Delete a room, with whoever is left in it."""
        await self._daily.close(name)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._daily.aclose()


def _provider(settings: Mapping[str, str]) -> DailyRooms:
    key = SecretStr(settings["DAILY_API_KEY"])
    return DailyRooms(Daily(key, settings.get("DAILY_API_URL", API_URL)))


def _list_rooms(settings: Mapping[str, str]) -> httpx.Request:
    url = settings.get("DAILY_API_URL", API_URL)
    return get("/rooms?limit=1")(url, settings["DAILY_API_KEY"])


TRANSPORT = RoomSpec(
    name="daily",
    drops_when_interrupted=False,
    settings=("DAILY_API_KEY",),
    options=("DAILY_API_URL",),
    room_url_problem=daily_problem,
    enters_without_settings=True,
    extra="daily",
    modules=("daily",),
    connect_params=room_connect_params,
    pipecat_module="pipecat.transports.daily.transport",
    transport=daily_transport,
    provider=_provider,
    key_request=_list_rooms,
)
