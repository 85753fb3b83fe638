"""A process with the service, its rooms on a switchboard.

The sound of a room comes to the bot over a WebSocket of the test's own, ``SWITCHBOARD/<room>``: so
a bot can be in a process that is killed, and its caller is not.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import uvicorn
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from flow.app.asgi import SERVER_OPTIONS, Application
from flow.app.server import Server
from flow.sandbox.daily import DailySandbox
from flow.settings import Settings
from tests.calls.building import BotTransport, Building, Guest


class Branch(Building):
    """A building whose callers are at the switchboard."""

    def __init__(self, switchboard: str) -> None:
        super().__init__(DailySandbox())
        self.switchboard = switchboard
        self.lines: set[asyncio.Task[None]] = set()

    async def let_bot_in(self, bot: BotTransport) -> None:
        await super().let_bot_in(bot)
        assert bot.room.token is not None
        line = asyncio.create_task(self.line(bot.room.token.get_secret_value()))
        self.lines.add(line)

    async def line(self, token: str) -> None:
        """Be the caller, as long as the switchboard and the bot are there."""
        guest = await self.enter(token)
        async with connect(f"{self.switchboard}/{guest.room}", proxy=None) as socket:
            spoken = asyncio.create_task(self.speak(guest, socket))
            with suppress(ConnectionClosed):
                async for wire in socket:
                    assert isinstance(wire, bytes)
                    await guest.send(wire)
            await guest.close()
            await spoken

    async def speak(self, guest: Guest, socket: object) -> None:
        with suppress(ConnectionClosed):
            async for wire in guest:
                await socket.send(wire)  # type: ignore[attr-defined]
        await socket.close()  # type: ignore[attr-defined]


def serve_rooms(port: str, switchboard: str) -> None:
    """Serve on a port until stopped, with rooms at the switchboard's ``ws://`` URL."""
    app = Application(Settings.read(), media=Branch(switchboard))
    Server(uvicorn.Config(app, host="127.0.0.1", port=int(port), **SERVER_OPTIONS)).run()
