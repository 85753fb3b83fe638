"""The ``flow worker`` command: what follows calls, in a process that carries none."""

from __future__ import annotations

import asyncio
import signal

import structlog

from flow import log
from flow.errors import ConfigurationError
from flow.service.running import running
from flow.settings import Settings

logger = structlog.get_logger(__name__)


def run(settings: Settings) -> None:
    """Run workflows and sweeps until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: the settings leave nothing to do.
        DatabaseUnavailable: the database cannot be reached.
    """
    if settings.workflows == "off":
        raise ConfigurationError("FLOW_WORKFLOWS=off leaves a worker nothing to do.")
    log.set_up(settings.log_level, settings.log_format, content=settings.capture_content)
    asyncio.run(_until_stopped(settings))


async def _until_stopped(settings: Settings) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    # The whole service but its server: nobody can connect, so it never has a call.
    async with running(settings):
        logger.info("worker_ready")
        await stopped.wait()
