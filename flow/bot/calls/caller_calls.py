"""How callers connect: a class for each way in which a call begins but for rooms.

Each makes a `CallerConnection` of what the API was given, and has the `CallManager` run the call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol
from uuid import UUID

import structlog
from pipecat.transports.base_transport import BaseTransport

from flow.bot.calls.lease import CallerConnection
from flow.bot.calls.phone_line import CarrierLines, Legs, PhoneLine
from flow.bot.transports.media_stream import media_stream_transport
from flow.bot.transports.spec import (
    Carrier,
    MediaStreamSpec,
    OfferedConnection,
    OfferSpec,
    SocketSpec,
)
from flow.domain.calls.close_codes import close_of
from flow.domain.calls.ending import Ending, EndReason
from flow.domain.calls.media_stream import CallNews, CarriedCall, CarrierRequest, MediaStream
from flow.domain.calls.phone_call import Voicemail, caller_leg
from flow.domain.calls.spoken import voice_language
from flow.domain.calls.thread import Thread
from flow.errors import NotFound, Unavailable
from flow.vendors.dialler import Dialler

log = structlog.get_logger(__name__)


class Manager(Protocol):
    """Who runs calls: see `flow.bot.calls.call_manager.CallManager`."""

    async def run(self, thread: Thread, connection: CallerConnection) -> Ending:
        """Run the thread's call over this connection to its end."""
        ...

    async def start(self, thread: Thread, connection: CallerConnection) -> None:
        """Open the connection; the call goes on by itself."""
        ...


PRICE_AFTER_SECS = 5.0
"""After the end of a call, when its carrier is first asked for the price."""

# A machine that is to be left a message is still being told it.
_LEFT_TO_THE_CARRIER = frozenset({EndReason.CALLER_HUNG_UP, EndReason.VOICEMAIL})

EndingOf = Callable[[], Ending | None]


class CallSocket:
    """An accepted WebSocket that tells its caller why the call ended when it is closed.

    Args:
        websocket: of Starlette.
        ending: why the call ends, asked when the socket is closed.
    """

    def __init__(self, websocket: Any, ending: EndingOf) -> None:
        self._websocket = websocket
        self._ending = ending

    def __getattr__(self, name: str) -> Any:
        return getattr(self._websocket, name)

    async def close(self, code: int = 1000, reason: str | None = None) -> None:
        """Close it, whatever code and reason whoever closes it would give."""
        await self._websocket.close(*close_of(self._ending()))


class SocketCalls:
    """Calls over a WebSocket that the caller opens."""

    def __init__(self, spec: SocketSpec, manager: Manager) -> None:
        self._spec = spec
        self._manager = manager

    async def run(self, thread: Thread, websocket: Any) -> None:
        """Accept ``websocket`` and run the thread's call over it to its end.

        Raises:
            Refused, Conflict: as for `CallManager.run`.
        """

        async def accepted(ending: EndingOf) -> BaseTransport:
            await websocket.accept()
            speaks_rtvi = thread.join.transport.rtvi is not None
            return self._spec.transport(CallSocket(websocket, ending), rtvi=speaks_rtvi)

        connection = CallerConnection(accepted, _caller_is_gone, _nothing_left)
        await _make_sure_closed(websocket, await self._manager.run(thread, connection))


class OfferCalls:
    """Calls over a connection that answers the caller's SDP offers."""

    def __init__(self, spec: OfferSpec, manager: Manager) -> None:
        self._spec = spec
        self._manager = manager
        self._connections: dict[UUID, OfferedConnection] = {}

    async def offer(self, thread: Thread, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answer an offer ``{"sdp", "pc_id"?, "restart_pc"?}`` and start the call.

        A later offer with the ``pc_id`` of the running connection renegotiates it. A first
        offer that cannot be answered fails the thread, which is claimed by then.

        Raises:
            InvalidInput: the offer cannot be answered.
            Refused, Conflict: as for `CallManager.run`.
        """
        if (connected := self._connections.get(thread.id)) is not None:
            restart = bool(request.get("restart_pc"))
            return await connected.renegotiate(
                request["sdp"], request.get("pc_id"), restart=restart
            )
        answers: list[dict[str, Any]] = []

        async def answered(_: EndingOf) -> BaseTransport:
            made = await self._spec.answering(request["sdp"], thread.id)
            self._connections[thread.id] = made
            answers.append(made.answer)
            return made.transport()

        async def close(_: Ending) -> None:
            # The transport closes only a connection that was made.
            if (made := self._connections.pop(thread.id, None)) is not None:
                await made.close()

        await self._manager.start(thread, CallerConnection(answered, _bad_offer, close))
        return answers[0]

    async def ice(self, thread_id: UUID, request: Mapping[str, Any]) -> None:
        """Take trickled candidates ``{"pc_id", "candidates": [...]}`` of a running call.

        Raises:
            InvalidInput: they cannot be read.
            NotFound: no such connection is here.
        """
        if (connected := self._connections.get(thread_id)) is None:
            raise NotFound("This call has no WebRTC connection here.")
        await connected.add_candidates(request["pc_id"], request["candidates"])


class MediaStreamCalls:
    """Telephone calls over the media streams of a carrier."""

    def __init__(
        self,
        spec: MediaStreamSpec,
        carrier: Carrier,
        manager: Manager,
        legs: Legs,
        dial_prefixes: Sequence[str] = (),
    ) -> None:
        self._legs = legs
        self._lines = CarrierLines(spec.name, carrier.dialler, legs, spec.bridge, dial_prefixes)
        self._spec = spec
        self._carrier = carrier
        self._manager = manager
        self.name = spec.name
        self.webhook = spec.webhook
        self.webhook_openapi = spec.webhook_openapi

    @property
    def dialler(self) -> Dialler | None:
        """Places calls and moves them; ``None``: the carrier is only answered."""
        return self._carrier.dialler

    def call_of(self, request: CarrierRequest) -> CarriedCall:
        """The call that a webhook's request is about; raises as `Carrier.call_of`."""
        return self._carrier.call_of(request)

    def news_of(self, request: CarrierRequest) -> CallNews:
        """What the carrier says of a call by itself; raises as `Carrier.call_of`."""
        return self._carrier.news_of(request)

    async def hang_up(self, call_id: str) -> None:
        """End a call, or raise `Unavailable`."""
        await self._carrier.hang_up(call_id)

    def spoken(self, text: str, language: str | None) -> bytes:
        """XML that has the carrier say a text and end the call."""
        return self._spec.spoken(text, voice_language(language))

    def document(self, stream_url: str, token: str) -> bytes:
        """XML that has the carrier open a stream, which says the token."""
        return self._spec.document(stream_url, token)

    def started(self, text: str) -> MediaStream | None:
        """The stream that a first message begins, ``None`` for one before it, or `InvalidInput`."""
        return self._spec.started(text)

    async def run(self, thread: Thread, websocket: Any, stream: MediaStream) -> None:
        """Run the thread's telephone call over the accepted ``websocket`` of its media stream.

        Raises:
            Refused, Conflict: as for `CallManager.run`.
        """

        made: list[BaseTransport] = []
        line = PhoneLine(self._lines, thread, stream.call_id, lambda: made[0] if made else None)

        async def started(ending: EndingOf) -> BaseTransport:
            socket = CallSocket(websocket, ending)
            made.append(media_stream_transport(self._spec, socket, stream))
            return made[0]

        async def hang_up(ending: Ending) -> None:
            if ending.reason not in _LEFT_TO_THE_CARRIER and not line.is_transferred:
                try:
                    await self._carrier.hang_up(stream.call_id)
                except Unavailable as error:
                    thread_id = str(thread.id)
                    log.warning("hang_up_failed", workflow_thread_id=thread_id, error=str(error))
            with suppress(Unavailable):
                await self._legs.note(caller_leg(thread.id), due_secs=PRICE_AFTER_SECS)

        connection = CallerConnection(
            started,
            _caller_is_gone,
            hang_up,
            explain=partial(self._explained, thread),
            control=line,
        )
        await _make_sure_closed(websocket, await self._manager.run(thread, connection))

    async def _explained(self, thread: Thread, ending: Ending) -> Ending:
        """Why a call ended whose stream its carrier has closed: not only callers do that.

        What moved the call away may have been asked of another process.
        """
        if ending.reason is not EndReason.CALLER_HUNG_UP:
            return ending
        try:
            leg = await self._legs.get(caller_leg(thread.id))
        except Unavailable:
            return ending
        if leg is None:
            return ending
        if leg.transferred_at is not None:
            return Ending(EndReason.TRANSFERRED)
        if leg.is_at_a_machine and thread.join.transport.voicemail is not Voicemail.TALK:
            return Ending(EndReason.VOICEMAIL)
        return ending


async def _make_sure_closed(websocket: Any, ending: Ending) -> None:
    """Close the socket of a call whose pipeline could not be made, or did not close it."""
    with suppress(Exception):  # the caller has closed it meanwhile
        if websocket.application_state.name == "CONNECTED":
            await websocket.close(*close_of(ending))


async def _nothing_left(_: Ending) -> None:
    """The transport has closed the connection."""


def _caller_is_gone(_: BaseException) -> Ending:
    return Ending(EndReason.CALLER_HUNG_UP)


def _bad_offer(error: BaseException) -> Ending:
    return Ending.failure("bad_offer", str(error) or type(error).__name__)
