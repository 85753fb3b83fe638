"""Where Pipecat's services dial: these fail when a new version of Pipecat moves the door."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import httpx2
import pytest
from pipecat.services import websocket_service
from pipecat.services.deepgram.flux.stt import DeepgramFluxSTTService
from pipecat.services.deepgram.tts import DeepgramTTSService
from pipecat.services.websocket_service import WebsocketService

from flow.bot.vendors import socket_doors
from flow.bot.vendors.socket_doors import socket_url, with_socket_tap
from flow.domain.usage.units import Kind
from flow.kit.tls import trusted
from flow.metering.meter import Meter, Service
from flow.metering.taps.socket import SocketTap
from flow.metering.wires.deepgram_speak import DeepgramSpeak
from flow.sandbox.deepgram.app import DeepgramSandbox
from flow.sandbox.server import Served
from tests.events import an_owner
from tests.notebook import Notebook

TAPPED = [DeepgramTTSService, DeepgramFluxSTTService]


@pytest.mark.parametrize("kind", TAPPED, ids=lambda kind: kind.__name__)
def test_a_service_dials_through_the_door_alone(kind: type[WebsocketService]) -> None:
    assert "self._websocket_connect(" in inspect.getsource(kind._connect_websocket)
    assert "websocket_connect(" not in inspect.getsource(kind).replace("_websocket_connect(", "")


async def test_a_service_that_is_asked_to_dial_twice_dials_once() -> None:
    tap = SocketTap(
        Meter(Service(Kind.TTS, "deepgram", "aura-2"), an_owner(), Notebook()), DeepgramSpeak
    )
    sandbox = DeepgramSandbox()
    async with Served(sandbox) as url:
        service: Any = with_socket_tap(DeepgramTTSService)(
            tap, api_key="k", base_url=socket_url(httpx2.URL(url))
        )
        service._sample_rate = 24_000  # known once a pipeline starts
        await asyncio.gather(service._connect_websocket(), service._connect_websocket())
        await service._websocket.close()
    assert len(sandbox.requests) == 1


class _Dialled(Exception):
    """Nothing is dialled in this test."""


@pytest.mark.parametrize("url", ["wss://127.0.0.1:9", "ws://127.0.0.1:9"])
async def test_certificates_are_read_once_a_process(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def dial(*_: Any, **options: Any) -> None:
        seen.append(options.get("ssl"))
        raise _Dialled

    monkeypatch.setattr(socket_doors, "connect", dial)
    monkeypatch.setattr(websocket_service, "websocket_connect", dial)
    tap = SocketTap(
        Meter(Service(Kind.TTS, "deepgram", "aura-2"), an_owner(), Notebook()), DeepgramSpeak
    )
    service: Any = with_socket_tap(DeepgramTTSService)(tap, api_key="k")
    with pytest.raises(_Dialled):
        await service._websocket_connect(url)
    with pytest.raises(_Dialled):
        await socket_doors.dialled(tap, url, {})
    assert seen == [trusted() if url.startswith("wss") else None] * 2


@pytest.mark.parametrize(
    ("base_url", "address"),
    [
        ("https://api.deepgram.com", "wss://api.deepgram.com/v2/listen"),
        ("http://127.0.0.1:8080/dg/", "ws://127.0.0.1:8080/dg/v2/listen"),
        ("wss://eu.example", "wss://eu.example/v2/listen"),
    ],
)
def test_the_address_of_a_socket(base_url: str, address: str) -> None:
    assert socket_url(httpx2.URL(base_url), "/v2/listen") == address
