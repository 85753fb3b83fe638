"""Whole calls: the real service on a real database, with stand-ins for the vendors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
import uvicorn
from psycopg.conninfo import make_conninfo

from flow.api.pages import DevPages
from flow.app.asgi import SERVER_OPTIONS
from flow.app.service import Service, run_service
from flow.bot.transports.room_packages import RoomMedia
from flow.db.connection_url import url_of
from flow.db.database import Database
from flow.domain.calls.thread import Thread
from flow.sandbox.all_vendors import Vendors
from flow.sandbox.reconcile import reconcile_all
from flow.settings import Settings
from flow.workflows.finish_workflow import Executor

SECRET = "a secret of the tests, and of nothing else"
# However slow the machine is: a test that waits for so long has failed.
SETTLE_SECS = 90.0


@pytest.fixture(scope="session")
def template(postgres: str, template: str) -> str:
    """Name of a database in which Flow has run: DBOS makes its tables when it is first launched."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"create database run_before template {template}".encode())
    asyncio.run(_run_in(url_of(make_conninfo(postgres, dbname="run_before"))))
    return "run_before"


async def _run_in(database_url: str) -> None:
    executor = await Executor.launch(database_url, "template", [])
    await executor.close()


@dataclass(frozen=True, slots=True)
class Serving:
    """The service at ``url``; ``http`` is a client with the customer's key."""

    url: str
    service: Service
    vendors: Vendors
    http: httpx.AsyncClient

    async def settled(self, thread_id: str) -> Thread:
        """The thread once it is in a final state."""
        async with asyncio.timeout(SETTLE_SECS):
            while True:
                thread = await self.service.database.get_workflow_thread_data(UUID(thread_id))
                if thread.status.is_final:
                    return thread
                await asyncio.sleep(0.05)

    async def conserved(self, thread: Thread) -> list[dict[str, Any]]:
        """The thread's ledger rows, after checking them against everything that repeats them."""
        rows = await self.service.database.get_thread_usage(thread.id)
        total = sum((Decimal(row["total_cost_usd"] or 0) for row in rows), Decimal(0))
        assert Decimal(thread.usage_stats["total_cost_usd"]) == total
        assert sum(map(Decimal, thread.usage_stats["cost_breakdown_usd"].values())) == total
        assert len({row["id"] for row in rows}) == len(rows)
        async with asyncio.timeout(SETTLE_SECS):
            bills = await self.vendors.billed()
        assert [one for one in reconcile_all(rows, bills) if not one.agrees] == []
        return rows


def quantity(row: dict[str, Any], unit: str) -> Decimal:
    """How much of a unit a row of the ledger has."""
    return sum(
        (Decimal(line["quantity"]) for line in row["lines"] if line["unit"] == unit), Decimal(0)
    )


async def key_of(http: httpx.AsyncClient, database: Database) -> UUID:
    """The id of the customer's key, whose row is made at its first request."""
    (await http.get("/api/limits", timeout=30)).raise_for_status()
    return (await database.operating.get_api_key("sandbox")).key.id


Serve = Callable[..., AbstractAsyncContextManager[Serving]]


@pytest.fixture
def serving(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """``async with serving(vendors, max_calls=1) as served``: the service with some settings."""

    return partial(running, postgres_url, tmp_path, monkeypatch)


@asynccontextmanager
async def running(
    postgres_url: str,
    data_dir: Path,
    environment: pytest.MonkeyPatch,
    vendors: Vendors,
    *,
    media: RoomMedia | None = None,
    dev_pages: DevPages | None = None,
    **settings: Any,
) -> AsyncIterator[Serving]:
    """The service on this database and folder, with some settings."""
    # A vendor of models that the settings have no field for is found in the environment.
    for name, value in vendors.environment.items():
        environment.setenv(name, value)
    known: dict[str, Any] = {k.lower(): v for k, v in vendors.environment.items()}
    known |= {"database_url": postgres_url, "secret": SECRET, "data_dir": data_dir}
    async with (
        run_service(Settings(**(known | settings)), media=media, dev_pages=dev_pages) as service,
        _listening(service) as url,
        httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {vendors.api_key}"},
            timeout=30,
            trust_env=False,
            verify=False,
        ) as http,
    ):
        yield Serving(url, service, vendors, http)


@asynccontextmanager
async def _listening(service: Service) -> AsyncIterator[str]:
    config = uvicorn.Config(service.app, host="127.0.0.1", port=0, lifespan="off", **SERVER_OPTIONS)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
