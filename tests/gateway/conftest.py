"""The service with its gateway, for all tests of a file, and a key for each test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import anthropic
import httpx
import openai
import psycopg
import pytest
import pytest_asyncio
from psycopg.conninfo import make_conninfo
from structlog.testing import capture_logs

from flow.app.service import Service, run_service
from flow.domain.limits.api_key import ApiKey
from flow.sandbox.all_vendors import Vendors, vendors
from flow.sandbox.bill import Line
from flow.sandbox.model_vendors import MODEL_VENDORS
from flow.sandbox.openai.chat import Pace
from flow.sandbox.openai.replies import Reply
from flow.sandbox.posthog.events import Event
from flow.sandbox.reconcile import reconcile_all
from flow.settings import Settings
from tests.calls.conftest import _listening
from tests.gateway.wire import Wire

PATIENCE_SECS = 60.0
REPLY = "This is a reply of some length, so that it comes in more than a few pieces of its own."
THOUGHTS = 30
"""Tokens that the model spends on thinking before it answers a second turn of a user."""
WIRE_KEY = "the-operators-own-key-of-this-vendor"
PRODUCTS = """
[gateway]
billable = true
calls = false
gateway = true
[gateway.saving]
max_tokens = 20
instruction = "Be brief."
prompt_cache = true
models = { "openai/gpt-4.1" = "openai/gpt-4.1-mini" }

[backed]
billable = true
calls = false
gateway = true
fallbacks = ["openai/gpt-4.1-mini", "openai/gpt-4.1-nano"]

[odd]
billable = true
calls = false
gateway = true
fallbacks = ["groq/without-a-price"]

[small]
billable = false
calls = false
gateway = true
aliases = ["little"]
permission = "product.small"
[small.llm]
allowed = ["openai/gpt-4.1-mini", "anthropic/*", "groq/*"]
[small.tts]
allowed = ["openai/tts-*"]

[calls]
billable = true
"""


@dataclass
class Caller:
    """A key and its clients, which try once."""

    world: World
    secret: str
    key: ApiKey
    openai: openai.AsyncOpenAI
    anthropic: anthropic.AsyncAnthropic
    http: httpx.AsyncClient

    async def rows(self, count: int = 1, **query: Any) -> list[dict[str, Any]]:
        """The rows of the key's requests, oldest first, once there are so many."""
        async with asyncio.timeout(PATIENCE_SECS):
            while True:
                answer = await self.http.get("/api/requests", params=query)
                found: list[dict[str, Any]] = answer.json()["requests"]
                if len(found) >= count:
                    assert len(found) == count, found
                    return found[::-1]
                await asyncio.sleep(0.02)

    async def row(self) -> dict[str, Any]:
        """The row of the only request."""
        return (await self.rows())[0]

    async def event(self, row: dict[str, Any]) -> Event:
        """What PostHog got of a row."""
        async with asyncio.timeout(PATIENCE_SECS):
            while True:
                for event in self.world.vendors.posthog.events:
                    if event.uuid == row["id"]:
                        return event
                await asyncio.sleep(0.02)

    async def conserved(self, count: int) -> list[dict[str, Any]]:
        """The rows, after holding them against the bills of what was served meanwhile."""
        rows = await self.rows(count)
        async with asyncio.timeout(PATIENCE_SECS):
            bills = await self.world.billed()
        assert [one for one in reconcile_all(rows, bills) if not one.agrees] == []
        for row in rows:
            costs = [Decimal(line["cost_usd"] or 0) for line in row["lines"]]
            assert sum(costs, Decimal(0)) == Decimal(row["total_cost_usd"])
        return rows

    async def budget(self, usd: str | None) -> None:
        """Give the key a budget, or none, which counts from the next second on."""
        cap = None if usd is None else Decimal(usd)
        await self.world.service.database.operating.set_budget(self.key.id, cap)


@dataclass
class World:
    """A running service; ``wire`` is the vendor ``groq``."""

    url: str
    service: Service
    vendors: Vendors
    wire: Wire
    _billed: dict[str, int] = field(default_factory=dict)
    _clients: list[Any] = field(default_factory=list)

    async def caller(self, permissions: Sequence[str] = ()) -> Caller:
        """A new key."""
        secret = f"flow_{uuid4().hex}"
        team = f"team_{uuid4().hex[:8]}"
        self.vendors.unkey.add_key(secret, name=secret, team_id=team, permissions=permissions)
        http = httpx.AsyncClient(
            base_url=self.url,
            headers={"x-api-key": secret},
            timeout=PATIENCE_SECS,
            trust_env=False,
            verify=False,
        )
        (await http.get("/api/limits")).raise_for_status()
        key = (await self.service.database.operating.get_api_key(secret)).key
        caller = Caller(
            self,
            secret,
            key,
            openai.AsyncOpenAI(api_key=secret, base_url=f"{self.url}/v1", max_retries=0),
            anthropic.AsyncAnthropic(api_key=secret, base_url=self.url, max_retries=0),
            http,
        )
        self._clients += [caller.openai, caller.anthropic]
        return caller

    async def billed(self) -> dict[str, list[Line]]:
        """What the stand-ins have billed since the test began."""
        bills = await self.vendors.billed()
        return {name: lines[self._billed.get(name, 0) :] for name, lines in bills.items()}

    async def fresh(self) -> None:
        """Forget what other tests did."""
        for vendor in self.vendors.models.values():
            vendor.faults.clear()
        self.wire.clear()
        bills = await self.vendors.billed()
        self._billed = {name: len(lines) for name, lines in bills.items()}


@asynccontextmanager
async def running(
    postgres_url: str, folder: Path, *, wired: Collection[str] = (), **settings: Any
) -> AsyncIterator[World]:
    """A service with its gateway over stand-ins, and over a `Wire`, which takes the place of those
    that are ``wired`` as well."""
    products = folder / "products.toml"
    products.write_text(PRODUCTS)
    wire = Wire()
    replies = [REPLY, Reply(REPLY, reasoning_tokens=THOUGHTS)]
    others = ["anthropic", "azure", "google"]
    async with (
        vendors(replies, models=others, pace=Pace(token_secs=0.001)) as stood_in,
        wire as wire_url,
    ):
        environment = {
            **stood_in.environment,
            "GROQ_API_KEY": WIRE_KEY,
            "GROQ_BASE_URL": f"{wire_url}/openai/v1",
        }
        for name in wired:
            environment |= MODEL_VENDORS[name].environment(wire_url)
        known: dict[str, Any] = {
            "database_url": postgres_url,
            "data_dir": folder / "data",
            "products_file": products,
            "debug": True,
            "cost_controls": "on",
            "workflows": "off",
        }
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.delenv("DATABASE_URL", raising=False)
            async with (
                run_service(Settings(**(known | settings))) as service,
                _listening(service) as url,
            ):
                yield World(url, service, stood_in, wire)


@pytest.fixture(scope="module")
def module_postgres_url(postgres: str, template: str) -> Any:
    """A database for all tests of a file."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"create database {name} template {template}".encode())
        yield make_conninfo(postgres, dbname=name)
        connection.execute(f"drop database {name} with (force)".encode())


@pytest.fixture(scope="module")
def module_settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a file's service is set to: its ``SETTINGS``, and which vendors are ``WIRED``."""
    wired = getattr(request.module, "WIRED", ())
    return {"wired": wired, **getattr(request.module, "SETTINGS", {})}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_world(
    module_postgres_url: str,
    module_settings: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[World]:
    with capture_logs():
        async with running(
            module_postgres_url, tmp_path_factory.mktemp("service"), **module_settings
        ) as world:
            yield world


@pytest_asyncio.fixture(loop_scope="module")
async def world(module_world: World) -> World:
    """The file's service, as if no test had run before."""
    await module_world.fresh()
    return module_world


@pytest_asyncio.fixture(loop_scope="module")
async def caller(world: World) -> Caller:
    """A key that may do everything."""
    return await world.caller(["product.small"])
