"""A room as the transport of a call: with whom the bot talks there, and how it gets in.

`RoomTransport` is the same for every vendor. What the vendors' own packages do is behind `Media`,
and imported only when a room is entered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

import structlog
from pipecat.frames.frames import InputAudioRawFrame
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.transports.base_input import BaseInputTransport
from pipecat.transports.base_transport import BaseTransport

from flow.domain.calls.room import Room, RoomType

log = structlog.get_logger(__name__)

BOT_NAME = "Flow"
_NEEDED: Mapping[RoomType, tuple[str, ...]] = {
    "daily": ("daily",),
    "livekit": ("livekit", "livekit.rtc", "tenacity"),
}


class RoomTransport(BaseTransport):
    """A vendor's transport, narrowed to a call of two: the bot and the first who comes.

    It says ``on_client_connected`` and ``on_client_disconnected`` of that one caller, and hears
    nobody else: the voices of two people in one stream are no speech. ``on_lost`` says that the
    bot did not get into the room, or is no longer in it.

    Args:
        room: the vendor's transport; its audio frames name who speaks (``user_id``).
        lost: the vendor's event for that.
    """

    def __init__(self, room: BaseTransport, *, lost: str) -> None:
        super().__init__()
        self.entered = False
        self._room = room
        self._caller: str | None = None
        self._input: FrameProcessor | None = None
        for event in ("on_client_connected", "on_client_disconnected", "on_lost"):
            self._register_event_handler(event)
        room.add_event_handler("on_connected", self._on_entered)
        room.add_event_handler("on_client_connected", self._on_came)
        room.add_event_handler("on_client_disconnected", self._on_left)
        room.add_event_handler(lost, self._on_lost)

    def input(self) -> FrameProcessor:
        """What hears the caller."""
        if self._input is None:
            self._input = self._room.input()
            assert isinstance(self._input, BaseInputTransport)
            _listen_only(self._input, self._is_of_caller)
        return self._input

    def output(self) -> FrameProcessor:
        """What speaks to the room."""
        return self._room.output()

    def _is_of_caller(self, frame: InputAudioRawFrame) -> bool:
        return self._caller is not None and getattr(frame, "user_id", None) == self._caller

    async def _on_entered(self, *_: Any) -> None:
        self.entered = True

    async def _on_came(self, _: BaseTransport, client: Any) -> None:
        if self._caller is None:
            self._caller = self._room.get_client_id(client)
            await self._call_event_handler("on_client_connected", client)

    async def _on_left(self, _: BaseTransport, client: Any) -> None:
        if self._room.get_client_id(client) == self._caller:
            await self._call_event_handler("on_client_disconnected", client)

    async def _on_lost(self, *_: Any) -> None:
        await self._call_event_handler("on_lost")


class Media(Protocol):
    """What carries sound into a room and out of it."""

    def missing(self, kind: RoomType) -> str | None:
        """What is not installed here and has to be, in words, or ``None``."""
        ...

    async def prepare(self, kind: RoomType) -> None:
        """Make `transport` quick."""
        ...

    def transport(self, room: Room) -> RoomTransport:
        """A transport that enters the room when its pipeline starts."""
        ...


class VendorMedia:
    """The packages of Daily and LiveKit."""

    def missing(self, kind: RoomType) -> str | None:
        """The extra of Flow's package that has to be installed, or ``None``."""
        if all(_is_installed(module) for module in _NEEDED[kind]):
            return None
        return f"install flow[{kind}]"

    async def prepare(self, kind: RoomType) -> None:
        """Import the vendor's package, which takes a second, so in a thread."""
        await asyncio.to_thread(import_module, f"pipecat.transports.{kind}.transport")

    def transport(self, room: Room) -> RoomTransport:
        """A transport that enters the room when its pipeline starts."""
        return daily_transport(room) if room.type == "daily" else livekit_transport(room)


def daily_transport(room: Room) -> RoomTransport:
    """A transport into a Daily room.

    Each speaker has a stream of their own. Daily's other way, one stream of the whole room, goes
    through a loudspeaker that all calls of a process share.
    """
    from pipecat.transports.daily.transport import DailyParams, DailyTransport

    params = DailyParams(audio_in_enabled=True, audio_out_enabled=True, audio_in_user_tracks=True)
    transport = DailyTransport(room.url, _plain(room), BOT_NAME, params)
    return RoomTransport(transport, lost="on_error")


def livekit_transport(room: Room) -> RoomTransport:
    """A transport into a LiveKit room; the token says which."""
    from pipecat.transports.livekit.transport import LiveKitParams, LiveKitTransport

    params = LiveKitParams(audio_in_enabled=True, audio_out_enabled=True, audio_in_user_tracks=True)
    transport = LiveKitTransport(room.url, _plain(room) or "", room.name or "", params)
    return RoomTransport(transport, lost="on_disconnected")


def _plain(room: Room) -> str | None:
    return None if room.token is None else room.token.get_secret_value()


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _listen_only(source: BaseInputTransport, wanted: Any) -> None:
    """Let through the audio frames that are ``wanted``.

    In the transport itself: one more processor would cost every frame one more hop.
    """
    push = source.push_audio_frame

    async def push_wanted(frame: InputAudioRawFrame) -> None:
        if wanted(frame):
            await push(frame)

    source.push_audio_frame = push_wanted  # type: ignore[method-assign]
