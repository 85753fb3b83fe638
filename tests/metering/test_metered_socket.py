"""A connection that a client has made by itself, with the tap on it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest
from deepgram.core import ApiError
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK
from websockets.frames import Close

from flow.domain.usage.events import Outcome, Provenance
from flow.domain.usage.units import Kind
from flow.metering.meter import Meter, Service
from flow.metering.taps import socket as taps
from flow.metering.taps.socket import MeteredSocket, SocketTap
from flow.metering.wires.deepgram_listen import DeepgramListen
from tests.events import an_owner
from tests.notebook import Notebook

SECOND = bytes(32_000)
CLOSE_STREAM = json.dumps({"type": "CloseStream"})
REPORT = json.dumps({"type": "Metadata", "duration": 3.0, "channels": 1})


class Socket:
    """Receives what a test has it receive."""

    def __init__(self) -> None:
        self.sent: list[str | bytes] = []
        self.incoming: asyncio.Queue[str | Exception] = asyncio.Queue()
        self.is_closed = False
        self._is_receiving = False

    async def send(self, message: str | bytes) -> None:
        self.sent.append(message)

    async def recv(self) -> str:
        if self._is_receiving:
            raise RuntimeError("cannot call recv while another coroutine is waiting")
        self._is_receiving = True
        try:
            item = await self.incoming.get()
        finally:
            self._is_receiving = False
        if isinstance(item, Exception):
            raise item
        return item

    async def __aiter__(self) -> AsyncIterator[str]:
        while True:
            yield await self.recv()

    async def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


@pytest.fixture
def tap(notebook: Notebook) -> SocketTap:
    return SocketTap(Meter(Service(Kind.STT, "v", "m"), an_owner(), notebook), DeepgramListen)


@pytest.fixture
def socket() -> Socket:
    return Socket()


@pytest.fixture
async def metered(tap: SocketTap, socket: Socket) -> MeteredSocket:
    made = MeteredSocket(socket, tap.opened("/v1/listen?model=nova-3"))
    await made.send(SECOND)
    await made.send(SECOND)
    return made


def later(socket: Socket, item: str | Exception) -> None:
    asyncio.get_running_loop().call_later(0.02, socket.incoming.put_nowait, item)


async def test_a_close_reads_on_until_the_report_has_come(
    metered: MeteredSocket, socket: Socket, notebook: Notebook
) -> None:
    await metered.send(CLOSE_STREAM)
    later(socket, REPORT)
    await metered.close()
    (event,) = notebook.events
    assert (event.quantities["audio_seconds"], event.provenance) == (3, Provenance.REPORTED)
    assert socket.is_closed
    assert socket.sent == [SECOND, SECOND, CLOSE_STREAM]


async def test_a_close_leaves_the_reading_to_whoever_reads_still(
    metered: MeteredSocket, socket: Socket, notebook: Notebook
) -> None:
    reader = asyncio.create_task(metered.recv())
    await asyncio.sleep(0)
    await metered.send(CLOSE_STREAM)
    later(socket, REPORT)
    await metered.close()
    assert await reader == REPORT
    assert [event.provenance for event in notebook.events] == [Provenance.REPORTED]


async def test_a_close_does_not_wait_for_ever(
    metered: MeteredSocket, notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taps, "REPORT_SECS", 0.05)
    await metered.send(CLOSE_STREAM)
    await metered.close()
    (event,) = notebook.events
    assert (event.quantities["audio_seconds"], event.provenance) == (2, Provenance.MEASURED)


@pytest.mark.parametrize(
    ("closed", "outcome"),
    [
        (ConnectionClosedOK(Close(1000, ""), Close(1000, ""), True), Outcome.OK),
        (ConnectionClosedError(Close(1011, ""), Close(1011, ""), True), Outcome.ERROR),
        (ConnectionClosedError(None, None), Outcome.ERROR),
    ],
    ids=["1000", "1011", "lost"],
)
async def test_a_connection_that_is_closed_by_the_vendor(
    metered: MeteredSocket, socket: Socket, notebook: Notebook, closed: Exception, outcome: Outcome
) -> None:
    socket.incoming.put_nowait(closed)
    with pytest.raises(type(closed)):
        await metered.recv()
    await metered.close()
    (event,) = notebook.events
    assert (event.quantities["audio_seconds"], event.outcome) == (Decimal(2), outcome)


def test_a_refusal_that_an_sdk_has_made_its_own_error_has_its_status(
    tap: SocketTap, notebook: Notebook
) -> None:
    tap.refused(ApiError(status_code=402, body="no credits"))
    tap.refused(OSError("no route"))
    assert [event.failure and event.failure.http_status for event in notebook.events] == [402, None]
