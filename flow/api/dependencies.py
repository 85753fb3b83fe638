"""What the API needs from the rest of Flow, given to it by the composition root."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from prometheus_client import CollectorRegistry
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket

from flow.api.event_feed import EventFeed
from flow.api.gateway_routes import Gateway
from flow.api.pages import STATIC, DevPages
from flow.db.database import Database
from flow.domain.calls.capacity import Capacity
from flow.domain.calls.join_request import JoinRequest, Transport
from flow.domain.calls.media_stream import CallNews, CarriedCall, CarrierRequest, MediaStream
from flow.domain.calls.room import Meeting
from flow.domain.calls.thread import Thread
from flow.domain.calls.trace_parent import TraceParent
from flow.domain.calls.transport_spec import TransportSpec, TransportSpecs
from flow.domain.limits.api_key import ApiKey
from flow.domain.pricing.unpriced_models import HasPrice
from flow.domain.products.model_choices import ModelChoices
from flow.domain.products.product import Products
from flow.errors import ConfigurationError, FieldProblem, InvalidInput
from flow.insights.schema_checker import Checker
from flow.telemetry.metric_definitions import Metrics
from flow.vendors.dialler import Dialler
from flow.vendors.key_verification_cache import VerifiedKey
from flow.vendors.quota_cache import QuotaState
from flow.vendors.recording_storage.storage import RecordingStorage
from flow.vendors.unkey_admin import UnkeyAdmin

MIN_SECRET_BYTES = 16


class Keys(Protocol):
    """Where API keys are verified."""

    async def verify(self, secret: str, *, max_age_secs: float) -> VerifiedKey:
        """The key of ``secret``; raises `Refused` or `AuthUnavailable`."""
        ...

    async def check(self) -> None:
        """Return when keys can be verified; raises `AuthUnavailable`."""
        ...


class Quotas(Protocol):
    """A source beside Flow that says whether a team may go on, such as a company's billing."""

    async def check(self, key: ApiKey, product: str) -> QuotaState:
        """Return when the call may go on; raises `Refused` or `QuotaUnavailable`."""
        ...

    async def state(self, key: ApiKey, product: str) -> QuotaState:
        """How far the team has got; raises `QuotaUnavailable`."""
        ...


class SocketCalls(Protocol):
    """Calls over a WebSocket that the caller opens: see `flow.bot.calls.caller_calls`."""

    async def run(self, thread: Thread, websocket: WebSocket) -> None:
        """Accept the socket and run the whole call on it."""
        ...


class OfferCalls(Protocol):
    """Calls over a connection that answers the caller's SDP offers."""

    async def offer(self, thread: Thread, request: dict[str, Any]) -> dict[str, Any]:
        """The SDP answer to a SmallWebRTC offer; the call goes on by itself."""
        ...

    async def ice(self, thread_id: UUID, request: dict[str, Any]) -> None:
        """Hand over trickled ICE candidates of a call of this process."""
        ...


class MediaStreamCalls(Protocol):
    """Telephone calls over the media streams of a carrier.

    ``name`` and ``webhook`` are the last parts of the routes of its stream and its webhook.
    """

    name: str
    webhook: str
    webhook_openapi: Mapping[str, Any]

    @property
    def dialler(self) -> Dialler | None:
        """Places calls and moves them; ``None``: the carrier is only answered."""
        ...

    def call_of(self, request: CarrierRequest) -> CarriedCall:
        """The call that a webhook's request is about.

        Raises:
            Refused: code ``invalid_signature``: the request is not the carrier's.
            InvalidInput: it names no call.
        """
        ...

    def news_of(self, request: CarrierRequest) -> CallNews:
        """What the carrier says of a call by itself; raises as `call_of`."""
        ...

    async def hang_up(self, call_id: str) -> None:
        """End a call, or raise `Unavailable`."""
        ...

    def document(self, stream_url: str, token: str) -> bytes:
        """XML that has the carrier open a stream, which says the token."""
        ...

    def spoken(self, text: str, language: str | None) -> bytes:
        """XML that has the carrier say a text and end the call."""
        ...

    def started(self, text: str) -> MediaStream | None:
        """The stream that a first message begins, ``None`` for one before it, or `InvalidInput`."""
        ...

    async def run(self, thread: Thread, websocket: WebSocket, stream: MediaStream) -> None:
        """Run the whole telephone call on the accepted socket of its media stream."""
        ...


@dataclass(frozen=True, slots=True)
class Transports:
    """The transports of a service: ``specs`` has every one by its name; of the others, each is
    where its calls begin, unless it has rooms or is not set up here."""

    specs: TransportSpecs
    sockets: Mapping[str, SocketCalls] = field(default_factory=dict)
    offers: Mapping[str, OfferCalls] = field(default_factory=dict)
    streams: Mapping[str, MediaStreamCalls] = field(default_factory=dict)

    def spec_of(self, thread: Thread) -> TransportSpec:
        """What is known of the transport that a thread was joined for."""
        return self.specs[transport_of(thread)]

    def has_rooms(self, transport: Transport) -> bool:
        """Whether the bot waits for its caller in a room."""
        return self.specs[transport.type].has_rooms

    def require_set_up(self, transport: Transport) -> None:
        """Raise `InvalidInput` for a transport without rooms that is not set up here."""
        if any(transport.type in kind for kind in (self.sockets, self.offers, self.streams)):
            return
        said, hint = f"'{transport.type}' is not set up here", self.specs[transport.type].needed
        raise InvalidInput(
            "The call cannot be connected.", [FieldProblem("transport.type", said, hint)]
        )


def transport_of(thread: Thread) -> str:
    """The name of the transport that a thread was joined for."""
    return thread.join.transport.type


class Rooms(Protocol):
    """Calls in rooms, where the bot waits for its caller: see `flow.bot.calls.room_calls`."""

    def check(self, transport: Transport) -> None:
        """Raise `InvalidInput` for a room that cannot be opened or entered from here."""
        ...

    def stays_here(self, transport: Transport) -> bool:
        """Whether a call has to run in this process."""
        ...

    async def begin(self, thread: Thread, transport: Transport, until: datetime) -> Meeting:
        """Have the bot wait in the thread's room, in whichever process has room for it.

        Raises:
            Conflict: somebody else has begun the call, or it is over.
            Refused: code ``at_capacity`` or ``shutting_down``.
            TransportUnavailable: the room cannot be opened.
        """
        ...

    async def invite(self, thread: Thread, transport: Transport, until: datetime) -> Meeting:
        """A new way into the room for the caller; raises `TransportUnavailable`."""
        ...


class Calls(Protocol):
    """The calls this process runs."""

    @property
    def capacity(self) -> Capacity:
        """How many calls run in this process, and how many may."""
        ...

    def check(self, join: JoinRequest) -> JoinRequest:
        """The request with the product's defaults filled in. Changes nothing anywhere.

        Raises:
            Refused: ``unknown_product`` or ``model_not_allowed``.
            InvalidInput: a provider nobody here can reach, or a call longer than the product's.
        """
        ...

    async def end(self, thread_id: UUID) -> bool:
        """Hang up if the call runs in this process, and say whether it does."""
        ...


class JoinSpan(Protocol):
    """The span of one join."""

    @property
    def place(self) -> TraceParent:
        """What the call's spans become children of."""
        ...

    def end(self, status: int, known: Mapping[str, str]) -> None:
        """The join was answered; ``known`` are facts about it."""
        ...


class Traces(Protocol):
    """Where spans go."""

    def join(self, headers: Mapping[str, str]) -> JoinSpan:
        """Begin the span of a join, in the caller's trace if its headers name one."""
        ...


def utc_now() -> datetime:
    """The time now."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Services:
    """Everything the API is composed of.

    ``secret`` signs join tokens and must be the same in every process. ``public_url`` is where
    callers reach this API, without a trailing slash; left out, it is the host they used.
    ``cors_origins`` are those whose pages may use the routes of a call.
    ``allow_private_webhooks`` lets joins name any webhook URL, for development.
    ``feed`` tells what is new of threads.
    ``dial_prefixes`` are how the numbers begin that calls may be placed to.
    ``models`` are what joins can choose from, ``has_price`` says which a budget can hold.
    ``checker`` checks schemas for insights.
    ``billing_url`` is where customers can raise their limits.
    ``on_key`` is told of the keys that make requests, ``on_command`` of the threads whose calls
    have commands waiting.
    Without a ``gateway`` the paths of its protocols are not served.
    Without ``unkey`` no keys are made or revoked here.
    ``recordings`` is where recorded calls are; a link to one is good for ``recording_link_secs``.
    ``registry`` is what ``/metrics`` shows, ``metrics`` what requests are counted in; without
    ``traces`` nothing is traced. ``pages`` is the folder that the pages were built into;
    ``dev_pages`` is what they have of a service for development.

    Raises:
        ConfigurationError: the secret is too short.
    """

    database: Database
    keys: Keys
    calls: Calls
    products: Products
    models: ModelChoices
    has_price: HasPrice
    transports: Transports
    secret: bytes
    feed: EventFeed
    registry: CollectorRegistry
    metrics: Metrics = field(default_factory=lambda: Metrics(CollectorRegistry()))
    traces: Traces | None = None
    quotas: Quotas | None = None
    rooms: Rooms | None = None
    gateway: Gateway | None = None
    unkey: UnkeyAdmin | None = None
    public_url: str | None = None
    billing_url: str | None = None
    cors_origins: tuple[str, ...] = ()
    join_token_secs: int = 300
    allow_private_webhooks: bool = False
    dial_prefixes: tuple[str, ...] = ()
    checker: Checker = field(default_factory=Checker)
    on_key: Callable[[ApiKey], None] = lambda _key: None
    on_command: Callable[[UUID], None] = lambda _thread_id: None
    recordings: RecordingStorage | None = None
    recording_link_secs: int = 3600
    now: Callable[[], datetime] = utc_now
    pages: Path = STATIC
    dev_pages: DevPages | None = None

    def __post_init__(self) -> None:
        if len(self.secret) < MIN_SECRET_BYTES:
            raise ConfigurationError(f"FLOW_SECRET: must be at least {MIN_SECRET_BYTES} bytes.")


def services_of(connection: HTTPConnection) -> Services:
    """The services of the application this request came to."""
    services: Services = connection.app.state.services
    return services
