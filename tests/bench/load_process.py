"""A load generator: it must cost little beside what it measures, so it speaks HTTP itself.

Its task: ``port``, ``requests`` (whole HTTP requests as text, sent in turn), ``connections``
and ``secs``. Each connection sends a request when it has the answer to the one before.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from itertools import cycle
from typing import cast

import uvloop

from tests.bench.measure import percentile
from tests.bench.processes import say, task_given

_LAST = b"0\r\n\r\n"  # of a chunked body
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Load:
    """What all connections send, and what came of it."""

    def __init__(self, requests: list[bytes], until: float) -> None:
        self.requests = cycle(requests)
        self.until = until
        self.latencies: list[float] = []
        self.first_bytes: list[float] = []
        self.statuses: Counter[str] = Counter()


class Connection(asyncio.Protocol):
    """One connection with one request under way."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._received = b""
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        """Over, for whatever reason."""
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Take in an answer; send the next request when it is whole."""
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        now = time.perf_counter()
        if body and self._is_silent:
            self._is_silent = False
            self._load.first_bytes.append(now - self._sent)
        is_whole = body.endswith(_LAST) if length is None else len(body) >= int(length[1])
        if not separator or not is_whole:
            return
        self._load.latencies.append(now - self._sent)
        self._load.statuses[head[9:12].decode()] += 1
        if now < self._load.until:
            self._send()
        else:
            self._transport.close()

    def _send(self) -> None:
        self._received = b""
        self._is_silent = True
        self._sent = time.perf_counter()
        self._transport.write(next(self._load.requests))


async def main() -> None:
    """Put the load on, and tell of it."""
    task = task_given()
    requests = [request.encode() for request in task["requests"]]
    begun = time.perf_counter()
    load = Load(requests, begun + task["secs"])
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: Connection(load), "127.0.0.1", task["port"])
        for _ in range(task["connections"])
    ]
    async with asyncio.timeout(task["secs"] + 30):
        await asyncio.gather(*(connection.closed for _, connection in made))
    say(
        {
            "per_sec": len(load.latencies) / (time.perf_counter() - begun),
            "p50_ms": percentile(load.latencies, 50) * 1000,
            "first_byte_p50_ms": percentile(load.first_bytes, 50) * 1000,
            "p99_ms": percentile(load.latencies, 99) * 1000,
            "statuses": dict(load.statuses),
        }
    )


if __name__ == "__main__":
    uvloop.run(main())
