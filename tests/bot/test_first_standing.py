"""How a key is taken to stand when its call begins."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from flow.bot.calls.call_manager import CallManager
from flow.bot.calls.lease import CallerConnection
from flow.bot.calls.registry import CallRegistry
from flow.domain.calls.ending import Ending
from flow.domain.limits.budget import Standing, Tier
from flow.errors import DatabaseUnavailable
from tests.insights.conftest import a_thread
from tests.notebook import Notebook


class Threads:
    """Everybody may have every call; a standing is not always to be had."""

    def __init__(self, standing: Standing | None) -> None:
        self._standing = standing

    async def claim_thread(self, thread_id: UUID, claim: str) -> None:
        return None

    async def touch_thread(self, thread_id: UUID, status: object = None) -> None:
        raise AssertionError("nothing of the call has run")

    async def get_thread_standing(self, thread_id: UUID) -> Standing:
        if self._standing is None:
            raise DatabaseUnavailable
        return self._standing


@pytest.mark.parametrize(
    ("standing", "taken_for"),
    [
        (None, Standing(Tier.UNKNOWN)),
        (Standing(), Standing()),
        (Standing(Tier.WARN), Standing(Tier.WARN)),
    ],
    ids=["away", "no-budget", "warn"],
)
async def test_a_standing_that_cannot_be_read_is_unknown_and_not_a_missing_budget(
    standing: Standing | None, taken_for: Standing
) -> None:
    heard: list[Standing] = []
    endings: list[Ending] = []

    def spending(_: object, __: object, first: Standing) -> Any:
        heard.append(first)
        raise RuntimeError("this is all that is to be known")

    async def finish(_: UUID, ending: Ending, *__: object) -> bool:
        endings.append(ending)
        return True

    async def close(_: Ending) -> None:
        return None

    async def opened(_: object) -> Any:
        return None

    given: dict[str, Any] = {
        "registry": CallRegistry(1),
        "threads": Threads(standing),
        "recorder": Notebook(),
        "settings": SimpleNamespace(joined=None),
        "resolver": None,
        "transports": {},
        "spending": spending,
        "finish": finish,
        "name": "here",
    }
    calls = CallManager(**given)
    failed = Ending.failure("bad_offer", "it did not open")
    ending = await calls.run(a_thread("Hi."), CallerConnection(opened, lambda _: failed, close))
    async with asyncio.timeout(5):
        while not endings:
            await asyncio.sleep(0.005)
    assert endings == [ending]
    assert heard == [taken_for]
    assert calls.capacity.running == 0
