"""How a key is taken to stand when its call begins."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from flow.bot.calls.call_manager import CallManager
from flow.bot.calls.lease import CallerConnection
from flow.bot.calls.registry import CallRegistry
from flow.bot.warmup import EmptyStage
from flow.domain.calls.ending import Ending, EndReason
from flow.domain.calls.thread import Pulse, Status
from flow.domain.limits.budget import Standing, Tier
from flow.errors import DatabaseUnavailable
from tests.insights.conftest import a_thread
from tests.notebook import Notebook


class Untraced:
    """Settings of calls that are not traced."""

    joined = None


class Threads:
    """Everybody may have every call; a standing is not always to be had."""

    def __init__(self, standing: Standing | None) -> None:
        self._standing = standing

    async def claim_thread(self, thread_id: UUID, claim: str) -> None:
        return None

    async def touch_thread(self, thread_id: UUID, status: Status | None = None) -> Pulse:
        raise AssertionError("no call runs")

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
    over = asyncio.Event()

    def spending(_: object, __: object, first: Standing) -> Any:
        heard.append(first)
        raise RuntimeError("this is all that is to be known")

    async def finish(*_: object) -> None:
        over.set()

    async def nothing(_: Ending) -> None:
        return None

    async def enter(_: object) -> EmptyStage:
        return EmptyStage()

    nobody: Any = None
    threads: Any = Threads(standing)
    calls = CallManager(
        registry=CallRegistry(1),
        threads=threads,
        recorder=Notebook(),  # type: ignore[arg-type]
        settings=Untraced(),  # type: ignore[arg-type]
        resolver=nobody,
        transports={},
        spending=spending,
        finish=finish,
        name="here",
    )
    connection = CallerConnection(enter, lambda _: Ending(EndReason.CANCELLED), nothing)
    await calls.start(a_thread("Hi."), connection)
    await asyncio.wait_for(over.wait(), 5)
    assert heard == [taken_for]
    assert calls.capacity.running == 0
