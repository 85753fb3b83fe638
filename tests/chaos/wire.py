"""A client that need not keep to any protocol: bytes on a socket, and WebSocket frames by hand."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back before the other side closed, or before patience ran out.

    One that closes while more is sent to it resets the connection, and what it had answered may
    never be read.
    """

    raw: bytes
    closed: bool
    reset: bool = False

    @property
    def status(self) -> int | None:
        """The HTTP status, if that is what it begins with."""
        head = self.raw.split(b"\r\n", 1)[0].split()
        return int(head[1]) if len(head) > 1 and head[0].startswith(b"HTTP/") else None

    @property
    def body(self) -> bytes:
        """What follows the head."""
        return self.raw.partition(b"\r\n\r\n")[2]


class Wire:
    """A connection with nothing on top."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, data: bytes) -> bool:
        """Send it; false if the other side has closed."""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError:
            return False
        return not self._writer.is_closing()

    async def answer(self, within_secs: float, most: int | None = None) -> Answer:
        """All that comes until the other side closes, or for so long, or ``most`` bytes of it."""
        raw, closed, reset = b"", True, False
        try:
            async with asyncio.timeout(within_secs):
                while part := await self._reader.read(_next_read(raw, most)):
                    raw += part
        except TimeoutError:
            closed = False
        except ConnectionError:
            reset = True
        return Answer(raw, closed, reset)

    async def head(self, within_secs: float = 10.0) -> bytes:
        """The head of an HTTP answer, whole; nothing if none came."""
        with suppress(TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            async with asyncio.timeout(within_secs):
                return await self._reader.readuntil(b"\r\n\r\n")
        return b""

    def reset(self) -> None:
        """Vanish: the other side gets a reset, and no goodbye."""
        linger = struct.pack("ii", 1, 0)
        self._writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, linger
        )
        self._writer.transport.abort()

    def half_close(self) -> None:
        """Say that nothing more will be sent, and go on reading."""
        self._writer.write_eof()

    def stop_reading(self) -> None:
        """Read nothing more: what is sent to us stays in buffers, which fill."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]


def _next_read(raw: bytes, most: int | None) -> int:
    return 65_536 if most is None else most - len(raw)


@asynccontextmanager
async def connected(url: str, *, small: bool = False) -> AsyncIterator[Wire]:
    """A connection to the host of a URL; ``small`` gives it next to no buffer to receive in."""
    parts = urlsplit(url)
    raw = socket.socket()
    raw.setblocking(False)
    if small:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await asyncio.get_running_loop().sock_connect(raw, (parts.hostname, parts.port))
    limit = 4096 if small else 1 << 20
    reader, writer = await asyncio.open_connection(sock=raw, limit=limit)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


@asynccontextmanager
async def upgraded(
    url: str, headers: Mapping[str, str] | None = None, *, small: bool = False
) -> AsyncIterator[tuple[Wire, int]]:
    """A WebSocket whose frames are ours to make, and the status of its handshake."""
    async with connected(url, small=small) as wire:
        await wire.send(handshake(url, headers))
        head = await wire.head()
        yield wire, int(head.split()[1]) if head else 0


def handshake(url: str, headers: Mapping[str, str] | None = None) -> bytes:
    """The request that opens a WebSocket at a URL."""
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    fields = {
        "Host": parts.netloc,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
        **(headers or {}),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"GET {target} HTTP/1.1\r\n{lines}\r\n".encode()


def frame(
    payload: bytes,
    opcode: int = BINARY,
    *,
    final: bool = True,
    masked: bool = True,
    reserved: int = 0,
    claimed: int | None = None,
) -> bytes:
    """One WebSocket frame; ``claimed`` is the length it says it has, if that is to be a lie."""
    length = len(payload) if claimed is None else claimed
    first = (0x80 if final else 0) | (reserved << 4) | opcode
    mask_bit = 0x80 if masked else 0
    if length < 126:
        head = struct.pack("!BB", first, mask_bit | length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", first, mask_bit | 126, length)
    else:
        head = struct.pack("!BBQ", first, mask_bit | 127, length)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    repeated = mask * (len(payload) // 4 + 1)
    return head + mask + bytes(a ^ b for a, b in zip(payload, repeated, strict=False))
