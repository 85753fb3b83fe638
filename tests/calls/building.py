"""Rooms in memory, in place of Daily's and LiveKit's media: who is in one hears the others.

The bot comes in where the vendors' packages come in (`flow.bot.transports.room_packages`),
and a scripted caller by `Guest`, which is to its phone what a socket is elsewhere. Nobody enters
without a token that the vendor's stand-in takes for this room.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx
from pipecat.frames.frames import (
    CancelFrame,
    ClientConnectedFrame,
    EndFrame,
    InterruptionFrame,
    OutputAudioRawFrame,
    StartFrame,
    UserAudioRawFrame,
)
from pipecat.processors.frame_processor import FrameDirection
from pipecat.transports.base_input import BaseInputTransport
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import BaseTransport, TransportParams
from websockets.exceptions import ConnectionClosedOK

from flow.bot.transports.room import RoomTransport
from flow.domain.calls.room import Room
from flow.sandbox.callers.conversation import CallerEvent, Conversation
from flow.sandbox.callers.frames import Audio, Interruption, decode, encode
from flow.sandbox.callers.pipecat_phone import CHUNK_BYTES, SAMPLE_RATE, Phone
from tests.calls.conftest import SETTLE_SECS


class Vendor(Protocol):
    """A stand-in that knows its tokens."""

    def admits(self, token: str) -> dict[str, Any]: ...


@dataclass
class Building:
    """`flow.bot.transports.room_packages.RoomMedia` in memory.

    ``broken`` makes every room closed to the bot.

    ``entered`` keeps the rooms the bot was sent to, with its tokens.
    """

    vendor: Vendor
    absent: str | None = None
    broken: bool = False
    entered: list[Room] = field(default_factory=list)
    bots: dict[str, BotTransport] = field(default_factory=dict)
    guests: dict[str, dict[str, Guest]] = field(default_factory=dict)

    def missing(self, transport: str) -> str | None:
        return self.absent

    async def prepare(self, transport: str) -> None:
        return None

    def enter_room(self, room: Room) -> RoomTransport:
        return RoomTransport(BotTransport(self, room), lost="on_gone")

    def room_of(self, token: str) -> str:
        claims = self.vendor.admits(token)
        return str(claims["r"] if "r" in claims else claims["video"]["room"])

    async def let_bot_in(self, bot: BotTransport) -> None:
        self.entered.append(bot.room)
        if self.broken or bot.room.token is None:
            raise ConnectionError("the room cannot be entered")
        name = self.room_of(bot.room.token.get_secret_value())
        self.bots[name] = bot
        await bot.tell("on_connected")
        for user_id in list(self.guests.get(name, {})):
            await bot.came(user_id)

    async def enter(self, token: str, user_id: str = "caller") -> Guest:
        """Let somebody in, whether the bot is there or not."""
        guest = Guest(self, self.room_of(token), user_id)
        self.guests.setdefault(guest.room, {})[user_id] = guest
        if guest.room in self.bots:
            await self.bots[guest.room].came(user_id)
        return guest

    async def leave(self, guest: Guest) -> None:
        if self.guests[guest.room].pop(guest.user_id, None) and guest.room in self.bots:
            await self.bots[guest.room].left(guest.user_id)

    async def arrived(self, name: str) -> BotTransport:
        async with asyncio.timeout(SETTLE_SECS):
            while name not in self.bots:
                await asyncio.sleep(0.02)
        return self.bots[name]


class Guest:
    """Somebody in a room; to a `Phone` it is a socket."""

    close_code, close_reason = 1000, ""

    def __init__(self, building: Building, room: str, user_id: str) -> None:
        self.building, self.room, self.user_id = building, room, user_id
        self._heard: asyncio.Queue[bytes | None] = asyncio.Queue()

    @property
    def transport(self) -> Guest:
        return self

    async def send(self, wire: bytes) -> None:
        if self.user_id not in self.building.guests[self.room]:
            raise ConnectionClosedOK(None, None)
        sound = decode(wire)
        assert isinstance(sound, Audio)
        if (bot := self.building.bots.get(self.room)) is not None:
            await bot.hear(self.user_id, sound)

    def hear(self, wire: bytes | None) -> None:
        self._heard.put_nowait(wire)

    async def close(self) -> None:
        await self.building.leave(self)
        self.hear(None)

    def abort(self) -> None:
        self._closing = asyncio.ensure_future(self.close())

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (wire := await self._heard.get()) is not None:
            yield wire


class BotTransport(BaseTransport):
    """The bot's side of a room, with the events that Daily's and LiveKit's have."""

    def __init__(self, building: Building, room: Room) -> None:
        super().__init__()
        self.building, self.room = building, room
        self.listens = False
        self._in = _Ears(self)
        self._out = _Mouth(self)
        for event in ("on_connected", "on_client_connected", "on_client_disconnected", "on_gone"):
            self._register_event_handler(event)

    def input(self) -> BaseInputTransport:
        return self._in

    def output(self) -> BaseOutputTransport:
        return self._out

    def get_client_id(self, client: Any) -> str:
        return str(client["id"])

    async def tell(self, event: str, *args: Any) -> None:
        await self._call_event_handler(event, *args)

    async def came(self, user_id: str) -> None:
        await self.tell("on_client_connected", {"id": user_id})
        await self._in.push_frame(ClientConnectedFrame())

    async def left(self, user_id: str) -> None:
        await self.tell("on_client_disconnected", {"id": user_id})

    async def hear(self, user_id: str, sound: Audio) -> None:
        if not self.listens:
            return
        frame = UserAudioRawFrame(
            user_id=user_id, audio=sound.pcm16, sample_rate=sound.sample_rate, num_channels=1
        )
        await self._in.push_audio_frame(frame)

    def say(self, wire: bytes) -> None:
        for name, bot in self.building.bots.items():
            if bot is self:
                for guest in self.building.guests.get(name, {}).values():
                    guest.hear(wire)

    async def go(self) -> None:
        """Leave the room; whoever is in it hears nothing more."""
        for name, bot in list(self.building.bots.items()):
            if bot is self:
                del self.building.bots[name]
                for guest in self.building.guests.pop(name, {}).values():
                    guest.hear(None)
                self.building.guests[name] = {}


class _Ears(BaseInputTransport):
    def __init__(self, transport: BotTransport) -> None:
        super().__init__(TransportParams(audio_in_enabled=True))
        self._transport = transport

    async def setup(self, setup: Any) -> None:
        await super().setup(setup)
        await self._transport.building.let_bot_in(self._transport)

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)
        self._transport.listens = True

    async def stop(self, frame: EndFrame) -> None:
        await super().stop(frame)
        await self._transport.go()

    async def cancel(self, frame: CancelFrame) -> None:
        await super().cancel(frame)
        await self._transport.go()


class _Mouth(BaseOutputTransport):
    def __init__(self, transport: BotTransport) -> None:
        super().__init__(TransportParams(audio_out_enabled=True))
        self._transport = transport
        self._due = 0.0

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def process_frame(self, frame: Any, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InterruptionFrame):
            self._transport.say(encode(Interruption()))

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        self._transport.say(encode(Audio(frame.audio, frame.sample_rate)))
        seconds = len(frame.audio) / (2 * frame.sample_rate)
        now = asyncio.get_running_loop().time()
        self._due = max(self._due, now) + seconds
        await asyncio.sleep(self._due - now)
        return True


@dataclass(frozen=True, slots=True)
class ByRoom:
    """A room as a `flow.sandbox.callers.caller.Carrier`."""

    building: Building
    transport: str
    sample_rate: int = SAMPLE_RATE
    chunk_bytes: int = CHUNK_BYTES

    @asynccontextmanager
    async def phone(
        self,
        http: httpx.AsyncClient,
        connection: Mapping[str, Any],
        conversation: Conversation,
        on_event: Callable[[CallerEvent], None],
    ) -> AsyncIterator[Phone]:
        guest: Any = await self.building.enter(connection["token"])
        await self.building.arrived(connection["room"])
        async with Phone(guest, conversation, on_event) as phone:
            yield phone
