"""What the stand-ins have in common: faults, a log of requests, and the ``/_sandbox`` pages."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from email.utils import formatdate
from typing import NoReturn, Protocol
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flow.sandbox.bill import Bill
from flow.sandbox.faults import Fault, Faults, Hits
from flow.sandbox.server import HANG_UP, gone, hang_up

OWN_PAGES = "/_sandbox"
KEPT_REQUESTS = 10_000

Refuse = Callable[[int, str, str], Response]
"""The vendor's own error: status, a sentence, the request id."""

_FAULTS = TypeAdapter(list[Fault])


@dataclass(slots=True)
class Exchange:
    """One request and what became of it. ``status`` is ``None`` when nothing was answered.

    ``headers`` keeps those that attribute usage, never a credential.
    """

    request_id: str
    method: str
    path: str
    headers: Mapping[str, str]
    faults: Sequence[str]
    status: int | None = None


def exchange_of(request: HTTPConnection) -> Exchange:
    """The log entry of a request, or WebSocket, being served."""
    exchange: Exchange = request.state.exchange
    return exchange


def hits_of(request: HTTPConnection) -> Hits:
    """The faults that hit a request being served."""
    hits: Hits = request.state.hits
    return hits


class Session(Protocol):
    """What goes on over one connection."""

    async def serve(self) -> None:
        """Serve until one side closes."""


class StandIn:
    """An ASGI app that plays a vendor. ``faults`` and ``requests`` are there to use and to read."""

    def __init__(self, routes: Sequence[BaseRoute], refuse: Refuse) -> None:
        self.faults = Faults()
        self.requests: deque[Exchange] = deque(maxlen=KEPT_REQUESTS)
        self._refuse = refuse
        self._app = Starlette(routes=[*self._own_routes(), *routes])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, with the faults that hit it."""
        own = scope["path"].startswith(f"{OWN_PAGES}/")
        method = scope.get("method", "GET")  # a WebSocket's handshake has no other
        hits = Hits() if own else self.faults.take(method, scope["path"])
        exchange = Exchange(
            request_id=f"req_{uuid4().hex}",
            method=method,
            path=scope["path"],
            headers=_attribution(scope),
            faults=[fault.kind for fault in hits],
        )
        if not own:
            self.requests.append(exchange)
        scope.setdefault("state", {}).update(exchange=exchange, hits=hits)
        serve = self._serve_socket if scope["type"] == "websocket" else self._serve
        await serve(scope, receive, _noting(exchange, send))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        hits: Hits = scope["state"]["hits"]
        if delay := hits.of("delay"):
            await asyncio.sleep(delay.delay_secs)
        app: ASGIApp = self._app
        if fault := hits.of("status", "hang", "drop", "malformed"):
            app = self._instead(fault)
        if fault := hits.of("cut", "stall"):
            send = _broken_off(fault, scope, receive, send)
        if hits.of("content_type"):
            send = _mislabelled(send)
        with suppress(_BrokenOff):
            await app(scope, receive, send)

    async def _serve_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        hits: Hits = scope["state"]["hits"]
        if delay := hits.of("delay"):
            await asyncio.sleep(delay.delay_secs)
        if fault := hits.of("status", "hang", "drop"):
            await receive()
            await self._instead(fault)(scope, receive, send)
            return
        if fault := hits.of("cut", "stall", "close", "malformed", "malformed_chunk"):
            send = _broken_socket(fault, scope, send)
        is_gone = False

        async def watched() -> Message:
            nonlocal is_gone
            message = await receive()
            is_gone = is_gone or message["type"] == "websocket.disconnect"
            return message

        await self._app(scope, watched, send)
        if fault is not None and fault.kind == "stall" and not is_gone:
            await gone(receive)  # the app has closed, but nobody was told

    def _instead(self, fault: Fault) -> ASGIApp:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            if fault.kind == "drop":
                await hang_up(scope, receive)
            elif fault.kind == "hang":
                await gone(receive)
            else:
                request_id = scope["state"]["exchange"].request_id
                await self._wrong_answer(fault, request_id)(scope, receive, send)

        return answer

    def _wrong_answer(self, fault: Fault, request_id: str) -> Response:
        if fault.kind == "malformed":
            return Response(b'{"id": "', media_type="application/json")
        if fault.body is None:
            response = self._refuse(fault.status, "The stand-in was told to fail.", request_id)
        elif isinstance(fault.body, str):
            response = Response(fault.body, fault.status, media_type="text/plain")
        else:
            response = JSONResponse(fault.body, fault.status)
        response.headers.update(fault.headers)
        return response

    def _own_routes(self) -> list[Route]:
        return [
            Route(f"{OWN_PAGES}/faults", self._change_faults, methods=["GET", "POST", "DELETE"]),
            Route(f"{OWN_PAGES}/requests", self._list_requests),
        ]

    async def _change_faults(self, request: Request) -> Response:
        if request.method == "DELETE":
            self.faults.clear()
        elif request.method == "POST":
            try:
                self.faults.add(*_FAULTS.validate_json(await request.body()))
            except ValidationError as error:
                problems = error.errors(include_url=False, include_context=False)
                return JSONResponse({"problems": problems}, 400)
        return JSONResponse(self.faults.to_json())

    async def _list_requests(self, _request: Request) -> Response:
        return JSONResponse([asdict(exchange) for exchange in self.requests])


class ModelStandIn(StandIn):
    """A stand-in for a vendor of models, with a bill of its own to see and to read."""

    def __init__(self, bill: Bill, routes: Sequence[BaseRoute], refuse: Refuse) -> None:
        self.bill = bill
        super().__init__([Route(f"{OWN_PAGES}/bill", self._show_bill), *routes], refuse)

    async def _show_bill(self, _request: Request) -> Response:
        return JSONResponse(self.bill.to_json())


class _BrokenOff(Exception):
    """The answer ends here, whatever the app still had to say."""


def _attribution(scope: Scope) -> dict[str, str]:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    return {name: value for name, value in headers.items() if name.startswith("x-posthog-")}


def _noting(exchange: Exchange, send: Send) -> Send:
    async def note(message: Message) -> None:
        if message["type"] == "websocket.accept":
            exchange.status = 101
        elif message["type"] in ("http.response.start", "websocket.http.response.start"):
            exchange.status = message["status"]
            message = _dated(message)
        await send(message)

    return note


def _dated(message: Message) -> Message:
    """The message with the time, as every vendor's answers have it."""
    others = list(message.get("headers", ()))
    if any(name.lower() == b"date" for name, _ in others):
        return message
    return {**message, "headers": [*others, (b"date", formatdate(usegmt=True).encode())]}


def _mislabelled(send: Send) -> Send:
    async def mislabel(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = _without(b"content-type", message)
            message = {**message, "headers": [*headers, (b"content-type", b"text/html")]}
        await send(message)

    return mislabel


def _broken_off(fault: Fault, scope: Scope, receive: Receive, send: Send) -> Send:
    """A ``send`` that lets so many parts of the body through and no more."""
    left = fault.chunks

    async def stop() -> NoReturn:
        await (hang_up(scope, receive) if fault.kind == "cut" else gone(receive))
        raise _BrokenOff

    async def part(message: Message) -> None:
        nonlocal left
        if message["type"] == "http.response.start":
            if fault.kind == "cut" and not left:
                await stop()
            # Without its length a client can tell that the body is not whole.
            await send({**message, "headers": _without(b"content-length", message)})
            if not left:
                await stop()
            return
        # The last word would tell the client that the answer is complete.
        await send({**message, "more_body": True})
        left -= 1
        if left <= 0:
            await stop()

    return part


def _broken_socket(fault: Fault, scope: Scope, send: Send) -> Send:
    """A ``send`` that lets so many messages through before the fault. What the app says after the
    end of the connection is nobody's business."""
    left = fault.chunks
    is_over = False

    async def one(message: Message) -> None:
        nonlocal left, is_over
        if is_over or message["type"] != "websocket.send":
            if not is_over:
                await send(message)
            return
        if left > 0:
            left -= 1
            await send(message)
            return
        is_over = fault.kind != "malformed_chunk"
        if fault.kind == "cut":
            scope["extensions"][HANG_UP]["close"]()
        elif fault.kind == "close":
            await send({"type": "websocket.close", "code": fault.code, "reason": "as told"})
        elif fault.kind in ("malformed", "malformed_chunk"):
            left = 2**31
            await send({"type": "websocket.send", "text": '{"type": '})
            await one(message)

    return one


def _without(name: bytes, message: Message) -> list[tuple[bytes, bytes]]:
    return [pair for pair in message["headers"] if pair[0] != name]
