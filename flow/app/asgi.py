"""The service as an ASGI application, and the checks of its settings."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import structlog

from flow.app import garbage_collection as garbage
from flow.app.database import SUPABASE_PAIR
from flow.app.server import DRAIN
from flow.app.service import Service, run_service
from flow.errors import ConfigurationError, FlowError
from flow.settings import Settings
from flow.telemetry import logs as log

if TYPE_CHECKING:
    from flow.api.pages import DevPages
    from flow.bot.transports.room_packages import RoomMedia

logger = structlog.get_logger(__name__)

SECRET_CHARACTERS = 32
SERVER_OPTIONS: Mapping[str, Any] = {
    "log_config": None,
    "http": "flow.api.http_protocol:PatientProtocol",
    "ws": "flow.api.websocket_protocol:RefusableWebSocketProtocol",
    "ws_max_size": 256 * 1024,
    # Sound hardly gets smaller, and compressing it takes more time than all else about a frame.
    "ws_per_message_deflate": False,
    "ws_ping_interval": 10.0,
    "ws_ping_timeout": 20.0,
    # Longer than load balancers keep a connection idle (60 s and less): they should close it first.
    "timeout_keep_alive": 75,
    "timeout_graceful_shutdown": 30,
    "server_header": False,
}


class Application:
    """The service as an ASGI app that is built on start-up and taken down on shutdown.

    Args:
        operations_only: serve health and metrics, and nothing to customers.
        media: as `flow.app.service.run_service` takes it, as well as ``dev_pages``.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        operations_only: bool = False,
        media: RoomMedia | None = None,
        dev_pages: DevPages | None = None,
    ) -> None:
        self._settings = settings
        self._media = media
        self._dev_pages = dev_pages
        self._operations_only = operations_only
        self._stack = AsyncExitStack()
        self._service: Service | None = None

    @property
    def service(self) -> Service:
        """The running service; there is one between start-up and shutdown."""
        assert self._service is not None, "the application has not been started"
        return self._service

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Serve a request, or the server's own start and stop."""
        if scope["type"] != "lifespan":
            service = self.service
            app = service.operations if self._operations_only else service.app
            await app(scope, receive, send)
            return
        await receive()
        try:
            self._service = await self._stack.enter_async_context(
                run_service(self._settings, media=self._media, dev_pages=self._dev_pages)
            )
        except Exception as error:
            reason = error.for_operator if isinstance(error, FlowError) else repr(error)
            logger.error("start_failed", reason=reason)
            await send({"type": "lifespan.startup.failed", "message": reason})
            return
        garbage.collect_the_rest()
        scope["state"][DRAIN] = self._service.drain
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stack.aclose()
        await send({"type": "lifespan.shutdown.complete"})


def application() -> Application:
    """The application, set up from the environment: the factory that a server runs."""
    return Application(_settings())


def operations() -> Application:
    """The same with health and metrics alone: the factory that a worker runs."""
    return Application(_settings(), operations_only=True)


def development() -> Application:
    """The application whose pages know the key in ``FLOW_DEV_KEY``: the factory of ``flow dev``,
    and of nothing that others can reach."""
    from flow.api.pages import DevPages

    return Application(_settings(), dev_pages=DevPages(os.environ.get("FLOW_DEV_KEY") or None))


def _settings() -> Settings:
    settings = Settings.read()
    log.set_up(settings.log_level, settings.log_format, content=settings.capture_content)
    check(settings)
    return settings


def check(settings: Settings) -> None:
    """Refuse settings that a service must not start with.

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
        problems.append(SUPABASE_PAIR)
    if settings.openai_api_key is None and settings.openai_base_url is None:
        problems.append(
            "OPENAI_API_KEY is missing: set it, or set OPENAI_BASE_URL to a server of your own."
        )
    if settings.cost_controls is not None and not settings.debug:
        problems.append(
            "FLOW_COST_CONTROLS works with FLOW_DEBUG=true only: elsewhere the feature flag"
            " flow-cost-controls at PostHog decides."
        )
    if settings.webhooks_allow_private and not settings.debug:
        problems.append(
            "FLOW_WEBHOOKS_ALLOW_PRIVATE works with FLOW_DEBUG=true only: elsewhere a customer"
            " could have Flow call machines of your own network."
        )
    if settings.quota_token is not None and settings.quota_url is None:
        problems.append("FLOW_QUOTA_TOKEN is for FLOW_QUOTA_URL, which is missing.")
    shared = settings.database_url or settings.supabase_url
    if shared and settings.secret is None and not settings.debug:
        problems.append(
            "FLOW_SECRET is missing: every host of a shared database must sign call tokens with"
            f" the same secret of at least {SECRET_CHARACTERS} characters."
        )
    if settings.secret and len(settings.secret.get_secret_value()) < SECRET_CHARACTERS:
        problems.append(f"FLOW_SECRET must have at least {SECRET_CHARACTERS} characters.")
    if problems:
        raise ConfigurationError("\n".join(problems))
