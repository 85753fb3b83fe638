"""Serving an application in this process, or in several that share a port."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from flow.app import garbage_collection as garbage
from flow.app.server import Server
from flow.app.supervisor import Supervisor


def serve(app: str, *, host: str, port: int, workers: int, options: Mapping[str, Any]) -> int:
    """Serve the application that the factory ``app`` makes until a signal; the exit status.

    Args:
        workers: processes that share the port; more than one are supervised.
        options: further ones of uvicorn.
    """
    config = uvicorn.Config(app, factory=True, host=host, port=port, workers=workers, **options)
    if workers > 1:
        garbage.collect_the_rest()
        return Supervisor(config, [config.bind_socket()]).supervise()
    server = Server(config)
    server.run()
    return 0 if server.started else STARTUP_FAILURE
