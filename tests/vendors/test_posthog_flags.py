"""A feature flag over the real SDK, whatever state PostHog is in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from posthog import Posthog
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from flow.sandbox.faults import Fault
from flow.sandbox.posthog.app import PROJECT_KEY, PostHogSandbox
from flow.sandbox.server import Served
from flow.vendors import posthog_flags
from flow.vendors.posthog import get_posthog_client, shutdown_posthog
from flow.vendors.posthog_flags import COST_CONTROLS, PAUSE_SECS, TRUSTED_SECS, FeatureFlag

KEY, OTHER_KEY = UUID(int=2), UUID(int=3)
TEAM = "acme"
FRESH_SECS = 30.0


@dataclass
class Clock:
    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Setting:
    """PostHog, its client, and a clock to move."""

    app: PostHogSandbox
    client: Posthog
    clock: Clock = field(default_factory=Clock)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def flag(self, **options: Any) -> FeatureFlag:
        options = {"fresh_secs": FRESH_SECS, "registry": self.registry, **options}
        return FeatureFlag(self.client, clock=self.clock, **options)

    @property
    def questions(self) -> int:
        return sum(request.path == "/flags/" for request in self.app.requests)

    def counted(self, answer: str) -> float | None:
        return self.registry.get_sample_value(
            "flow_feature_flag_answers_total", {"flag": COST_CONTROLS, "answer": answer}
        )


@pytest.fixture
async def posthog() -> AsyncIterator[Setting]:
    app = PostHogSandbox(flags={COST_CONTROLS: True, "another-flag": True})
    async with Served(app) as url:
        client = get_posthog_client(SecretStr(PROJECT_KEY), url)
        assert client is not None
        yield Setting(app, client)
        await shutdown_posthog(client, 0.1)


@pytest.fixture
async def flag(posthog: Setting) -> AsyncIterator[FeatureFlag]:
    flag = posthog.flag()
    yield flag
    await flag.aclose()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, True),
        (False, False),
        ("on", True),
        ("off", False),
        ("control", False),
        ("true", False),
    ],
)
async def test_a_flag_is_on_if_it_is_true_or_its_variant_is_on(posthog, flag, value, expected):
    posthog.app.flags[COST_CONTROLS] = value
    assert await flag.refreshed(KEY, TEAM) is expected
    assert flag.enabled(KEY, TEAM) is expected
    assert posthog.counted("on" if expected else "off") == 1


async def test_a_flag_that_posthog_does_not_have_is_off(posthog, flag):
    del posthog.app.flags[COST_CONTROLS]
    assert await flag.refreshed(KEY, TEAM) is False


async def test_only_this_flag_is_asked_for_and_nothing_is_captured(posthog, flag):
    asked: list[dict[str, Any]] = []
    answer = posthog.client.get_flags_decision

    def note(distinct_id: str, **arguments: Any) -> Any:
        asked.append({"distinct_id": distinct_id, **arguments})
        return answer(distinct_id, **arguments)

    posthog.client.get_flags_decision = note
    await flag.refreshed(KEY, TEAM)
    await flag.refreshed(OTHER_KEY, "")
    with_team, without_team = asked
    assert with_team["distinct_id"] == str(KEY)
    assert with_team["groups"] == {"team": TEAM}
    assert with_team["flag_keys_to_evaluate"] == [COST_CONTROLS]
    assert with_team["disable_geoip"] is True
    assert without_team["groups"] == without_team["group_properties"] == {}
    assert await shutdown_posthog(posthog.client)
    assert posthog.app.events == []


async def test_keys_are_apart(posthog, flag):
    posthog.app.flags_of[str(OTHER_KEY)] = {COST_CONTROLS: False}
    assert await flag.refreshed(KEY, TEAM) is True
    assert await flag.refreshed(OTHER_KEY, TEAM) is False
    assert (flag.enabled(KEY, TEAM), flag.enabled(OTHER_KEY, TEAM)) == (True, False)


async def test_what_is_not_known_yet_is_unknown_and_asked_for_once(posthog, flag):
    assert [flag.enabled(KEY, TEAM) for _ in range(5)] == [None] * 5
    assert await flag.refreshed(KEY, TEAM) is True
    assert posthog.questions == 1


async def test_a_fresh_answer_is_not_asked_for_again_and_a_flip_is_seen_after_that(posthog, flag):
    assert await flag.refreshed(KEY, TEAM) is True
    posthog.app.flags[COST_CONTROLS] = False
    posthog.clock.now += FRESH_SECS - 1
    assert await flag.refreshed(KEY, TEAM) is True
    assert posthog.questions == 1
    posthog.clock.now += 1
    assert flag.enabled(KEY, TEAM) is True, "the last answer holds while the next is on its way"
    assert await flag.refreshed(KEY, TEAM) is False
    assert posthog.questions == 2


FAILURES: dict[str, Fault] = {
    "refusing": Fault(kind="status", status=401),
    "failing": Fault(kind="status", status=500),
    "throttling": Fault(kind="status", status=429),
    "dropping": Fault(kind="drop"),
    "malformed": Fault(kind="malformed"),
    "no object": Fault(kind="status", status=200, body=[1]),
    "nothing in it": Fault(kind="status", status=200, body={}),
    "no flags": Fault(kind="status", status=200, body={"flags": None, "requestId": "1"}),
    "flags of another kind": Fault(kind="status", status=200, body={"flags": [1]}),
    "over its own quota": Fault(
        kind="status",
        status=200,
        body={"flags": {}, "requestId": "1", "quotaLimited": ["feature_flags"]},
    ),
    "could not evaluate": Fault(
        kind="status",
        status=200,
        body={"flags": {}, "requestId": "1", "errorsWhileComputingFlags": True},
    ),
    "could not evaluate this one": Fault(
        kind="status",
        status=200,
        body={
            "flags": {COST_CONTROLS: {"key": COST_CONTROLS, "value": False, "failed": True}},
            "requestId": "1",
            "errorsWhileComputingFlags": True,
        },
    ),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_when_posthog_fails_nothing_becomes_known_and_what_was_known_goes_on(
    posthog, flag, name
):
    await flag.refreshed(KEY, TEAM)
    posthog.app.faults.add(FAILURES[name])
    posthog.clock.now += FRESH_SECS
    assert await flag.refreshed(KEY, TEAM) is True
    assert posthog.counted("none") == 1
    posthog.clock.now += PAUSE_SECS
    assert await flag.refreshed(OTHER_KEY, TEAM) is None
    assert posthog.counted("none") == 2


async def test_what_was_known_is_trusted_for_ten_minutes(posthog, flag):
    await flag.refreshed(KEY, TEAM)
    posthog.app.faults.add(FAILURES["failing"])
    posthog.clock.now += TRUSTED_SECS
    assert await flag.refreshed(KEY, TEAM) is True
    posthog.clock.now += 1
    assert await flag.refreshed(KEY, TEAM) is None
    posthog.app.faults.clear()
    posthog.clock.now += PAUSE_SECS
    assert await flag.refreshed(KEY, TEAM) is True


async def test_a_posthog_that_fails_is_left_alone_for_a_while_whoever_asks(posthog, flag):
    posthog.app.faults.add(FAILURES["failing"])
    await flag.refreshed(KEY, TEAM)
    posthog.clock.now += PAUSE_SECS - 1
    assert await flag.refreshed(KEY, TEAM) is None
    assert await flag.refreshed(OTHER_KEY, TEAM) is None
    assert posthog.questions == 1
    posthog.clock.now += 1
    await flag.refreshed(OTHER_KEY, TEAM)
    assert posthog.questions == 2


async def test_whoever_waits_for_a_slow_posthog_waits_no_longer_than_allowed(posthog):
    posthog.app.faults.add(Fault(kind="delay", delay_secs=0.3, times=1))
    flag = posthog.flag(wait_secs=0.05)
    assert await flag.refreshed(KEY, TEAM) is None
    async with asyncio.timeout(10):
        while await flag.refreshed(KEY, TEAM) is None:
            pass
    assert posthog.questions == 1
    await flag.aclose()


@pytest.mark.parametrize("keys", [1, 1_000])
async def test_with_a_dead_posthog_an_answer_is_there_before_anything_else_runs(posthog, keys):
    posthog.app.faults.add(Fault(kind="hang"))
    flag = posthog.flag()
    other_had_its_turn = asyncio.Event()
    asyncio.get_running_loop().call_soon(other_had_its_turn.set)
    assert {flag.enabled(UUID(int=n), TEAM) for n in range(keys)} == {None}
    assert not other_had_its_turn.is_set()
    await flag.aclose()


async def test_a_key_that_found_the_queue_full_is_asked_for_later(posthog):
    flag = posthog.flag()
    for n in range(posthog_flags.MAX_ASKING + 1):
        flag.enabled(UUID(int=n), TEAM)
    last = UUID(int=posthog_flags.MAX_ASKING)
    assert await flag.refreshed(last, TEAM) is None
    await flag.refreshed(UUID(int=last.int - 1), TEAM)
    assert await flag.refreshed(last, TEAM) is True
    await flag.aclose()


async def test_the_key_asked_about_longest_ago_is_forgotten_when_there_is_no_more_room(posthog):
    flag = posthog.flag()
    await flag.refreshed(KEY, TEAM)
    posthog.app.faults.add(Fault(kind="hang"))
    strangers = [UUID(int=n) for n in range(100, 100 + posthog_flags.MAX_KEYS)]
    for stranger in strangers[:-1]:
        flag.enabled(stranger, TEAM)
    assert flag.enabled(KEY, TEAM) is True
    for stranger in strangers:
        flag.enabled(stranger, TEAM)
    assert flag.enabled(KEY, TEAM) is None
    await flag.aclose()


async def test_without_posthog_nothing_is_known():
    flag = FeatureFlag(None)
    assert flag.enabled(KEY, TEAM) is None
    assert await flag.refreshed(KEY, TEAM) is None
    await flag.aclose()


async def test_closing_lets_go_of_whoever_waits_and_keeps_what_is_known(posthog):
    flag = posthog.flag(wait_secs=60)
    await flag.refreshed(KEY, TEAM)
    posthog.app.faults.add(Fault(kind="hang"))
    waiting = asyncio.create_task(flag.refreshed(OTHER_KEY, TEAM))
    await asyncio.sleep(0)
    await flag.aclose()
    assert await waiting is None
    posthog.clock.now += FRESH_SECS
    assert flag.enabled(KEY, TEAM) is True
    assert await flag.refreshed(OTHER_KEY, TEAM) is None
