"""How old an answer is: what was asked long ago is old, however lately the answer came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from flow.errors import AuthUnavailable, QuotaUnavailable
from flow.sandbox.faults import Fault
from flow.sandbox.quota import TOKEN, Quota
from flow.sandbox.server import Served
from flow.sandbox.unkey.app import ROOT_KEY, UnkeySandbox
from flow.vendors.key_verification_cache import REUSE_SECS, KeyVerifier
from tests.vendors.quota_world import KEY, PRODUCT, World, one_authority, running_world

ANSWER_SECS = 4.0


class Slow:
    """A server whose answers take their time, on the clock of a test."""

    def __init__(self, app: ASGIApp, wait: Callable[[float], None]) -> None:
        self._app = app
        self._wait = wait
        self.takes_secs = ANSWER_SECS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._wait(self.takes_secs)
        await self._app(scope, receive, send)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running_world() as world:
        yield world


@pytest.mark.parametrize(
    ("limited", "age", "asked"),
    [(False, 14.9, 1), (False, 15.1, 2), (True, 4.9, 1), (True, 5.1, 2)],
)
async def test_a_quota_s_answer_is_reused_by_the_age_of_its_question(
    world: World, limited: bool, age: float, asked: int
) -> None:
    world.billing.set_quota(KEY.team_id, Quota(limited=limited))
    async with Served(Slow(world.billing, world_waits(world))) as url:
        source = world.another(f"{url}/quota", token=SecretStr(TOKEN))
        await source.state(KEY, PRODUCT)
        world.clock.seconds = age
        await source.state(KEY, PRODUCT)
    assert world.asked == asked


@pytest.mark.parametrize(("age", "goes_on"), [(59.9, True), (60.1, False)])
async def test_a_failing_source_fails_open_by_the_age_of_the_question(
    world: World, age: float, goes_on: bool
) -> None:
    slow = Slow(world.billing, world_waits(world))
    async with Served(slow) as url:
        source = world.another(f"{url}/quota", token=SecretStr(TOKEN))
        await source.state(KEY, PRODUCT)
        slow.takes_secs, world.clock.seconds = 0, age
        world.fail()
        if goes_on:
            assert not (await source.state(KEY, PRODUCT)).limited
        else:
            with pytest.raises(QuotaUnavailable):
                await source.state(KEY, PRODUCT)


def world_waits(world: World) -> Callable[[float], None]:
    def wait(secs: float) -> None:
        world.clock.seconds += secs

    return wait


@dataclass
class Clock:
    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds

    def wait(self, secs: float) -> None:
        self.seconds += secs


@dataclass
class Verifying:
    unkey: UnkeySandbox
    keys: KeyVerifier
    clock: Clock
    slow: Slow

    async def verify(self, max_age_secs: float = 10) -> Any:
        return await self.keys.verify("a_key", max_age_secs=max_age_secs)


@pytest.fixture
async def verifying() -> AsyncIterator[Verifying]:
    clock, unkey = Clock(), UnkeySandbox()
    unkey.add_key("a_key", team_id="team_a", name="A key")
    slow = Slow(unkey, clock.wait)
    async with Served(slow) as url:
        with one_authority():
            keys = KeyVerifier(ROOT_KEY, base_url=url, clock=clock, time_limit_secs=30)
        yield Verifying(unkey, keys, clock, slow)
        await keys.aclose()


@pytest.mark.parametrize(
    ("max_age_secs", "age", "asked"), [(10, 9.9, 1), (10, 10.1, 2), (30, 29.9, 1), (30, 30.1, 2)]
)
async def test_a_key_s_answer_is_reused_by_the_age_of_its_question(
    verifying: Verifying, max_age_secs: float, age: float, asked: int
) -> None:
    await verifying.verify()
    verifying.clock.seconds = age
    await verifying.verify(max_age_secs)
    assert len(verifying.unkey.requests) == asked


@pytest.mark.parametrize(("age", "goes_on"), [(REUSE_SECS, True), (REUSE_SECS + 0.1, False)])
async def test_a_key_goes_on_in_an_outage_by_the_age_of_the_question(
    verifying: Verifying, age: float, goes_on: bool
) -> None:
    await verifying.verify()
    verifying.slow.takes_secs, verifying.clock.seconds = 0, age
    verifying.unkey.faults.add(Fault(kind="status", status=429))
    if goes_on:
        assert (await verifying.verify()).team_id == "team_a"
    else:
        with pytest.raises(AuthUnavailable):
            await verifying.verify()


async def test_unknown_keys_wait_for_each_other_so_that_known_ones_have_a_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(f"{KeyVerifier.__module__}.MAX_UNKNOWN_AT_ONCE", 2)
    unkey, free, most = UnkeySandbox(), asyncio.Event(), [0, 0]

    async def holds(scope: Scope, receive: Receive, send: Send) -> None:
        most[0] += 1
        most[1] = max(most)
        await free.wait()
        most[0] -= 1
        await unkey(scope, receive, send)

    async with Served(holds) as url:
        with one_authority():
            keys = KeyVerifier(ROOT_KEY, base_url=url, time_limit_secs=30)
        asking = [
            asyncio.create_task(keys.verify(f"made_up_{n}", max_age_secs=10)) for n in range(6)
        ]
        async with asyncio.timeout(5):
            while most[0] < 2:
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        free.set()
        answers = await asyncio.gather(*asking, return_exceptions=True)
        await keys.aclose()
    assert most[1] == 2
    assert {getattr(answer, "code", None) for answer in answers} == {"invalid_api_key"}
