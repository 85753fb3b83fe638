"""A room as the transport of a call: with whom the bot talks there. The same for every vendor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipecat.frames.frames import InputAudioRawFrame, InputTransportMessageFrame
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transports.base_input import BaseInputTransport
from pipecat.transports.base_transport import BaseTransport

BOT_NAME = "Flow"


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
            _take_messages(self._input, self._is_caller)
        return self._input

    def output(self) -> FrameProcessor:
        """What speaks to the room."""
        return self._room.output()

    def _is_of_caller(self, frame: InputAudioRawFrame) -> bool:
        return self._is_caller(getattr(frame, "user_id", None))

    def _is_caller(self, participant: str | None) -> bool:
        return self._caller is not None and participant == self._caller

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


def room_connect_params(way: Mapping[str, str]) -> dict[str, Any]:
    """What ``connect()`` of Pipecat's clients takes for a room."""
    return {name: way[name] for name in ("url", "token") if name in way}


def _listen_only(source: BaseInputTransport, wanted: Callable[[InputAudioRawFrame], bool]) -> None:
    """Let through the audio frames that are ``wanted``.

    In the transport itself: one more processor would cost every frame one more hop.
    """
    push = source.push_audio_frame

    async def push_wanted(frame: InputAudioRawFrame) -> None:
        if wanted(frame):
            await push(frame)

    source.push_audio_frame = push_wanted  # type: ignore[method-assign]


def _take_messages(source: BaseInputTransport, is_caller: Callable[[str | None], bool]) -> None:
    """Hand the caller's messages up to what speaks RTVI, where anything does, and to nobody else.

    Pipecat's own inputs send every participant's down the pipeline too.
    """

    async def push_of_caller(message: Any, sender: str | None) -> None:
        if is_caller(sender):
            frame = InputTransportMessageFrame(message=message)
            await source.push_frame(frame, FrameDirection.UPSTREAM)

    source.push_app_message = push_of_caller  # type: ignore[attr-defined]
