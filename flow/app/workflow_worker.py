"""The ``flow worker`` command: workflows, sweeps and room calls in a process without customers."""

from __future__ import annotations

import asyncio

import structlog

from flow.app import garbage_collection as garbage
from flow.app.asgi import SERVER_OPTIONS
from flow.app.database import require_existing
from flow.app.run_server import serve
from flow.app.service import run_service
from flow.app.stop_signals import stop_signals
from flow.errors import ConfigurationError
from flow.settings import Settings
from flow.telemetry import logs as log

logger = structlog.get_logger(__name__)


def run(settings: Settings, *, host: str, port: int | None) -> int:
    """Run workflows and sweeps until SIGTERM or SIGINT; the exit status.

    Args:
        port: where health and metrics are answered; ``None``: nowhere.

    Raises:
        ConfigurationError: the settings leave nothing to do, or name no database that is there.
        DatabaseUnavailable: the database cannot be reached.
    """
    if settings.workflows == "off":
        raise ConfigurationError("FLOW_WORKFLOWS=off leaves a worker nothing to do.")
    require_existing(settings)
    if port is not None:
        app = "flow.app.asgi:operations"
        return serve(app, host=host, port=port, workers=1, options=SERVER_OPTIONS)
    log.set_up(settings.log_level, settings.log_format, content=settings.capture_content)
    asyncio.run(_until_stopped(settings))
    return 0


async def _until_stopped(settings: Settings) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    with stop_signals(lambda: loop.call_soon_threadsafe(stopped.set)):
        # The whole service but its server: nobody can connect to it.
        async with run_service(settings) as service:
            garbage.collect_the_rest()
            logger.info("worker_ready")
            await stopped.wait()
            await service.drain()
