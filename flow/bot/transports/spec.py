"""What a transport's file says: one spec, whose class is how a call begins over the transport.

`SocketSpec`: the caller opens a WebSocket. `OfferSpec`: the caller sends an SDP offer.
`MediaStreamSpec`: a telephone company asks a webhook, then opens a WebSocket. `RoomSpec`: the bot
waits in a room of a vendor's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

import httpx
from pipecat.serializers.base_serializer import FrameSerializer
from pipecat.transports.base_transport import BaseTransport

from flow.bot.transports.room import RoomTransport
from flow.domain.calls.media_stream import CallNews, CarriedCall, CarrierRequest, MediaStream
from flow.domain.calls.room import Room
from flow.domain.calls.transport_spec import TransportSpec
from flow.kit.installed import is_installed, requirement
from flow.vendors.dialler import Dialler
from flow.vendors.meeting_rooms import RoomProvider


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """Of a pipeline, in samples a second of 16-bit mono: what it hears, and what it says."""

    sample_rate_in: int = 16_000
    sample_rate_out: int = 24_000


SPEECH = AudioFormat()
"""What speech recognition takes, and what most voices give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BotTransportSpec(TransportSpec):
    """Every transport.

    Args:
        audio: the format of its pipelines; the transport converts what is on its wire.
        drops_when_interrupted: whether sound that has been sent and has not sounded is dropped when
            the caller interrupts. Where it is not, sound is sent no faster than it sounds.
        extra: the extra of Flow's package that it needs; ``None`` where nothing is needed.
        modules: the modules that the extra installs.
        key_request: of the values of the settings and options, a cheap request that tells whether
            they are good.
    """

    audio: AudioFormat = SPEECH
    drops_when_interrupted: bool = True
    extra: str | None = None
    modules: tuple[str, ...] = ()
    key_request: Callable[[Mapping[str, str]], httpx.Request] | None = None

    @property
    def missing(self) -> str | None:
        """What is not installed here and has to be, in words, or ``None``."""
        if self.extra is None or all(map(is_installed, self.modules)):
            return None
        return f"install {requirement(self.extra)}"


class SocketTransport(Protocol):
    """Makes a transport over a WebSocket."""

    def __call__(self, websocket: Any, *, rtvi: bool = False) -> BaseTransport:
        """The transport over ``websocket``, for an RTVI client or another."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketSpec(BotTransportSpec):
    """The caller opens the WebSocket ``/api/bot/{thread_id}/ws``.

    Args:
        transport: made of the accepted Starlette ``WebSocket``, and whether its client speaks RTVI.
    """

    transport: SocketTransport


class OfferedConnection(Protocol):
    """A connection that answers a caller's offers."""

    @property
    def answer(self) -> dict[str, Any]:
        """The answer to the latest offer."""
        ...

    def transport(self) -> BaseTransport:
        """The transport over this connection."""
        ...

    async def renegotiate(self, sdp: str, pc_id: str | None, *, restart: bool) -> dict[str, Any]:
        """Answer one more offer."""
        ...

    async def add_candidates(self, pc_id: str, candidates: Sequence[dict[str, Any]]) -> None:
        """Try these addresses of the caller too."""
        ...

    async def close(self) -> None:
        """Close the connection, whatever its state."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferSpec(BotTransportSpec):
    """The caller sends an SDP offer to ``/api/bot/{thread_id}/offer``.

    Args:
        answering: the connection that answers the offer ``sdp`` of a thread, or `InvalidInput`.
    """

    answering: Callable[[str, UUID], Awaitable[OfferedConnection]]


class Carrier(Protocol):
    """A telephone company, as its settings name an account."""

    @property
    def dialler(self) -> Dialler | None:
        """Places calls and moves them; ``None``: this carrier is only answered."""
        ...

    def call_of(self, request: CarrierRequest) -> CarriedCall:
        """The call that a webhook's request is about.

        Raises:
            Refused: code ``invalid_signature``: the request is not the company's.
            InvalidInput: it names no call.
        """
        ...

    def news_of(self, request: CarrierRequest) -> CallNews:
        """What the carrier says of a call by itself; raises as `call_of`."""
        ...

    async def hang_up(self, call_id: str) -> None:
        """End a call, or raise `Unavailable`."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaStreamSpec(BotTransportSpec):
    """A carrier asks the webhook of a call, is told to open a WebSocket, and says there which call
    it carries.

    The token of the stream travels in its first messages, since carriers strip queries. Both
    routes are below ``/api/bot/{thread_id}``: ``webhook``, and the transport's name.

    Args:
        webhook: the last part of the webhook's path.
        webhook_openapi: the parameters and body of the webhook's request, in words of OpenAPI.
        carrier: made of the values of the settings and options.
        document: what the webhook answers: XML that opens a stream at a URL with a token.
        bridge: XML that puts a call into a conference of a name, after saying a text in a language,
            if it is given one; ``None``: calls cannot be passed on.
        spoken: XML that says a text, in a language or the carrier's own, and ends the call.
        started: the stream that a first message begins; ``None`` for one that comes before it;
            raises `InvalidInput` for any other.
        serializer: reads and writes the messages of a stream; ``stop`` is to be called when the
            carrier says that the call is over.
    """

    webhook: str
    carrier: Callable[[Mapping[str, str]], Carrier]
    document: Callable[[str, str], bytes]
    spoken: Callable[[str, str | None], bytes]
    started: Callable[[str], MediaStream | None]
    serializer: Callable[[MediaStream, Callable[[], None]], FrameSerializer]
    webhook_openapi: Mapping[str, Any] = field(default_factory=dict)
    bridge: Callable[[str, str | None, str | None], bytes] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomSpec(BotTransportSpec):
    """The bot goes to a room right after the join, and waits there for its caller.

    Args:
        pipecat_module: what `transport` imports, which takes a second.
        transport: enters the room when its pipeline starts.
        provider: who opens and closes rooms, made of the values of the settings and options.
        enters_without_settings: whether a room that the caller names can be entered without them.
    """

    has_rooms: bool = True
    pipecat_module: str
    transport: Callable[[Room], RoomTransport]
    provider: Callable[[Mapping[str, str]], RoomProvider]
    enters_without_settings: bool = False
