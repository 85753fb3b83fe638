"""Calls in a room of a LiveKit server: one that Flow makes, or one of our server's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from urllib.parse import SplitResult, urlsplit

import httpx
from pydantic import SecretStr

from flow.bot.transports.room import RoomTransport, room_connect_params
from flow.bot.transports.spec import RoomSpec
from flow.domain.calls.join_request import Transport
from flow.domain.calls.room import Meeting, Room
from flow.errors import FieldProblem
from flow.vendors.livekit import BOT, CALLER, LiveKit

_PORTS = {"ws": 80, "http": 80, "wss": 443, "https": 443}


def livekit_problem(url: str, own: str) -> str | None:
    """What is wrong with the URL of a caller's LiveKit, or ``None``: it must be our ``own``."""
    try:
        given, ours = urlsplit(url), urlsplit(own)
        plain = given.path in {"", "/"} and not (given.query or given.fragment or "@" in url)
        same = plain and url.isprintable() and _place(given) == _place(ours)
    except ValueError:
        same = False
    return None if same else "must be the LiveKit server of this service"


def livekit_transport(room: Room) -> RoomTransport:
    """A transport into a LiveKit room; the token says which."""
    from pipecat.transports.livekit.transport import LiveKitParams, LiveKitTransport

    params = LiveKitParams(audio_in_enabled=True, audio_out_enabled=True, audio_in_user_tracks=True)
    token = "" if room.token is None else room.token.get_secret_value()
    transport = LiveKitTransport(room.url, token, room.name or "", params)
    return RoomTransport(transport, lost="on_disconnected")


class LiveKitRooms:
    """The rooms of one LiveKit server, each of which comes into being when somebody enters it."""

    def __init__(self, livekit: LiveKit) -> None:
        self._livekit = livekit

    def problems(self, transport: Transport) -> Iterator[FieldProblem]:
        """What keeps the bot out of a room that the caller names."""
        if transport.room_url is None:
            return
        if (problem := livekit_problem(transport.room_url, self._livekit.url)) is not None:
            yield FieldProblem("transport.room_url", problem)
        if transport.token is None:
            yield FieldProblem("transport.token", "is needed to enter a LiveKit room")

    def address(self, room_url: str) -> str:
        """Our server's URL, not as the caller spelt it."""
        return self._livekit.url

    async def open(self, name: str, until: datetime, lasts_until: datetime) -> Meeting:
        """A token for each of the two."""
        now = datetime.now(UTC)
        bot = self._livekit.token(name, BOT, now, lasts_until)
        caller = self._livekit.token(name, CALLER, now, until)
        return Meeting(Room(TRANSPORT.name, self._livekit.url, bot, name), caller)

    async def admit(self, name: str, lasts_until: datetime, *, again: bool) -> SecretStr:
        """A new token for the bot; who enters puts out another of the same name by entering."""
        return self._livekit.token(name, BOT, datetime.now(UTC), lasts_until)

    async def close(self, name: str) -> None:
        """Delete a room, with whoever is left in it."""
        await self._livekit.close(name)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._livekit.aclose()


def _livekit(settings: Mapping[str, str]) -> LiveKit:
    secret = SecretStr(settings["LIVEKIT_API_SECRET"])
    return LiveKit(settings["LIVEKIT_URL"], settings["LIVEKIT_API_KEY"], secret)


def _provider(settings: Mapping[str, str]) -> LiveKitRooms:
    return LiveKitRooms(_livekit(settings))


def _list_rooms(settings: Mapping[str, str]) -> httpx.Request:
    return _livekit(settings).key_request()


def _place(url: SplitResult) -> tuple[str, int]:
    """The host and port of a LiveKit URL; raises `ValueError` where it has none."""
    if url.scheme not in _PORTS or not url.hostname:
        raise ValueError("no URL of a server")
    return url.hostname, url.port or _PORTS[url.scheme]


TRANSPORT = RoomSpec(
    name="livekit",
    settings=("LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"),
    extra="livekit",
    modules=("livekit", "livekit.rtc", "tenacity"),
    connect_params=room_connect_params,
    pipecat_module="pipecat.transports.livekit.transport",
    transport=livekit_transport,
    provider=_provider,
    key_request=_list_rooms,
)
