"""A billing service that can be told to fail, a quota source that asks it, and the time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from uuid import UUID

import certifi
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from flow.domain.limits.api_key import ApiKey
from flow.errors import QuotaUnavailable, Refused
from flow.sandbox.faults import Fault
from flow.sandbox.quota import TOKEN, QuotaSandbox
from flow.sandbox.server import Served
from flow.vendors.quota_cache import QuotaSource, QuotaState

KEY = ApiKey(UUID(int=1), "key_1", "team_1", "Production")
PRODUCT = "voice_bot"
COUNTER = "flow_quota_checks_total"
# 2026-11-30T00:00:00Z, when the clock of a test stands at 0.
START = datetime(2026, 11, 30, tzinfo=UTC).timestamp()


@dataclass
class Clock:
    """Seconds, moved by hand, and the time of day that goes with them."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds

    def wall(self) -> float:
        return START + self.seconds


@dataclass
class World:
    """A quota source, the billing service it asks, and the time."""

    billing: QuotaSandbox
    source: QuotaSource
    clock: Clock
    registry: CollectorRegistry
    url: str
    stack: AsyncExitStack

    @property
    def asked(self) -> int:
        return len(self.billing.requests)

    async def check(self, key: ApiKey = KEY, product: str = PRODUCT) -> QuotaState:
        return await self.source.check(key, product)

    async def verdict(self, key: ApiKey = KEY, product: str = PRODUCT) -> str:
        try:
            await self.source.check(key, product)
        except Refused:
            return "limited"
        except QuotaUnavailable:
            return "unavailable"
        return "in"

    def counted(self, outcome: str) -> float:
        return self.registry.get_sample_value(COUNTER, {"outcome": outcome}) or 0

    def fail(self, **fault: Any) -> None:
        """From now on the billing service has this fault and no other."""
        self.billing.faults.clear()
        self.billing.faults.add(Fault.model_validate({"kind": "status", "status": 500} | fault))

    def recover(self) -> None:
        self.billing.faults.clear()

    async def until_asked(self, times: int) -> None:
        async with asyncio.timeout(20):
            while self.asked < times:
                await asyncio.sleep(0.01)

    def another(self, url: str, **options: Any) -> QuotaSource:
        """A source of its own; closed with the world."""
        options = {"clock": self.clock, "wall_clock": self.clock.wall, **options}
        with one_authority():
            source = QuotaSource(url, **options)
        self.stack.push_async_callback(source.aclose)
        return source


@contextmanager
def one_authority() -> Iterator[None]:
    """Trust one certificate authority, not all: loading them takes longer than any test."""
    end = "-----END CERTIFICATE-----\n"
    first = Path(certifi.where()).read_text("utf-8").partition(end)[0] + end
    with NamedTemporaryFile("w", suffix=".pem") as file, pytest.MonkeyPatch.context() as patch:
        file.write(first)
        file.flush()
        patch.setenv("SSL_CERT_FILE", file.name)
        yield


@asynccontextmanager
async def running_world(time_limit_secs: float = 0.5) -> AsyncIterator[World]:
    clock, registry, billing = Clock(), CollectorRegistry(), QuotaSandbox()
    async with AsyncExitStack() as stack:
        url = f"{await stack.enter_async_context(Served(billing))}/quota"
        with one_authority():
            source = QuotaSource(
                url,
                token=SecretStr(TOKEN),
                clock=clock,
                wall_clock=clock.wall,
                registry=registry,
                time_limit_secs=time_limit_secs,
            )
        stack.push_async_callback(source.aclose)
        yield World(billing, source, clock, registry, url, stack)


@dataclass
class Lab:
    """One world for all examples; each asks for a team, and so has a memory, of its own."""

    run: Callable[[Any], Any]
    world: World
    teams: int = 0

    def new_team(self) -> ApiKey:
        self.teams += 1
        return at(team_id=f"team_{self.teams}")


@contextmanager
def running_lab() -> Iterator[Lab]:
    """A world on a loop of its own, for tests that share one."""
    with asyncio.Runner() as runner:
        running = running_world(time_limit_secs=30)
        world = runner.run(running.__aenter__())
        # Counted by length, so none may be pushed out.
        world.billing.requests = deque()
        try:
            yield Lab(runner.run, world)
        finally:
            runner.run(running.__aexit__(None, None, None))


def at(**named: Any) -> ApiKey:
    return replace(KEY, **named)


def status(code: int, **more: Any) -> dict[str, Any]:
    return {"kind": "status", "status": code, **more}


def says(body: Any) -> dict[str, Any]:
    return {"kind": "status", "status": 200, "body": body}
