"""The place where Pipecat's services open their WebSockets, and the tap on each connection."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from pipecat.services import websocket_service
from pipecat.services.cartesia.stt import CartesiaSTTService
from pipecat.services.cartesia.tts import CartesiaTTSService
from pipecat.services.cartesia.turns.stt import CartesiaTurnsSTTService
from pipecat.services.deepgram.flux.stt import DeepgramFluxSTTService
from pipecat.services.deepgram.tts import DeepgramTTSService
from pipecat.services.elevenlabs.dialogue.tts import ElevenLabsDialogueTTSService
from pipecat.services.elevenlabs.stt import ElevenLabsRealtimeSTTService
from pipecat.services.elevenlabs.tts import ElevenLabsTTSService
from pipecat.services.websocket_service import WebsocketService, _BoundedConnection
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidStatus
from websockets.http11 import Request, Response
from websockets.protocol import State

from flow.bot.vendors import metered_sockets
from flow.bot.vendors.metered_sockets import socket_url, with_socket_tap
from flow.domain.usage.events import Outcome
from flow.kit.tls import trusted
from flow.metering.wires.socket import Closing
from tests.watched_sockets import World, watched_sockets


class Dialling(WebsocketService):
    """A service that dials as Pipecat's do, and knows where the vendor is."""

    url = ""

    async def dial(self) -> Any:
        return await self._websocket_connect(self.url, additional_headers={"X-API-Key": "a key"})

    async def _connect_websocket(self) -> None:
        if self._websocket is None or self._websocket.state is State.CLOSED:
            self._websocket = await self.dial()

    async def _disconnect_websocket(self) -> None:
        if self._websocket:
            await self._websocket.close()

    async def _receive_messages(self) -> None:
        async for _ in self._websocket:
            pass


@pytest.fixture
def world() -> World:
    return watched_sockets()


def service_of(world: World, url: str, **options: Any) -> Any:
    service = with_socket_tap(Dialling)(world.tap, **options)
    service.url = url
    return service


@asynccontextmanager
async def vendor(**options: Any) -> AsyncIterator[str]:
    async def echo(server: ServerConnection) -> None:
        assert server.request is not None
        assert server.request.headers["X-API-Key"] == "a key"
        async for message in server:
            await server.send(message)

    async with serve(echo, "127.0.0.1", 0, **options) as serving:
        yield f"ws://127.0.0.1:{next(iter(serving.sockets)).getsockname()[1]}"


async def test_a_dialled_connection_is_metered_and_is_pipecats_own_otherwise(world: World) -> None:
    async with vendor() as url:
        service = service_of(world, f"{url}/speak", ws_send_timeout=3.5, ws_close_timeout=1.5)
        connection = await service.dial()
        assert isinstance(connection, _BoundedConnection)
        assert (connection.send_timeout, connection.close_timeout) == (3.5, 1.5)
        await connection.send("a text")
        assert await connection.recv() == "a text"
        await connection.close()
    (reader,) = world.readers
    assert (reader.url, reader.seen) == (
        f"{url}/speak",
        [("sent", "a text"), ("received", "a text")],
    )
    assert reader.closings == [Closing(1000, by_us=True)]


async def test_a_connection_that_is_made_again_is_metered_too(world: World) -> None:
    async with vendor() as url:
        service = service_of(world, url)
        await service._connect_websocket()
        assert await service._reconnect_websocket(1)
        await service._disconnect_websocket()
    assert len(world.readers) == 2
    assert [reader.closings for reader in world.readers] == [[Closing(1000, by_us=True)]] * 2


async def test_what_is_dialled_can_be_rewritten(world: World) -> None:
    async with vendor() as url:
        rewrite = {"wss://vendor.example/listen": f"{url}/listen"}.__getitem__
        service = service_of(world, "wss://vendor.example/listen", rewrite=rewrite)
        await (await service.dial()).close()
    assert [reader.url for reader in world.readers] == [f"{url}/listen"]


async def test_each_refusal_is_in_the_account_and_told_to_the_service(world: World) -> None:
    async def refuse(server: ServerConnection, request: Request) -> Response:
        return server.respond(401, "who are you?")

    async with vendor(process_request=refuse) as url:
        service = service_of(world, url)
        for _ in range(2):
            with pytest.raises(InvalidStatus):
                await service.dial()
    with pytest.raises(ConnectionRefusedError):
        await service.dial()  # nobody is there any more
    assert [event.outcome for event in world.notebook.events] == [Outcome.ERROR] * 3
    statuses = [event.failure and event.failure.http_status for event in world.notebook.events]
    assert statuses == [401, 401, None]
    assert world.readers == []


async def test_a_service_that_is_asked_to_dial_twice_dials_once(world: World) -> None:
    async with vendor() as url:
        service = service_of(world, url)
        await asyncio.gather(service._connect_websocket(), service._connect_websocket())
        await service._disconnect_websocket()
    assert len(world.readers) == 1


@pytest.mark.parametrize(
    "kind",
    [
        CartesiaSTTService,
        CartesiaTTSService,
        CartesiaTurnsSTTService,
        DeepgramFluxSTTService,
        DeepgramTTSService,
        ElevenLabsDialogueTTSService,
        ElevenLabsRealtimeSTTService,
        ElevenLabsTTSService,
    ],
)
def test_a_service_dials_through_the_door_alone(kind: type[WebsocketService]) -> None:
    assert "self._websocket_connect(" in inspect.getsource(kind._connect_websocket)
    assert "websocket_connect(" not in inspect.getsource(kind).replace("_websocket_connect(", "")


class _Dialled(Exception):
    """Nothing is dialled in this test."""


@pytest.mark.parametrize("url", ["wss://127.0.0.1:9", "ws://127.0.0.1:9"])
async def test_certificates_are_read_once_a_process(
    world: World, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def dial(*_: Any, **options: Any) -> None:
        seen.append(options.get("ssl"))
        raise _Dialled

    monkeypatch.setattr(metered_sockets, "connect", dial)
    monkeypatch.setattr(websocket_service, "websocket_connect", dial)
    service: Any = with_socket_tap(DeepgramTTSService)(world.tap, api_key="k")
    with pytest.raises(_Dialled):
        await service._websocket_connect(url)
    with pytest.raises(_Dialled):
        await metered_sockets.dialled(world.tap, url, {})
    assert seen == [trusted() if url.startswith("wss") else None] * 2


def test_the_service_keeps_its_name() -> None:
    assert with_socket_tap(Dialling).__name__ == "Dialling"
    assert with_socket_tap(Dialling) is with_socket_tap(Dialling)


@pytest.mark.parametrize(
    ("base", "path", "expected"),
    [
        ("http://h:80/v1/", "/tts", "ws://h/v1/tts"),
        ("https://api.vendor.example", "/a/b", "wss://api.vendor.example/a/b"),
        ("ws://h:9", "", "ws://h:9"),
        ("wss://h/x", "/y", "wss://h/x/y"),
    ],
)
def test_a_vendors_address_becomes_that_of_a_websocket(base: str, path: str, expected: str) -> None:
    assert socket_url(httpx2.URL(base), path) == expected
