"""This machine: the disk of the spool, the port to listen on, and the address for callers."""

from __future__ import annotations

import errno
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx

from flow.ledger.spool import Spool
from flow.operate.doctor.answers import Asker, NoAnswer
from flow.operate.doctor.finding import Finding, ok, problem, skipped, warning
from flow.settings import Settings

SPOOL = "spool"
LITTLE_BYTES = 1 << 30
TOO_LITTLE_BYTES = 100 << 20


def disk_findings(data_dir: Path) -> Iterator[Finding]:
    """Whether the spool can be written, has room, and holds what killed processes left."""
    at = folder = data_dir.expanduser().resolve()
    try:
        # Asking whether a folder is there takes the right to look into the one above it.
        at = next(place for place in (folder, *folder.parents) if place.exists())
        with tempfile.TemporaryFile(dir=at):
            free = shutil.disk_usage(at).free
        yield _room(at, free, is_there=at == folder)
        at = folder / "spool"
        yield from _left_in(at)
    except OSError as error:
        cure = "Set FLOW_DATA_DIR to a folder of this user's that outlives the process."
        yield problem(SPOOL, f"{at} cannot be read and written: {error.strerror}", cure)


def _left_in(spool: Path) -> Iterator[Finding]:
    left, size = Spool.left_behind(spool)
    if left:
        said = f"{left} left by killed processes hold {_size(size)} of usage not in the ledger"
        yield warning(SPOOL, said, "A service or worker that starts on this folder records it.")
    if (kept := spool / "quarantine.ndjson").exists():
        said = f"{kept} holds {_size(kept.stat().st_size)} that the database refused"
        yield warning(SPOOL, said, "Read it: each line says why. Then remove the file.")


def _room(there: Path, free: int, *, is_there: bool) -> Finding:
    said = f"{there} has {_size(free)} free"
    cure = "Free some: usage that the database has not taken waits here."
    if free < TOO_LITTLE_BYTES:
        return problem(SPOOL, said, cure)
    if free < LITTLE_BYTES:
        return warning(SPOOL, said, cure)
    return ok(SPOOL, said if is_there else f"{said}; the folder will be made in it")


def _size(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


async def port_finding(settings: Settings, asker: Asker) -> Finding:
    """Whether the port is free, or Flow itself listens on it."""
    name, host, port = "port", settings.host, settings.port
    where = f"{host}:{port}"
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((host, port))
        return ok(name, f"{where} is free")
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            cure = "Set FLOW_HOST to an address of this machine, and FLOW_PORT to a port."
            return problem(name, f"{where} cannot be listened on: {error.strerror}", cure)
    at = "127.0.0.1" if host in ("0.0.0.0", "") else "[::1]" if host == "::" else host  # noqa: S104
    if await _is_flow(asker, f"http://{at}:{port}"):
        return ok(name, f"Flow listens on {where}")
    return problem(name, f"another program listens on {where}", "Set FLOW_PORT to another port.")


async def public_url_finding(settings: Settings, asker: Asker) -> Finding:
    """Whether callers who are told ``FLOW_PUBLIC_URL`` come to a Flow."""
    name, url = "public URL", settings.public_url
    if url is None:
        return skipped(name, "not set: callers are told the address that a join came to")
    if await _is_flow(asker, url.rstrip("/"), "the public URL"):
        return ok(name, f"Flow answers at {url}")
    cure = "See that `flow serve` runs, and that FLOW_PUBLIC_URL and the proxy lead to it."
    return problem(name, f"no Flow answers at {url}/healthz", cure)


async def _is_flow(asker: Asker, url: str, whose: str | None = None) -> bool:
    try:
        answer = await asker.ask(whose, httpx.Request("GET", f"{url}/healthz"))
        return answer.is_success and answer.json() == {"status": "ok"}
    except (NoAnswer, ValueError):
        return False
