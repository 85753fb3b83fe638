"""The baseline of the gateway: passes a request on by aiohttp, on the server that `flow serve` runs
on, and passes the answer back as it comes. It does nothing else."""

from __future__ import annotations

from typing import Any

import aiohttp
import uvloop

from tests.bench.asgi_server import serve
from tests.bench.processes import task_given


class Passthrough:
    """An ASGI application that passes everything on to one address."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), auto_decompress=False
            )
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {"content-type": "application/json", "authorization": "Bearer nobody"}
        async with self._session.post(
            self._url + scope["path"], data=body, headers=headers
        ) as answer:
            kept = [
                (name.lower(), value)
                for name, value in answer.raw_headers
                if name.lower() != b"transfer-encoding"
            ]
            await send({"type": "http.response.start", "status": answer.status, "headers": kept})
            while part := await answer.content.readany():
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def main() -> None:
    """Serve until nobody needs it any more."""
    await serve(Passthrough(task_given()["url"]), lifespan="off", server_header=False)


if __name__ == "__main__":
    uvloop.run(main())
