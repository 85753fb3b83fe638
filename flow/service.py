"""The composition root: settings in, a running service out.

Everything that is shared in a process is made here and passed on as values. Things are closed
in the opposite order of making, so that what a call still has to say finds somebody to hear it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
from posthog import Posthog
from prometheus_client import CollectorRegistry, Counter, Gauge
from pydantic import SecretStr

from flow import log
from flow.db.functions import Database, Recorded, Transport
from flow.domain.analytics import Content
from flow.domain.estimate import warm_up
from flow.domain.price import Pricer
from flow.domain.thread import Thread
from flow.domain.usage import Owner, UsageEvent
from flow.errors import ConfigurationError, FlowError
from flow.insights.extract import ExtractInsightsStep
from flow.settings import Settings
from flow.usage.recorder import Recorder
from flow.vendors.openai import OpenAIClients
from flow.vendors.posthog import (
    capture_llm_generation,
    capture_trace,
    get_posthog_client,
    shutdown_posthog,
)
from flow.vendors.unkey import DebugKeys, KeyVerifier

if TYPE_CHECKING:
    from flow.bot.calls import Calls
    from flow.bot.pipeline import BotSettings
    from flow.workflows.finish import Extract

logger = structlog.get_logger(__name__)

SERVER_OPTIONS: Mapping[str, Any] = {
    "log_config": None,
    "ws_max_size": 256 * 1024,
    "ws_ping_interval": 10.0,
    "ws_ping_timeout": 20.0,
    "timeout_graceful_shutdown": 30,
    "server_header": False,
}
SECRET_BYTES = 32
EXPIRY_SWEEP_SECS = 60.0
DRAIN_GRACE_SECS = 10.0
NO_KEY = "not-needed"


@dataclass(frozen=True, slots=True)
class Service:
    """A running service: its ASGI app, and the parts that commands and tests look into."""

    app: Any
    database: Database
    recorder: Recorder
    registry: CollectorRegistry


class Application:
    """The service as an ASGI app that is built on start-up and taken down on shutdown."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()
        self._service: Service | None = None

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Serve a request, or the server's own start and stop."""
        if scope["type"] != "lifespan":
            assert self._service is not None, "the server did not start the application"
            await self._service.app(scope, receive, send)
            return
        await receive()
        try:
            self._service = await self._stack.enter_async_context(running(self._settings))
        except Exception as error:
            reason = str(error) if isinstance(error, FlowError) else repr(error)
            logger.error("start_failed", reason=reason)
            await send({"type": "lifespan.startup.failed", "message": reason})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stack.aclose()
        await send({"type": "lifespan.shutdown.complete"})


def application() -> Application:
    """The application of this process's environment; what a server process is given."""
    settings = Settings.read()
    log.set_up(settings.log_level, settings.log_format, content=settings.capture_content)
    check(settings)
    return Application(settings)


def check(settings: Settings) -> None:
    """Say everything that keeps a service from starting with these settings.

    Raises:
        ConfigurationError: one sentence a problem.
    """
    problems: list[str] = []
    if settings.unkey_root_key is None and not settings.debug:
        problems.append(
            "UNKEY_ROOT_KEY is missing: set it, or set FLOW_DEBUG=true to run on this machine"
            " with one local key."
        )
    if (settings.supabase_url is None) != (settings.supabase_service_role_key is None):
        problems.append(
            "SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY go together: set both or neither."
        )
    if settings.openai_api_key is None and settings.openai_base_url is None:
        problems.append(
            "OPENAI_API_KEY is missing: set it, or set OPENAI_BASE_URL to a server of your own."
        )
    shared = settings.database_url or settings.supabase_url
    if shared and settings.secret is None and not settings.debug:
        problems.append(
            "FLOW_SECRET is missing: every host of a shared database must sign call tokens with"
            f" the same secret of at least {SECRET_BYTES} characters."
        )
    if settings.secret and len(settings.secret.get_secret_value()) < SECRET_BYTES:
        problems.append(f"FLOW_SECRET must have at least {SECRET_BYTES} characters.")
    if problems:
        raise ConfigurationError("\n".join(problems))


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Service]:
    """A running service; leaving the context ends its calls and brings their usage home.

    Raises:
        ConfigurationError: the settings do not allow a start.
        DatabaseUnavailable: the database cannot be reached.
    """
    # Pipecat takes seconds to import, and only a process that serves calls needs it.
    from flow.api.app import create_app
    from flow.api.services import Services
    from flow.bot.calls import Calls
    from flow.workflows.finish import FinishCall

    check(settings)
    async with AsyncExitStack() as stack:
        registry = CollectorRegistry()
        price = (await asyncio.to_thread(Pricer.read, settings.prices_file)).price
        database = await stack.enter_async_context(database_of(settings))
        posthog = get_posthog_client(
            settings.posthog_api_key,
            settings.posthog_host,
            capture_content=settings.capture_content,
            price=price,
        )
        stack.push_async_callback(shutdown_posthog, posthog)
        contents: dict[UUID, tuple[list[object], str]] = {}
        recorder, listeners = _recorder(
            settings.data_dir / "spool", database, price, posthog, contents, registry
        )
        stack.push_async_callback(recorder.close)
        recorder.start()
        clients = _clients(settings, posthog)
        stack.push_async_callback(clients["openai"].close)
        calls = Calls(
            threads=database,
            recorder=recorder,
            settings=_bot_settings(settings, clients, contents),
            defaults=_defaults(settings),
            finish=FinishCall(
                database,
                recorder,
                _extract(settings, clients["openai"], recorder),
                lambda thread: _capture_trace(posthog, thread),
            ),
            most=settings.max_calls,
        )
        listeners.append(calls)
        stack.push_async_callback(calls.close, DRAIN_GRACE_SECS)
        keys = _keys(settings, registry)
        stack.push_async_callback(keys.aclose)
        _measure(registry, recorder, calls)
        sweep = asyncio.create_task(
            _expire_forever(database, settings.join_token_secs), name="expire"
        )
        stack.callback(sweep.cancel)
        services = Services(
            database=database,
            keys=keys,
            calls=calls,
            secret=_secret(settings),
            registry=registry,
            public_url=settings.public_url,
            join_token_secs=settings.join_token_secs,
        )
        await asyncio.to_thread(warm_up)
        yield Service(create_app(services), database, recorder, registry)


@asynccontextmanager
async def embedded(data_dir: Path) -> AsyncIterator[str]:
    """The embedded Postgres of a data folder; the folder is told to those who run the service."""
    from flow.db.embedded import embedded_postgres

    logger.info("embedded_database", folder=str(data_dir))
    async with embedded_postgres(data_dir / "postgres") as url:
        yield url


async def apply_migrations(url: str) -> list[str]:
    """Bring the database at ``url`` up to date; the versions applied."""
    from flow.db.migrations import migrate

    return await migrate(url)


async def migrate(settings: Settings) -> list[str]:
    """Bring the database the settings name up to date; the versions applied.

    Raises:
        ConfigurationError: Supabase is named, but no URL of its Postgres.
    """
    if settings.database_url is not None:
        return await apply_migrations(settings.database_url.get_secret_value())
    if settings.supabase_url is not None:
        raise ConfigurationError(
            "Migrations need DATABASE_URL, the direct connection string of the Supabase project;"
            " or apply them with `supabase db push`."
        )
    async with embedded(settings.data_dir) as url:
        return await apply_migrations(url)


async def _postgres(url: str) -> Transport:
    from flow.db.postgres import PostgresTransport

    return await PostgresTransport.open(url)


@asynccontextmanager
async def database_of(settings: Settings) -> AsyncIterator[Database]:
    """The database the settings name: Postgres, Supabase, or one embedded in the data folder.

    The embedded one is brought up to date; the others' migrations are the operator's to apply.
    """
    async with AsyncExitStack() as stack:
        if settings.database_url is not None:
            transport: Transport = await _postgres(settings.database_url.get_secret_value())
        elif settings.supabase_url and settings.supabase_service_role_key:
            from flow.db.supabase import SupabaseTransport

            key = settings.supabase_service_role_key.get_secret_value()
            transport = await SupabaseTransport.open(settings.supabase_url, key)
        else:
            url = await stack.enter_async_context(embedded(settings.data_dir))
            await apply_migrations(url)
            transport = await _postgres(url)
        database = Database(transport)
        stack.push_async_callback(database.close)
        await database.ping()
        yield database


def _recorder(
    spool: Path,
    database: Database,
    price: Callable[[UsageEvent], UsageEvent],
    posthog: Posthog | None,
    contents: dict[UUID, tuple[list[object], str]],
    registry: CollectorRegistry,
) -> tuple[Recorder, list[Calls]]:
    """The recorder, and the list of whoever is to hear what the ledger says of running calls."""
    listeners: list[Calls] = []
    unpriced = Counter(
        "flow_unpriced_events",
        "Ledger rows for which no price is known.",
        ["kind"],
        registry=registry,
    )

    def on_recorded(events: Sequence[UsageEvent], recorded: Recorded) -> None:
        for event in events:
            if event.cost is None and event.id in recorded.new:
                unpriced.labels(event.kind.value).inc()
            kept = contents.pop(event.id, None)
            said = kept and Content(kept[0], [{"role": "assistant", "content": kept[1]}])
            capture_llm_generation(posthog, event, content=said)
        for thread_id, account in recorded.threads.items():
            if account.end_requested:
                for calls in listeners:
                    calls.end_requested(thread_id)

    recorder = Recorder(
        database,
        spool,
        price=price,
        on_recorded=on_recorded,
    )
    return recorder, listeners


def _clients(settings: Settings, posthog: Posthog | None) -> dict[str, OpenAIClients]:
    """Clients for OpenAI and for every other vendor whose key is in the environment."""
    from flow.bot.services import VENDORS

    openai = OpenAIClients(
        settings.openai_api_key or SecretStr(NO_KEY), settings.openai_base_url, posthog=posthog
    )
    clients = {"openai": openai}
    for name, vendor in VENDORS.items():
        key = os.environ.get(vendor.key, "")
        url = os.environ.get(vendor.key.replace("_API_KEY", "_BASE_URL")) or vendor.base_url
        if key and url and name != "openai":
            clients[name] = openai.elsewhere(SecretStr(key), url)
    return clients


def _bot_settings(
    settings: Settings,
    clients: Mapping[str, OpenAIClients],
    contents: dict[UUID, tuple[list[object], str]],
) -> BotSettings:
    from flow.bot.pipeline import BotSettings

    return BotSettings(
        clients=clients,
        idle_timeout_secs=settings.idle_timeout_secs,
        turn_detection=settings.turn_detection,
        interrupted_streams=settings.interrupted_streams,
        contents=contents if settings.capture_content else None,
    )


def _defaults(settings: Settings) -> dict[str, dict[str, str]]:
    return {
        "llm": {"provider": settings.llm_provider, "model": settings.llm_model},
        "stt": {"provider": settings.stt_provider, "model": settings.stt_model},
        "tts": {
            "provider": settings.tts_provider,
            "model": settings.tts_model,
            "voice": settings.tts_voice,
        },
    }


def _extract(settings: Settings, clients: OpenAIClients, recorder: Recorder) -> Extract:
    step = ExtractInsightsStep(
        clients,
        settings.insights_model,
        capture_content=settings.capture_content,
        begin=recorder.begin,
    )

    async def extract(thread: Thread, owner: Owner) -> tuple[dict[str, Any], Sequence[UsageEvent]]:
        extraction = await step.run(thread, owner)
        return extraction.result.to_json(), extraction.events

    return extract


def _capture_trace(posthog: Posthog | None, thread: Thread) -> None:
    owner = Owner(thread.id, thread.api_key_id, thread.team_id, thread.product, thread.billable)
    started = thread.connected_at or thread.created_at
    capture_trace(
        posthog,
        owner,
        started_at=started,
        ended_at=thread.ended_at or started,
        error=str(thread.error.get("code")) if thread.error else None,
    )


def _keys(settings: Settings, registry: CollectorRegistry) -> KeyVerifier | DebugKeys:
    if settings.unkey_root_key is not None:
        root_key = settings.unkey_root_key.get_secret_value()
        return KeyVerifier(root_key, base_url=settings.unkey_base_url, registry=registry)
    logger.warning(
        "debug_mode",
        meaning="no Unkey: every caller with the debug key is let in; never expose this service",
    )
    return DebugKeys(settings.debug_api_key.get_secret_value())


def _secret(settings: Settings) -> bytes:
    """The signing secret: the operator's, or one made once and kept in the data folder."""
    if settings.secret is not None:
        return settings.secret.get_secret_value().encode()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    path = settings.data_dir / "secret"
    with suppress(FileExistsError):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(secrets.token_urlsafe(SECRET_BYTES))
    return path.read_bytes()


def _measure(registry: CollectorRegistry, recorder: Recorder, calls: Calls) -> None:
    waiting = Gauge("flow_spool_events", "Events waiting for the ledger.", registry=registry)
    waiting.set_function(lambda: recorder.depth)
    running = Gauge("flow_calls_running", "Calls running in this process.", registry=registry)
    running.set_function(lambda: calls.running)


async def _expire_forever(database: Database, join_token_secs: int) -> None:
    """Expire the threads whose token ran out before anybody connected."""
    while True:
        try:
            expired = await database.expire_threads(
                datetime.now(UTC) - timedelta(seconds=join_token_secs + EXPIRY_SWEEP_SECS)
            )
            if expired:
                logger.info("threads_expired", threads=len(expired))
        except FlowError as error:
            logger.warning("expiry_sweep_missed", error=str(error))
        await asyncio.sleep(EXPIRY_SWEEP_SECS)
