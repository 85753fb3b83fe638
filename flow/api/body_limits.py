"""How much a request may send before anything of it is believed."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flow.api.request_context import context_of
from flow.errors import Refused

MAX_BODY_BYTES = 256 * 1024
# What Anthropic takes (its API reference, "Request size limits"), and more than OpenAI's 25 MB of
# sound: images and documents stand in a request as text.
MAX_GATEWAY_BODY_BYTES = 32 * 1024 * 1024
MAX_HEADERS = 64
MAX_HEADER_BYTES = 16 * 1024
BODY_SECS = 15.0
GATEWAY_BODY_SECS = 120.0


class RequestSize:
    """Refuses oversized headers, oversized bodies and bodies that never arrive.

    The body is counted as it streams in, whatever ``Content-Length`` claims.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; raises `Refused` from here or from its reading of the body."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        is_large = context_of(scope).protocol is not None
        most = MAX_GATEWAY_BODY_BYTES if is_large else MAX_BODY_BYTES
        _check_headers(scope["headers"], most)
        if scope["type"] == "http":
            receive = _Counted(receive, most, GATEWAY_BODY_SECS if is_large else BODY_SECS)
        await self._app(scope, receive, send)


class _Counted:
    """A ``receive`` that gives up on a body too large or too slow."""

    def __init__(self, receive: Receive, most_bytes: int, secs: float) -> None:
        self._receive = receive
        self._most_bytes = most_bytes
        self._secs = secs
        self._bytes = 0
        self._whole = False
        self._deadline: float | None = None

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + self._secs
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise Refused("request_timeout", "The request body took too long to arrive.") from None
        if message["type"] == "http.request":
            self._count(message)
        return message

    def _count(self, message: Message) -> None:
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._most_bytes:
            raise _too_large(self._most_bytes)
        self._whole = not message.get("more_body", False)


def _check_headers(headers: list[tuple[bytes, bytes]], most_body: int) -> None:
    size = sum(len(name) + len(value) for name, value in headers)
    if len(headers) > MAX_HEADERS or size > MAX_HEADER_BYTES:
        raise Refused(
            "headers_too_large",
            f"At most {MAX_HEADERS} header lines of {MAX_HEADER_BYTES} bytes in all are taken.",
        )
    for name, value in headers:
        if name == b"content-length" and value.isdigit() and _exceeds(value, most_body):
            raise _too_large(most_body)


def _exceeds(content_length: bytes, most: int) -> bool:
    digits = content_length.lstrip(b"0")
    return len(digits) > 9 or int(digits or b"0") > most


def _too_large(most: int) -> Refused:
    return Refused("payload_too_large", f"At most {most} bytes of body are taken.")
