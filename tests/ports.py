"""Ports for servers that cannot be told to choose one."""

from __future__ import annotations

import random
import socket

# Below those that systems give to connections going out (from 32768 on Linux): one of these is not
# taken by a client between the choice and the server's start.
PORTS = range(20_000, 32_000)


def free_port() -> int:
    """A TCP port of this machine that nobody listens on at the moment."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
