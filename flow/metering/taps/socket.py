"""A tap on WebSockets: every connection that a service makes is read on its way, both ways.

`SocketTap` knows nothing of how a connection is made. `metered_connection` puts it on connections
of the package websockets, which hands over each message as it arrives, whoever still reads;
`MeteredSocket` on any other that a client has made by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.protocol import Event, State

from flow.domain.usage.events import Failure
from flow.metering.evidence import NOTHING, Ended, Opening
from flow.metering.meter import Meter
from flow.metering.request import MeteredRequest
from flow.metering.taps.answer import error_name
from flow.metering.wires.socket import (
    Begun,
    Closing,
    Interruptible,
    Message,
    Over,
    Refused,
    Seen,
    Shown,
    SocketReader,
    SocketWire,
    Work,
)

log = structlog.get_logger(__name__)

REPORT_SECS = 2.0
"""How long a close waits for the vendor's last report."""


class SocketTap:
    """Meters the connections of one service.

    Args:
        meter: counts their work.
        wire: makes the reader of each.
        asked_for: the model that was meant, where it is not the one that is asked.
    """

    def __init__(self, meter: Meter, wire: SocketWire, *, asked_for: str | None = None) -> None:
        self._meter = meter
        self._wire = wire
        self._asked_for = asked_for
        self._open: set[Conversation] = set()

    def opened(self, url: str) -> Conversation:
        """A connection has been made."""
        conversation = Conversation(
            self._meter, self._wire(url), self._open.discard, asked_for=self._asked_for
        )
        self._open.add(conversation)
        return conversation

    def refused(self, error: Exception) -> None:
        """A connection could not be made: an attempt that no vendor bills."""
        status = _status_of(error)
        name = type(error).__name__ if status is None else error_name(status)
        message = name if status is None else f"HTTP {status}"
        work = self._meter.open(Opening(estimate=NOTHING))
        work.closed(Ended.REFUSED, Failure(name, message, status))

    def abandoned(self, work: Work) -> None:
        """The caller has interrupted a piece of work, by its reader's name of it."""
        for conversation in list(self._open):
            conversation.abandoned(work)

    def finish(self) -> None:
        """The call is over: count what is still under way on connections that nobody closed."""
        for conversation in list(self._open):
            conversation.closed(None, by_us=True)


class Conversation:
    """What goes over one connection, as its reader sees it."""

    def __init__(
        self,
        meter: Meter,
        reader: SocketReader,
        on_closed: Callable[[Conversation], None],
        *,
        asked_for: str | None = None,
    ) -> None:
        self._meter = meter
        self._asked_for = asked_for
        self._reader = reader
        self._on_closed = on_closed
        self._works: dict[Work, MeteredRequest] = {}
        self._is_closed = False
        self._is_misread = False
        self._changed = asyncio.Event()

    def sent(self, message: Message) -> None:
        """A whole message goes to the vendor."""
        self._take(lambda: self._reader.sent(message))

    def received(self, message: Message) -> None:
        """A whole message has come from the vendor."""
        self._take(lambda: self._reader.received(message))
        self._changed.set()

    def abandoned(self, work: Work) -> None:
        """Nobody wants the rest of a piece of work."""
        reader = self._reader
        if isinstance(reader, Interruptible):
            self._take(lambda: reader.abandoned(work))

    def closed(self, code: int | None, *, by_us: bool) -> None:
        """The connection has ended; only the first call counts."""
        if self._is_closed:
            return
        closing = Closing(code, by_us)
        self._take(lambda: self._reader.closed(closing))
        self._is_closed = True
        for work in self._works.values():
            if closing.is_clean:
                work.closed(Ended.ABANDONED)
            else:
                told = "without a word" if code is None else f"with code {code}"
                work.closed(Ended.BROKEN, Failure("ConnectionClosed", f"it was closed {told}"))
        self._works.clear()
        self._changed.set()
        self._on_closed(self)

    async def reported(self) -> None:
        """Wait, but not for long, until the vendor has given its account of the work."""
        try:
            async with asyncio.timeout(REPORT_SECS):
                while self._reader.expects_report and not self._is_closed:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            log.warning("report_missing", reader=type(self._reader).__name__)

    def _take(self, read: Callable[[], Iterable[Seen]]) -> None:
        if self._is_closed:  # What went over it is on record: nothing new may begin.
            return
        try:
            for seen in read():
                self._handle(seen)
        except Exception:
            # What a reader cannot stand must not break the call. Open work is estimated then; work
            # that it would have begun is in no account, which must be on record.
            log.exception("reader_failed", reader=type(self._reader).__name__)
            if not self._is_misread:
                self._is_misread = True
                self._meter.report_unmetered()

    def _handle(self, seen: Seen) -> None:
        match seen:
            case Begun():
                self._begin(seen)
            case Shown() if seen.work in self._works:
                self._works[seen.work].take(seen.evidence)
            case Over() if seen.work in self._works:
                self._works.pop(seen.work).closed(seen.ended, seen.failure)
            case Refused():
                self._meter.open(Opening(estimate=NOTHING)).closed(Ended.REFUSED, seen.failure)

    def _begin(self, seen: Begun) -> None:
        if seen.work in self._works:
            self._works.pop(seen.work).closed(Ended.ABANDONED)
        meant = self._asked_for if seen.opening.kind is None else None
        self._works[seen.work] = work = self._meter.open(seen.opening, asked_for=meant)
        # The vendor took the connection, and with it what is sent there.
        work.answered()


def metered_connection(
    kind: type[ClientConnection], tap: SocketTap, url: str
) -> type[ClientConnection]:
    """What ``websockets.connect`` takes as ``create_connection``: connections of ``kind`` to
    ``url`` that show the tap all that goes over them."""

    class MeteredConnection(kind):  # type: ignore[valid-type, misc]
        """Reads along, also when nobody receives any more."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self._conversation: Conversation | None = None
            self._parts: list[bytes] = []
            self._is_text = False
            self._is_left = False

        async def send(self, message: Any, *args: Any, **options: Any) -> None:
            is_open = self.protocol.state is State.OPEN
            if is_open and self._conversation is not None:
                _show_sent(self._conversation, message)
            await super().send(message, *args, **options)

        async def close(self, *args: Any, **options: Any) -> None:
            # Before the wait: the vendor may be the first to close, with its report.
            self._is_left = self._is_left or self.protocol.state is State.OPEN
            async with _read_on(self):
                if self._is_left and self._conversation is not None:
                    await self._conversation.reported()
                await super().close(*args, **options)

        async def wait_closed(self) -> None:
            async with _read_on(self):
                await super().wait_closed()

        def process_event(self, event: Event) -> None:
            if isinstance(event, Frame):
                self._frame(event)
            elif self.protocol.handshake_exc is None:
                # The answer to the handshake; messages may have come together with it.
                self._conversation = tap.opened(url)
            super().process_event(event)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            told = self.protocol.close_rcvd
            by_us = self._is_left or self.protocol.close_rcvd_then_sent is False
            if self._conversation is not None:
                self._conversation.closed(None if told is None else told.code, by_us=by_us)

        def _frame(self, frame: Frame) -> None:
            if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                return
            if frame.opcode is not Opcode.CONT:
                self._parts, self._is_text = [], frame.opcode is Opcode.TEXT
            self._parts.append(bytes(frame.data))
            if not frame.fin or self._conversation is None:
                return
            whole = b"".join(self._parts)
            self._parts = []
            self._conversation.received(
                whole.decode("utf-8", "replace") if self._is_text else whole
            )

    return MeteredConnection


class MeteredSocket:
    """A connection that a client has made by itself, with the same verbs.

    It sees what is received through it: whoever stops receiving must close it soon, which reads
    on until the vendor has given its account of the work.
    """

    def __init__(self, socket: Any, conversation: Conversation) -> None:
        self._socket = socket
        self._conversation = conversation
        self._is_left = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    async def send(self, message: Any, *args: Any, **options: Any) -> None:
        """Send a message."""
        _show_sent(self._conversation, message)
        await self._socket.send(message, *args, **options)

    async def recv(self, *args: Any, **options: Any) -> Any:
        """Receive a message."""
        try:
            message = await self._socket.recv(*args, **options)
        except Exception as error:
            self._lost(error)
            raise
        self._conversation.received(message)
        return message

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            async for message in self._socket:
                self._conversation.received(message)
                yield message
        except Exception as error:
            self._lost(error)
            raise
        self._lost(None)

    async def close(self, *args: Any, **options: Any) -> None:
        """Close the connection, once the vendor has given its account of the work."""
        self._is_left = True
        async with _read_on(self):
            await self._conversation.reported()
        try:
            await self._socket.close(*args, **options)
        finally:
            self._conversation.closed(None, by_us=True)

    def _lost(self, error: Exception | None) -> None:
        if error is not None and not isinstance(error, ConnectionClosed):
            return
        code = getattr(getattr(error, "rcvd", None), "code", None) if error else 1000
        self._conversation.closed(code, by_us=self._is_left)


@asynccontextmanager
async def _read_on(socket: Any) -> AsyncIterator[None]:
    """Receive what nobody receives any more, as long as the block lasts.

    With some messages waiting, a connection stops reading, and so does not see that the vendor
    reports and closes.
    """
    reading = asyncio.create_task(_receive_all(socket))
    try:
        yield
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _receive_all(socket: Any) -> None:
    with suppress(Exception):  # its end; or somebody else is receiving still
        while True:
            await socket.recv()


def _status_of(error: Exception) -> int | None:
    """The status of the answer that refused a handshake: websockets' error has the answer, those of
    vendors' SDKs have the status."""
    if isinstance(error, InvalidStatus):
        return error.response.status_code
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) else None


def _show_sent(conversation: Conversation, message: Any) -> None:
    """Show what a client sends, which may be any kind of bytes."""
    if isinstance(message, bytes | bytearray | memoryview):
        conversation.sent(bytes(message))
    elif isinstance(message, str):
        conversation.sent(message)
