"""Passing an answer on to the client, part by part as it comes, while its account is kept."""

from __future__ import annotations

from flow.gateway.attempts import Answered
from flow.gateway.client import ClientWatch, Send
from flow.gateway.headers import answer_headers
from flow.gateway.upstream import UpstreamFailed
from flow.metering.taps.answer import EVENT_ID_HEADER

MAX_DRAINED_BYTES = 16 * 1024 * 1024


async def relay(answered: Answered, watch: ClientWatch, send: Send) -> None:
    """Send the answer. Where the vendor breaks off, so does the answer, for the server to see that
    it is not whole; where the client has left, the rest is read for the account alone."""
    try:
        await _relay(answered, watch, send)
    finally:
        # Cancelled, or the server could not send.
        if answered.metered is not None:
            answered.metered.left()
        if answered.rest is not None:
            answered.rest.close()


async def _relay(answered: Answered, watch: ClientWatch, send: Send) -> None:
    metered = answered.metered
    headers = _headers(answered)
    if not watch.has_left:
        start = {"type": "http.response.start", "status": answered.status, "headers": headers}
        await watch.send(send, start)
        if answered.first:
            await watch.send(send, _part(answered.first))
    drained = 0
    if answered.rest is not None:
        try:
            while part := await answered.rest.part():
                if metered is not None:
                    metered.part(part)
                if not watch.has_left:
                    await watch.send(send, _part(part))
                    continue
                drained += len(part)
                if drained > MAX_DRAINED_BYTES:
                    return
        except UpstreamFailed as error:
            if metered is not None:
                metered.broke(str(error))
            return
    if metered is not None:
        metered.end(is_wanted=not watch.has_left)
    watch.stop()
    if not watch.has_left:
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _headers(answered: Answered) -> list[tuple[bytes, bytes]]:
    headers = answer_headers(answered.headers, answered.upstream.api_key)
    if answered.rest is None:  # of an error, whose end may have been left out
        headers = [pair for pair in headers if pair[0] != b"content-length"]
        headers.append((b"content-length", str(len(answered.first)).encode()))
    if answered.event_id is not None:
        headers.append((EVENT_ID_HEADER.encode(), str(answered.event_id).encode()))
    return headers


def _part(data: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": data, "more_body": True}
