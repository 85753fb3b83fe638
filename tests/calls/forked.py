"""What such a process begins with. Importing this loads most of what Flow ever does."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection

for _name in (
    "anyio._backends._asyncio",
    "dbos",
    "flow.api.app",
    "flow.app.asgi",
    "flow.bot.calls.call_manager",
    "flow.bot.warmup",
    "flow.bot.join_resolver",
    "flow.bot.calls.room_calls",
    "flow.bot.services",
    "flow.cli",
    "flow.db.postgres_transport",
    "flow.app.workflow_worker",
    "flow.workflows.webhook_delivery",
    "flow.workflows.finish_workflow",
    "genai_prices.data",
    "httpcore",
    "httpcore2",
    "openai.resources.chat",
    "unkey.py.keys",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.protocols.websockets.auto",
):
    import_module(_name)


def begin(
    log: Connection, environment: dict[str, str], run: Callable[..., None], arguments: list[str]
) -> None:
    """Run this with another environment and the log in place of stderr, in a group of its own."""
    os.setsid()
    os.dup2(log.fileno(), sys.stderr.fileno())
    log.close()
    os.environ.clear()
    os.environ.update(environment)
    run(*arguments)


def flow(*arguments: str) -> None:
    """The command line."""
    from flow.cli import main

    sys.argv = ["flow", *arguments]
    main()
