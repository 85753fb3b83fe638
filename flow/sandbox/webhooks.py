"""A receiver of webhooks, as a customer would have one: it verifies, keeps, and can fail.

It takes a POST at any path. What is signed with a secret it was given is kept in ``received`` and
answered 204; anything else is answered 401 and kept nowhere. Every request, also one that a fault
hit, leaves an `Arrival`. A receiver that was given no secret verifies nothing and keeps all.

Over HTTP, ``PUT /_sandbox/secrets`` takes a JSON list of secrets and ``GET /_sandbox/received``
lists what was kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from standardwebhooks import Webhook, WebhookVerificationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from flow.sandbox.stand_in import OWN_PAGES, StandIn

KEPT = 10_000

_SECRETS = TypeAdapter(list[str])


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that came, before anything was made of it."""

    path: str
    webhook_id: str
    timestamp: str
    signatures: tuple[str, ...]
    host: str


@dataclass(frozen=True, slots=True)
class Received:
    """A webhook that was verified and kept."""

    path: str
    webhook_id: str
    type: str
    timestamp: str
    data: dict[str, Any]


class WebhookReceiver(StandIn):
    """The app. ``trust`` sets the secrets whose signatures it takes."""

    def __init__(self, *secrets: str) -> None:
        self.received: deque[Received] = deque(maxlen=KEPT)
        self.arrivals: deque[Arrival] = deque(maxlen=KEPT)
        self._secrets: Sequence[str] = secrets
        super().__init__(
            [
                Route(f"{OWN_PAGES}/secrets", self._change, methods=["PUT"]),
                Route(f"{OWN_PAGES}/received", self._list),
                Route("/{path:path}", self._take, methods=["POST"]),
            ],
            _problem,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note the arrival, and answer it, with the faults that hit it."""
        if not scope["path"].startswith(f"{OWN_PAGES}/"):
            self.arrivals.append(_arrival(scope))
        await super().__call__(scope, receive, send)

    def trust(self, *secrets: str) -> None:
        """From now on take what is signed with one of these, and nothing else."""
        self._secrets = secrets

    async def _take(self, request: Request) -> Response:
        body = await request.body()
        if not self._is_genuine(body, request):
            return _problem(401, "The signature is not right.", "")
        sent = await request.json()
        self.received.append(
            Received(
                path=request.url.path,
                webhook_id=request.headers.get("webhook-id", ""),
                type=sent["type"],
                timestamp=sent["timestamp"],
                data=sent["data"],
            )
        )
        return Response(status_code=204)

    def _is_genuine(self, body: bytes, request: Request) -> bool:
        headers = dict(request.headers)
        for secret in self._secrets:
            try:
                Webhook(secret).verify(body, headers)
            except WebhookVerificationError:
                continue
            return True
        return not self._secrets

    async def _change(self, request: Request) -> Response:
        try:
            self.trust(*_SECRETS.validate_json(await request.body()))
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False, include_input=False)
            return JSONResponse({"problems": problems}, 400)
        return JSONResponse({"secrets": len(self._secrets)})

    async def _list(self, _request: Request) -> Response:
        return JSONResponse([asdict(one) for one in self.received])


def _arrival(scope: Scope) -> Arrival:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    return Arrival(
        path=scope["path"],
        webhook_id=headers.get("webhook-id", ""),
        timestamp=headers.get("webhook-timestamp", ""),
        signatures=tuple(headers.get("webhook-signature", "").split()),
        host=headers.get("host", ""),
    )


def _problem(status: int, detail: str, _request_id: str) -> Response:
    return JSONResponse({"error": detail}, status)
