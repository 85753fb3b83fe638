"""Which teams may go on, over real HTTP against a billing service that can be told to fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from structlog.testing import capture_logs

from flow.domain.limits.api_key import ApiKey
from flow.errors import QuotaUnavailable, Refused
from flow.sandbox.faults import Fault
from flow.sandbox.quota import TOKEN, Quota
from flow.vendors.quota_source import QuotaState
from tests.vendors.quota_world import (
    KEY,
    PRODUCT,
    Lab,
    World,
    at,
    running_lab,
    running_world,
    says,
    status,
)

FAILURES = {
    **{str(code): status(code) for code in (408, 429, 500)},
    "302": status(302, headers={"location": "/quota"}),
    "hangs": {"kind": "hang"},
    "hangs up": {"kind": "drop"},
    "cut-off JSON": {"kind": "malformed"},
    "HTML": says("<!doctype html><title>Welcome</title>"),
    "a list": says([]),
}
REFUSALS = [400, 401, 403, 404, 405, 406, 407, 409, 410, 418, 422, 426, 431, 451, 499]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running_world() as world:
        yield world


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab() as lab:
        yield lab


# --- A team that is limited


def own(logs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Threads of clients that tests before this one left behind may log as well."""
    return [one for one in logs if one["event"].startswith("quota_source")]


async def test_a_limited_team_is_told_of_what_how_much_until_when_and_whom_to_ask(
    world: World,
) -> None:
    world.billing.set_quota(
        KEY.team_id,
        Quota(
            limited=True,
            resource="ai_credits",
            used="1000.5",
            limit="1000",
            resets_at="2026-12-01T00:00:00Z",
        ),
    )
    with pytest.raises(Refused) as refused:
        await world.check()
    assert refused.value.code == "quota_exceeded"
    for part in ("ai credits", "1000.5", "quota of 1000 ", "2026-12-01T00:00:00Z", "billing can"):
        assert part in str(refused.value)
    assert refused.value.retry_after_secs == 86_400
    assert refused.value.limit == {
        "resource": "ai_credits",
        "scope": "team",
        "product": PRODUCT,
        "used": "1000.5",
        "reserved": None,
        "limit": "1000",
        "limited": True,
        "resets_at": datetime(2026, 12, 1, tzinfo=UTC),
        "source": "external",
    }


@pytest.mark.parametrize(
    ("quota", "sentence"),
    [
        ({}, "this team's quota is used up. Whoever"),
        ({"resource": "minutes"}, "this team's quota of minutes is used up. Whoever"),
        ({"limit": "5"}, "this team's quota of 5 is used up. Whoever"),
        ({"used": "7"}, "this team's quota is used up: 7 used. Whoever"),
        (
            {"resource": "minutes", "limit": "5", "used": "7.0"},
            "this team's quota of 5 minutes is used up: 7 used. Whoever",
        ),
    ],
)
async def test_a_limited_team_is_told_as_much_as_is_known(
    world: World, quota: dict[str, str], sentence: str
) -> None:
    world.billing.set_quota(KEY.team_id, Quota(limited=True, **quota))
    with pytest.raises(Refused, match=sentence):
        await world.check()


@pytest.mark.parametrize(
    ("resets_at", "retry_after_secs"),
    [
        (None, 60),
        ("2026-11-30T00:00:00.001Z", 1),
        ("2026-11-30T00:00:01.5Z", 2),
        ("2026-11-30T00:10:00Z", 600),
        ("2026-12-31T00:00:00Z", 86_400),
        ("2026-11-29T00:00:00Z", 1),
        ("0001-01-01T00:00:00Z", 1),
        ("9999-12-31T23:59:59Z", 86_400),
    ],
)
async def test_a_limited_team_is_told_when_to_come_back(
    world: World, resets_at: str | None, retry_after_secs: int
) -> None:
    world.billing.set_quota(KEY.team_id, Quota(limited=True, resets_at=resets_at))
    with pytest.raises(Refused) as refused:
        await world.check()
    assert refused.value.retry_after_secs == retry_after_secs


async def test_the_state_of_a_limited_team_can_be_shown(world: World) -> None:
    world.billing.set_quota(KEY.team_id, Quota(limited=True, resource="minutes", used="3"))
    state = await world.source.state(KEY, PRODUCT)
    assert state == QuotaState(True, "minutes", Decimal(3), None, None)
    assert await world.verdict() == "limited"
    assert world.asked == 1


# --- Reuse


@pytest.mark.parametrize(
    ("quota", "age", "asked"),
    [
        (Quota(), 0, 1),
        (Quota(), 14.9, 1),
        (Quota(), 15, 2),
        (Quota(resets_at="2026-11-30T00:00:02Z"), 14.9, 1),
        (Quota(limited=True), 4.9, 1),
        (Quota(limited=True), 5, 2),
        (Quota(limited=True, resets_at="2026-11-30T00:00:02Z"), 1.9, 1),
        (Quota(limited=True, resets_at="2026-11-30T00:00:02Z"), 2, 2),
        (Quota(limited=True, resets_at="2026-11-29T00:00:00Z"), 0, 2),
        (Quota(limited=True, resets_at="2026-12-01T00:00:00Z"), 5, 2),
    ],
    ids=str,
)
async def test_an_answer_is_reused_for_seconds(
    world: World, quota: Quota, age: float, asked: int
) -> None:
    world.billing.set_quota(KEY.team_id, quota)
    expected = "limited" if quota.limited else "in"
    assert await world.verdict() == expected
    world.clock.seconds += age
    assert await world.verdict() == expected
    assert world.asked == asked
    assert world.counted("answered") == asked
    assert world.counted("remembered") == 2 - asked


@pytest.mark.parametrize(("limited", "reuse_secs"), [(False, 2), (True, 2), (True, 5)])
async def test_how_long_is_the_operators_to_say(
    world: World, limited: bool, reuse_secs: float
) -> None:
    world.billing.set_quota(KEY.team_id, Quota(limited=limited))
    source = world.another(world.url, token=SecretStr(TOKEN), reuse_secs=min(reuse_secs * 1.0, 30))
    for age, asked in ((0, 1), (reuse_secs - 0.1, 1), (0.1, 2)):
        world.clock.seconds += age
        await source.state(KEY, PRODUCT)
        assert world.asked == asked


@pytest.mark.parametrize(
    ("key", "product"),
    [
        (at(team_id="team_2"), PRODUCT),
        (at(id=UUID(int=2)), PRODUCT),
        (KEY, "another_bot"),
        (at(team_id="team_2", id=UUID(int=2)), "another_bot"),
    ],
    ids=["team", "key", "product", "all"],
)
async def test_another_team_key_or_product_is_another_question(
    world: World, key: ApiKey, product: str
) -> None:
    await world.check()
    world.fail(status=200, body={"limited": True})
    assert await world.verdict(key, product) == "limited"
    assert await world.verdict() == "in"
    world.fail()
    world.clock.seconds += 20
    assert await world.verdict(key, product) == "limited"
    assert await world.verdict() == "in"


async def test_a_team_does_not_go_on_with_another_teams_answer(world: World) -> None:
    await world.check()
    world.fail()
    assert await world.verdict(at(team_id="team_2")) == "unavailable"
    assert await world.verdict(at(id=UUID(int=2))) == "unavailable"
    assert await world.verdict(product="another_bot") == "unavailable"


async def test_one_more_than_fits_forgets_the_one_unused_longest(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flow.vendors.quota_source.MAX_KNOWN", 2)
    world.source = world.another(world.url, token=SecretStr(TOKEN))
    for team in ("a", "b", "a", "c", "a"):
        await world.check(at(team_id=team))
    assert world.asked == 3
    await world.check(at(team_id="b"))
    assert world.asked == 4
    world.fail(status=404)
    world.clock.seconds += 15
    for team in ("a", "b", "c"):
        assert await world.verdict(at(team_id=team)) == "unavailable"


# --- Failing open, failing closed


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
async def test_in_a_failure_a_team_lately_good_goes_on_and_it_is_logged_and_counted(
    world: World, failure: dict[str, Any]
) -> None:
    world.billing.set_quota(KEY.team_id, Quota(used="5"))
    await world.check()
    world.fail(**failure)
    world.clock.seconds += 59.9
    with capture_logs() as logs:
        assert (await world.check()).used == 5
    (line,) = own(logs)
    assert (line["event"], line["log_level"]) == ("quota_source_failed_open", "warning")
    assert (line["team_id"], line["good_secs_ago"]) == (KEY.team_id, 59.9)
    assert world.counted("failed_open") == 1


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
async def test_in_a_failure_a_team_good_long_ago_does_not_and_it_is_logged_and_counted(
    world: World, failure: dict[str, Any]
) -> None:
    await world.check()
    world.fail(**failure)
    world.clock.seconds += 60.1
    with capture_logs() as logs:
        assert await world.verdict() == "unavailable"
    (line,) = own(logs)
    assert (line["event"], line["log_level"]) == ("quota_source_failed_closed", "error")
    assert world.counted("failed_closed") == 1


def half_seconds(until: float) -> Iterator[float]:
    return (step / 2 for step in range(int(until * 2) + 1))


async def test_answering_from_memory_does_not_prolong_the_minute(world: World) -> None:
    await world.check()
    world.fail()
    let_in = []
    for now in half_seconds(100):
        world.clock.seconds = now
        if await world.verdict() == "in":
            let_in.append(now)
    assert let_in == list(half_seconds(60))
    assert world.counted("remembered") + world.counted("failed_open") == len(let_in)


@pytest.mark.parametrize(
    ("known", "asked"),
    [
        pytest.param(False, [0, 0.5, 5.5, 15.5, 35.5, 55.5, 75.5, 95.5], id="stranger"),
        pytest.param(True, [0, 15, 15.5, 20.5, 30.5, 50.5, 70.5, 90.5], id="lately good"),
    ],
)
async def test_a_failing_source_is_asked_again_after_0_5_10_20_20_seconds(
    world: World, known: bool, asked: list[float]
) -> None:
    times = []
    if not known:
        world.fail()
    for now in half_seconds(100):
        world.clock.seconds = now
        before = world.asked
        await world.verdict()
        times += [now] * (world.asked - before)
        world.fail()
    assert times == asked


async def test_between_two_tries_memory_answers_without_waiting(world: World) -> None:
    await world.check()
    world.fail(kind="hang")
    world.clock.seconds += 15
    for _ in range(20):
        assert await world.verdict() == "in"
    assert world.asked == 1 + 2


async def test_after_a_recovery_the_tries_begin_anew(world: World) -> None:
    world.fail()
    for _ in range(2):
        assert await world.verdict() == "unavailable"
    world.clock.seconds += 5
    world.recover()
    assert await world.verdict() == "in"
    world.fail()
    world.clock.seconds += 15
    for _ in range(3):
        assert await world.verdict() == "in"
    assert world.asked == 2 + 1 + 2


async def test_a_limited_team_stays_limited_while_the_source_fails(world: World) -> None:
    world.billing.set_quota(KEY.team_id, Quota(limited=True, used="9"))
    await world.verdict()
    world.fail()
    for now in (5, 20, 59, 61, 3_600):
        world.clock.seconds = now
        assert await world.verdict() == "limited"
    assert world.counted("failed_closed") == 5
    assert (await world.source.state(KEY, PRODUCT)).used == 9


async def test_once_its_limit_should_have_reset_nobody_can_tell(world: World) -> None:
    world.billing.set_quota(KEY.team_id, Quota(limited=True, resets_at="2026-11-30T00:00:30Z"))
    await world.verdict()
    world.fail()
    for now, verdict in ((29.9, "limited"), (30, "unavailable"), (50, "unavailable")):
        world.clock.seconds = now
        assert await world.verdict() == verdict


async def test_a_team_good_and_then_limited_is_not_let_in_by_the_older_answer(
    world: World,
) -> None:
    await world.check()
    world.clock.seconds += 15
    world.billing.set_quota(KEY.team_id, Quota(limited=True))
    assert await world.verdict() == "limited"
    world.clock.seconds += 5
    world.fail()
    assert await world.verdict() == "limited"


async def test_a_source_that_keeps_changing_its_mind_is_believed_each_time(world: World) -> None:
    for turn in range(10):
        limited = turn % 2 == 1
        world.billing.set_quota(KEY.team_id, Quota(limited=limited))
        assert await world.verdict() == ("limited" if limited else "in")
        world.clock.seconds += 15
    assert world.asked == 10


# --- Refusals


@pytest.mark.parametrize("code", REFUSALS)
async def test_a_refusal_lets_nobody_in_and_names_its_status(world: World, code: int) -> None:
    world.fail(status=code, body={"limited": False})
    with capture_logs() as logs, pytest.raises(QuotaUnavailable, match=str(code)):
        await world.check()
    assert [(line["event"], line["status"]) for line in own(logs)] == [
        ("quota_source_refused", code)
    ]
    assert world.counted("refused") == 1


async def test_a_refusal_ends_the_minute_at_once(world: World) -> None:
    await world.check()
    world.clock.seconds += 15
    world.fail(status=404)
    assert await world.verdict() == "unavailable"
    world.fail()
    world.clock.seconds += 1
    assert await world.verdict() == "unavailable"
    assert world.counted("failed_open") == 0


async def test_a_refusal_drops_all_that_is_remembered_of_the_team_and_of_no_other(
    world: World,
) -> None:
    await world.check()
    await world.check(at(id=UUID(int=2)))
    await world.check(at(team_id="team_2"))
    world.fail(status=403)
    assert await world.verdict(product="another_bot") == "unavailable"
    world.fail()
    assert await world.verdict() == "unavailable"
    assert await world.verdict(at(id=UUID(int=2))) == "unavailable"
    assert await world.verdict(at(team_id="team_2")) == "in"


async def test_a_refusal_is_remembered_for_a_second_against_hammering(world: World) -> None:
    world.fail(status=404)
    for _ in range(20):
        assert await world.verdict() == "unavailable"
    assert (world.asked, world.counted("refused")) == (1, 20)
    world.recover()
    world.clock.seconds += 1
    assert await world.verdict() == "in"


async def test_a_token_that_billing_does_not_know_lets_nobody_in(world: World) -> None:
    source = world.another(world.url, token=SecretStr("another_token"))
    with pytest.raises(QuotaUnavailable, match="401"):
        await source.check(KEY, PRODUCT)


# --- Many at once


async def test_a_hundred_callers_at_once_ask_once(world: World) -> None:
    world.fail(kind="delay", delay_secs=0.05)
    assert await asyncio.gather(*(world.verdict() for _ in range(100))) == ["in"] * 100
    assert world.asked == 1


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        ({"status": 500}, "unavailable"),
        ({"status": 404}, "unavailable"),
        ({"status": 402}, "limited"),
    ],
)
async def test_everybody_who_waited_is_told_in_an_error_of_their_own(
    world: World, fault: dict[str, Any], verdict: str
) -> None:
    world.fail(**fault)
    world.billing.faults.add(Fault(kind="delay", delay_secs=0.05))
    results = await asyncio.gather(*(world.check() for _ in range(10)), return_exceptions=True)
    assert {type(result) for result in results} == {
        Refused if verdict == "limited" else QuotaUnavailable
    }
    assert len({id(result) for result in results}) == 10
    assert world.asked == 1


async def test_a_caller_who_leaves_does_not_end_it_for_the_others(world: World) -> None:
    world.fail(kind="delay", delay_secs=0.1)
    first, second = (asyncio.create_task(world.verdict()) for _ in range(2))
    await world.until_asked(1)
    first.cancel()
    assert await second == "in"
    assert first.cancelled()
    assert world.asked == 1


async def test_the_answer_to_a_caller_who_left_is_kept(world: World) -> None:
    world.fail(kind="delay", delay_secs=0.1)
    only = asyncio.create_task(world.check())
    await world.until_asked(1)
    only.cancel()
    assert await world.verdict() == "in"
    assert world.asked == 1


async def test_one_teams_hanging_question_does_not_hold_another_team(world: World) -> None:
    world.source = world.another(world.url, token=SecretStr(TOKEN), time_limit_secs=30)
    world.fail(kind="hang", times=1)
    held = asyncio.create_task(world.check())
    await world.until_asked(1)
    assert await world.verdict(at(team_id="team_2")) == "in"
    assert not held.done()
    held.cancel()


async def test_closing_releases_whoever_waits_and_asks_no_more(world: World) -> None:
    source = world.another(world.url, token=SecretStr(TOKEN), time_limit_secs=30)
    world.fail(kind="hang")
    waiting = asyncio.create_task(source.check(KEY, PRODUCT))
    await world.until_asked(1)
    await source.aclose()
    for question in (waiting, source.check(KEY, "another_bot")):
        async with asyncio.timeout(20):
            with pytest.raises(QuotaUnavailable):
                await question
    assert world.asked == 1


async def test_neither_the_token_nor_the_url_is_logged(world: World) -> None:
    source = world.another(f"{world.url}?secret=hush_hush", token=SecretStr(TOKEN))
    with capture_logs() as logs:
        for fault in ({"status": 404}, {"kind": "drop"}, {"kind": "malformed"}):
            world.fail(**fault)
            world.clock.seconds += 100
            with pytest.raises(QuotaUnavailable) as unavailable:
                await source.check(KEY, PRODUCT)
            assert "hush" not in str(unavailable.value)
    assert len(own(logs)) == 3
    assert "hush" not in str(logs)
    assert TOKEN not in str(logs)


# --- The law


ANSWERS: dict[str, tuple[str, dict[str, Any] | None]] = {
    "good": ("good", None),
    "limited": ("limited", says({"limited": True})),
    "limited until then": (
        "limited",
        says({"limited": True, "resets_at": "2026-11-30T00:01:00Z"}),
    ),
    "402": ("limited", status(402)),
    "401": ("refused", status(401)),
    "404": ("refused", status(404, body={"limited": False})),
    "429": ("failed", status(429)),
    "500": ("failed", status(500, body={"limited": False})),
    "302": ("failed", status(302, headers={"location": "/quota"})),
    "dropped": ("failed", {"kind": "drop"}),
    "garbage": ("failed", {"kind": "malformed"}),
    "a string": ("failed", says({"limited": "false"})),
}
STEP = st.tuples(
    st.sampled_from(sorted(ANSWERS)),
    st.sampled_from([PRODUCT, "another_bot"]),
    st.sampled_from([0.0, 0.5, 1.0, 4.9, 5.0, 10.0, 14.9, 15.0, 20.0, 59.9, 60.0, 60.1, 200.0]),
)


@dataclass
class Asked:
    """One question that reached the source, and of what kind its answer was."""

    at: float
    product: str
    kind: str


def follow(lab: Lab, steps: list[tuple[str, str, float]]) -> Iterator[tuple[str, str, list[Asked]]]:
    """Each step's verdict and product, with all questions asked so far."""
    world, key, asked = lab.world, lab.new_team(), list[Asked]()
    for answer, product, secs in steps:
        world.clock.seconds += secs
        kind, fault = ANSWERS[answer]
        world.recover() if fault is None else world.fail(**fault)
        before = world.asked
        verdict = lab.run(world.verdict(key, product))
        assert world.asked - before in {0, 1}
        if world.asked > before:
            asked.append(Asked(world.clock.seconds, product, kind))
        yield verdict, product, asked


@settings(max_examples=80)
@given(steps=st.lists(STEP, max_size=15))
def test_nobody_is_let_in_but_on_a_good_answer_a_minute_old_at_most(
    lab: Lab, steps: list[tuple[str, str, float]]
) -> None:
    for verdict, product, asked in follow(lab, steps):
        if verdict != "in":
            continue
        # A refusal counts against the whole team, any other answer for its own product.
        told = [
            one
            for one in asked
            if one.kind == "refused" or (one.product == product and one.kind != "failed")
        ]
        assert told, "let in, and nothing good was ever said"
        assert told[-1].kind == "good"
        assert lab.world.clock.seconds - told[-1].at <= 60


@settings(max_examples=50)
@given(steps=st.lists(STEP, max_size=15))
def test_what_the_source_says_now_is_what_holds_now(
    lab: Lab, steps: list[tuple[str, str, float]]
) -> None:
    asked_before = 0
    for verdict, _, asked in follow(lab, steps):
        if len(asked) > asked_before:
            expected = {"good": "in", "limited": "limited", "refused": "unavailable"}
            assert asked[-1].kind == "failed" or verdict == expected[asked[-1].kind]
        asked_before = len(asked)


@settings(max_examples=50)
@given(steps=st.lists(STEP, max_size=15))
def test_a_failing_source_is_never_asked_sooner_than_the_pauses_allow(
    lab: Lab, steps: list[tuple[str, str, float]]
) -> None:
    *_, (_, _, asked) = [("", "", list[Asked]()), *follow(lab, steps)]
    failed: dict[str, list[float]] = {}
    for one in asked:
        times = failed.setdefault(one.product, [])
        if times:
            pause = (0, 5, 10, 20)[min(len(times), 4) - 1]
            assert one.at - times[-1] >= pause
        if one.kind == "refused":
            failed.clear()
        elif one.kind != "failed":
            times.clear()
        else:
            times.append(one.at)
