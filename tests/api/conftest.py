"""The whole API with every middleware on: a real server, a real database, Unkey's real SDK."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import uvicorn
from prometheus_client import CollectorRegistry
from starlette.websockets import WebSocket
from structlog.testing import capture_logs

from flow.api.app import Services, create_app
from flow.api.dependencies import Transports, utc_now
from flow.app.asgi import SERVER_OPTIONS
from flow.bot.model_choices import VendorModelChoices
from flow.bot.transports import TRANSPORTS
from flow.db.database import Database
from flow.domain.calls.capacity import Capacity
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.thread import Status, Thread
from flow.domain.limits.api_key import ApiKey
from flow.domain.products.product import Product, Products
from flow.domain.usage.events import Cost, Kind, Provenance, Quantities, UsageEvent
from flow.errors import FieldProblem, InvalidInput, Refused
from flow.sandbox.server import Served
from flow.sandbox.unkey.app import ROOT_KEY, UnkeySandbox
from flow.vendors.key_verification_cache import KeyVerifier
from flow.vendors.unkey_admin import UnkeyAdmin
from tests.events import an_event

SECRET = b"a secret for the tests only"
PRODUCTS = Products(
    [
        Product("voice_bot", billable=True, reservation_usd=Decimal("0.10"), reservation_secs=60),
        Product("playground", billable=False),
        Product("insights", billable=True, calls=False),
    ]
)


NO_PRICE = "gpt-9-ultra"
NO_MORE = pytest.mark.parametrize("code", ["at_capacity", "shutting_down"])


@dataclass
class Calls:
    """Calls as the API sees them; what it was asked to do is kept for the test to look at."""

    has_room: bool = True
    here: set[UUID] = field(default_factory=set)
    ended: list[UUID] = field(default_factory=list)
    offers: list[tuple[UUID, dict[str, Any]]] = field(default_factory=list)
    candidates: list[tuple[UUID, dict[str, Any]]] = field(default_factory=list)
    fail: Exception | None = None
    draining: bool = False

    @property
    def capacity(self) -> Capacity:
        return Capacity(1, 2 if self.has_room else 1, draining=self.draining)

    def take_no_more(self, code: str) -> None:
        self.has_room, self.draining = code != "at_capacity", code == "shutting_down"

    def check(self, join: JoinRequest) -> JoinRequest:
        if join.product != "voice_bot":
            raise Refused("unknown_product", f"There is no product {join.product!r}.")
        if join.bot.llm.provider not in {None, "openai"}:
            problem = FieldProblem("bot.llm.provider", "is not a provider of this server")
            raise InvalidInput("The bot cannot be built.", [problem])
        llm = join.bot.llm.model_copy(update={"model": join.bot.llm.model or "gpt-4.1"})
        return join.model_copy(update={"bot": join.bot.model_copy(update={"llm": llm})})

    async def run(self, thread: Thread, websocket: WebSocket) -> None:
        if self.fail is not None:
            raise self.fail
        await websocket.accept()
        async for text in websocket.iter_text():
            if text == "break":
                raise RuntimeError("a call that breaks")
            await websocket.send_text(f"{thread.id} {text}")

    async def offer(self, thread: Thread, request: dict[str, Any]) -> dict[str, Any]:
        self.offers.append((thread.id, request))
        return {"sdp": "v=0", "type": "answer", "pc_id": "pc_1"}

    async def ice(self, thread_id: UUID, request: dict[str, Any]) -> None:
        self.candidates.append((thread_id, request))

    async def end(self, thread_id: UUID) -> bool:
        self.ended.append(thread_id)
        return thread_id in self.here


@dataclass
class Api:
    """A served API with what it is made of. ``client`` has the key of customer A, ``other`` of B.

    ``now`` may be moved; only the life of join tokens is measured by it.
    """

    url: str
    client: httpx.AsyncClient
    other: httpx.AsyncClient
    anonymous: httpx.AsyncClient
    database: Database
    unkey: UnkeySandbox
    calls: Calls
    services: Services
    now: Clock
    unkey_ids: dict[str, str] = field(default_factory=dict)

    async def join(
        self, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        response = await self.client.post("/api/bot/join", json=body or {}, headers=headers)
        assert response.status_code in {200, 201}, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def key_of(self, client: httpx.AsyncClient) -> ApiKey:
        """The row of a client's key; it is made when the key is first seen."""
        secret = client.headers.get("X-API-Key") or client.headers["Authorization"].split()[1]
        assert (await client.get("/api/threads")).status_code == httpx.codes.OK
        return (await self.database.operating.get_api_key(self.unkey_ids[secret])).key

    async def in_call(self, thread_id: str) -> None:
        for status in (Status.CONNECTING, Status.IN_CALL):
            await self.database.save_workflow_thread_data(UUID(thread_id), status=status)

    async def over(self, thread_id: str) -> None:
        await self.in_call(thread_id)
        for status in (Status.ENDED, Status.EXTRACTING):
            await self.database.save_workflow_thread_data(UUID(thread_id), status=status)
        await self.database.finish_thread(UUID(thread_id), Status.COMPLETED)

    def new_key(self, team: str = "team_a", permissions: Sequence[str] = ()) -> str:
        secret = f"flow_{uuid4().hex}"
        self.unkey_ids[secret] = self.unkey.add_key(
            secret, team_id=team, name="A key", permissions=permissions
        )
        return secret

    def as_key(self, secret: str) -> httpx.AsyncClient:
        """A client with this key; the server outlives it, so nobody needs to close it."""
        return httpx.AsyncClient(base_url=self.url, verify=False, headers={"X-API-Key": secret})


@dataclass
class Clock:
    """The time now, and by how much a test moved it."""

    moved: timedelta = timedelta(0)

    def __call__(self) -> datetime:
        return utc_now() + self.moved


async def spend(api: Api, thread_id: str, cost: str | None, **given: Any) -> UsageEvent:
    """Record one generation of the thread at this cost in USD, or unpriced."""
    thread = await api.database.get_workflow_thread_data(UUID(thread_id))
    owner = thread.owner
    event = an_event(
        **{
            "owner": owner,
            "kind": Kind.LLM,
            "source": "bot",
            "provider": "openai",
            "model": "gpt-4.1",
            "quantities": Quantities(input_tokens=10, output_tokens=5),
            "provenance": Provenance.REPORTED,
            "cost": None if cost is None else Cost(input_tokens=Decimal(cost)),
            **given,
        }
    )
    recorded = await api.database.record_usage([event])
    assert recorded.new == {event.id}
    return event


ServeApi = Callable[..., Awaitable[Api]]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Keep log lines, and the drawing of tracebacks in them, out of the tests' output."""
    with capture_logs():
        yield


@pytest.fixture
async def serve_api(database: Database) -> AsyncIterator[ServeApi]:
    """Serves an API; any field of its `Services` may be given, and the carriers' ``streams``.

    ``with_unkey_admin``: keys can be made and revoked through it.
    """
    closing: list[Callable[[], Awaitable[Any]]] = []

    async def serve(
        streams: dict[str, Any] | None = None, *, with_unkey_admin: bool = False, **given: Any
    ) -> Api:
        unkey, calls, now = UnkeySandbox(), Calls(), Clock()
        served = Served(unkey)
        unkey_url = await served.__aenter__()
        keys = KeyVerifier(ROOT_KEY, base_url=unkey_url)
        closing.extend([lambda: served.__aexit__(None, None, None), keys.aclose])
        admin = UnkeyAdmin(ROOT_KEY, "api_sandbox", unkey_url) if with_unkey_admin else None
        if admin is not None:
            closing.append(admin.aclose)
        services = Services(
            **{
                "database": database,
                "keys": keys,
                "unkey": admin,
                "calls": calls,
                "products": PRODUCTS,
                "models": VendorModelChoices(["openai"], lambda *_: True, lambda _: ["gpt-4.1"]),
                "transports": Transports(
                    TRANSPORTS, {"websocket": calls}, {"webrtc": calls}, streams or {}
                ),
                "has_price": lambda kind, provider, model: model != NO_PRICE,
                "secret": SECRET,
                "registry": CollectorRegistry(),
                "now": now,
                **given,
            }
        )
        server = Server(services)
        url = await server.start()
        closing.append(server.stop)
        clients = [httpx.AsyncClient(base_url=url, verify=False) for _ in range(3)]
        closing.extend(client.aclose for client in clients)
        client, other, anonymous = clients
        made_of = (services.database, unkey, calls, services, now)
        api = Api(url, client, other, anonymous, *made_of)
        for client, team in ((api.client, "team_a"), (api.other, "team_b")):
            client.headers["Authorization"] = f"Bearer {api.new_key(team)}"
        return api

    yield serve
    for close in reversed(closing):
        await close()


@pytest.fixture
async def api(serve_api: ServeApi) -> Api:
    """An API over a database of its own."""
    return await serve_api()


class Server(uvicorn.Server):
    """The API served as it is in earnest, inside the loop of the test."""

    def __init__(self, services: Services) -> None:
        super().__init__(
            uvicorn.Config(create_app(services), port=0, lifespan="off", **SERVER_OPTIONS)
        )
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to pytest."""
        yield

    async def start(self) -> str:
        self._task = asyncio.create_task(self.serve())
        async with asyncio.timeout(20):
            while not self.started:
                await asyncio.sleep(0.005)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"

    async def stop(self) -> None:
        assert self._task is not None
        self.should_exit = self.force_exit = True
        await self._task
