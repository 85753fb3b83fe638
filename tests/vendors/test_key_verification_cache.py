"""Which keys are let in, over Unkey's real SDK against a stand-in that can be told to fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from flow.errors import AuthUnavailable, Refused
from flow.sandbox.faults import Fault
from flow.sandbox.server import Served
from flow.sandbox.unkey.app import ROOT_KEY, UnkeySandbox
from flow.sandbox.unkey.keys import Ratelimit
from flow.vendors.key_verification_cache import DebugKeys, KeyVerifier, VerifiedKey

SECRET = "flow_live_key_of_a_test"
COUNTER = "flow_key_verifications_total"
NOW_MS = 1_800_000_000_000


@dataclass
class Clock:
    """Seconds, moved by hand; Unkey's own clock goes with it."""

    seconds: float = 1_000.0

    def __call__(self) -> float:
        return self.seconds

    def wall(self) -> float:
        return NOW_MS / 1000 + self.seconds - 1_000.0

    def wall_ms(self) -> int:
        return round(self.wall() * 1000)


@dataclass
class World:
    """A verifier, the Unkey it asks, and the time."""

    unkey: UnkeySandbox
    keys: KeyVerifier
    clock: Clock
    registry: CollectorRegistry
    url: str
    opened: list[KeyVerifier] = field(default_factory=list)

    @property
    def asked(self) -> int:
        return len(self.unkey.requests)

    async def verify(self, secret: str = SECRET, *, max_age_secs: float = 10) -> VerifiedKey:
        return await self.keys.verify(secret, max_age_secs=max_age_secs)

    async def refusal(self, secret: str = SECRET) -> Refused:
        with pytest.raises(Refused) as refused:
            await self.verify(secret)
        return refused.value

    def counted(self, outcome: str) -> float:
        return self.registry.get_sample_value(COUNTER, {"outcome": outcome}) or 0

    async def until_asked(self, times: int) -> None:
        async with asyncio.timeout(20):
            while self.asked < times:
                await asyncio.sleep(0.01)

    def verifier(self, **options: Any) -> KeyVerifier:
        """Another verifier of the same Unkey; closed with the world."""
        options = {"base_url": self.url, "clock": self.clock, **options}
        keys = KeyVerifier(options.pop("root_key", ROOT_KEY), **options)
        self.opened.append(keys)
        return keys


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    """Let the SDK's slow first call be nobody's: it may outlast a verifier's patience."""

    async def ask() -> None:
        async with Served(UnkeySandbox()) as url:
            keys = KeyVerifier(ROOT_KEY, base_url=url, time_limit_secs=60)
            with pytest.raises(Refused):
                await keys.verify(SECRET, max_age_secs=0)
            await keys.aclose()

    asyncio.run(ask())


@pytest.fixture
async def world() -> AsyncIterator[World]:
    clock, registry = Clock(), CollectorRegistry()
    unkey = UnkeySandbox(now_ms=clock.wall_ms)
    async with Served(unkey) as url:
        keys = KeyVerifier(
            ROOT_KEY,
            base_url=url,
            clock=clock,
            wall_clock=clock.wall,
            time_limit_secs=0.5,
            registry=registry,
        )
        world = World(unkey, keys, clock, registry, url, [keys])
        yield world
        for opened in world.opened:
            await opened.aclose()


def lie(**data: Any) -> Fault:
    """Unkey answers 200 with this about whatever key."""
    return Fault(kind="status", status=200, body={"meta": {"requestId": "req_1"}, "data": data})


OUTAGES = [
    pytest.param(Fault(kind="status", status=500), id="500"),
    pytest.param(Fault(kind="status", status=503, body="no healthy upstream"), id="503 text"),
    pytest.param(Fault(kind="status", status=429), id="workspace limited"),
    pytest.param(Fault(kind="status", status=403), id="root key may not verify"),
    pytest.param(Fault(kind="status", status=401), id="root key unknown"),
    pytest.param(Fault(kind="status", status=400), id="request not understood"),
    pytest.param(
        Fault(kind="status", status=302, headers={"location": "/elsewhere"}), id="redirect"
    ),
    pytest.param(Fault(kind="hang"), id="hangs"),
    pytest.param(Fault(kind="stall", chunks=0), id="stalls before its body"),
    pytest.param(Fault(kind="drop"), id="hangs up"),
    pytest.param(Fault(kind="malformed"), id="cut-off JSON"),
    pytest.param(Fault(kind="content_type"), id="HTML"),
    pytest.param(Fault(kind="status", status=200, body="yes"), id="not JSON"),
    pytest.param(Fault(kind="status", status=200, body=[]), id="a list"),
    pytest.param(lie(), id="no data"),
    pytest.param(lie(valid=True, code="VALID"), id="good, but no key id"),
    pytest.param(lie(valid=True, code="VALID", keyId=""), id="good, with an empty key id"),
    pytest.param(lie(valid=True, code="VALID", keyId="a\x00b"), id="good, with a NUL in its id"),
    pytest.param(lie(valid=True, code="VALID", keyId="k" * 5000), id="good, with a huge id"),
    pytest.param(lie(valid=True, code="VALID", keyId=7), id="good, with a number for an id"),
    pytest.param(lie(valid=True, code="DISABLED", keyId="key_1"), id="good and disabled"),
    pytest.param(lie(valid=True, code="VALID", keyId="key_1", enabled=False), id="good, not on"),
    pytest.param(lie(valid=True, code="VALID", keyId="key_1", expires=1), id="good, expired"),
    pytest.param(lie(valid=False, code="VALID", keyId="key_1"), id="not good, yet VALID"),
    pytest.param(lie(valid="perhaps", code="VALID", keyId="key_1"), id="perhaps"),
    pytest.param(lie(valid="true", code="VALID", keyId="key_1"), id="true, as a text"),
    pytest.param(lie(valid="yes", code="VALID", keyId="key_1"), id="yes"),
    pytest.param(lie(valid=1, code="VALID", keyId="key_1"), id="one"),
    pytest.param(lie(valid=1.0, code="VALID", keyId="key_1"), id="one, as a fraction"),
]


async def test_a_good_key_is_described_as_unkey_describes_it(world: World) -> None:
    key_id = world.unkey.add_key(
        SECRET, name="Production", team_id="team_7", meta={"plan": "pro"}, permissions=["calls"]
    )
    key = await world.verify()
    assert (key.unkey_key_id, key.team_id, key.name) == (key_id, "team_7", "Production")
    assert key.meta == {"plan": "pro"}
    assert key.permissions == {"calls"}
    assert key.verified_at == world.clock()


async def test_a_key_of_no_identity_is_a_team_of_its_own(world: World) -> None:
    key_id = world.unkey.add_key(SECRET)
    assert (await world.verify()).team_id == key_id


async def test_verifying_takes_no_credits(world: World) -> None:
    key_id = world.unkey.add_key(SECRET, credits=1)
    for _ in range(3):
        await world.verify(max_age_secs=-1)
    assert world.unkey.key(key_id).credits == 1
    assert {one.cost for one in world.unkey.verifications} == {0}


@pytest.mark.parametrize(
    ("setting", "code"),
    [
        ({"enabled": False}, "disabled_api_key"),
        ({"expires": NOW_MS - 1}, "expired_api_key"),
        ({"ratelimits": [Ratelimit("calls", 0, 60_000)]}, "rate_limited"),
    ],
)
async def test_a_key_unkey_refuses_is_refused(
    world: World, setting: dict[str, Any], code: str
) -> None:
    world.unkey.add_key(SECRET, **setting)
    assert (await world.refusal()).code == code


@pytest.mark.parametrize(
    ("unkeys", "ours"),
    [
        ("NOT_FOUND", "invalid_api_key"),
        ("FORBIDDEN", "insufficient_permissions"),
        ("INSUFFICIENT_PERMISSIONS", "insufficient_permissions"),
        ("USAGE_EXCEEDED", "quota_exceeded"),
        ("SOMETHING_NEW", "invalid_api_key"),
    ],
)
async def test_every_refusal_has_a_code_of_ours(world: World, unkeys: str, ours: str) -> None:
    world.unkey.faults.add(lie(valid=False, code=unkeys))
    assert (await world.refusal()).code == ours


async def test_what_passes_with_time_says_when_to_come_back(world: World) -> None:
    world.unkey.faults.add(lie(valid=False, code="RATE_LIMITED"))
    assert ((await world.refusal()).retry_after_secs or 0) > 0


@pytest.mark.parametrize(
    "secret", ["", " ", "a b", "k" * 513, "key\n", "schlüssel", "\x00", "\ud800", "a\tb"]
)
async def test_what_cannot_be_a_key_is_refused_without_asking(world: World, secret: str) -> None:
    assert (await world.refusal(secret)).code == "invalid_api_key"
    assert world.asked == 0


@pytest.mark.parametrize(("age", "max_age", "asked"), [(9, 10, 1), (11, 10, 2), (29, 30, 1)])
async def test_an_answer_is_reused_for_as_long_as_the_caller_allows(
    world: World, age: float, max_age: float, asked: int
) -> None:
    world.unkey.add_key(SECRET)
    await world.verify()
    world.clock.seconds += age
    await world.verify(max_age_secs=max_age)
    assert world.asked == asked


async def test_a_revoked_key_is_refused_once_its_answer_is_old(world: World) -> None:
    key_id = world.unkey.add_key(SECRET)
    await world.verify()
    world.unkey.remove_key(key_id)
    world.clock.seconds += 11
    assert (await world.refusal()).code == "invalid_api_key"


async def test_a_key_is_not_reused_past_its_own_expiry(world: World) -> None:
    world.unkey.add_key(SECRET, expires=NOW_MS + 5_000)
    await world.verify()
    world.clock.seconds += 6
    assert (await world.refusal()).code == "expired_api_key"


@pytest.mark.parametrize("outage", OUTAGES)
async def test_in_an_outage_a_stranger_is_not_let_in(world: World, outage: Fault) -> None:
    world.unkey.add_key(SECRET)
    world.unkey.faults.add(outage)
    with pytest.raises(AuthUnavailable):
        await world.verify()
    assert world.counted("verified") == 0


@pytest.mark.parametrize("outage", OUTAGES)
async def test_in_an_outage_a_key_lately_good_goes_on_and_it_is_logged(
    world: World, outage: Fault
) -> None:
    key_id = world.unkey.add_key(SECRET)
    await world.verify()
    world.unkey.faults.add(outage)
    world.clock.seconds += 590
    with capture_logs() as logs:
        assert (await world.verify()).unkey_key_id == key_id
    # Threads of clients that tests before this one left behind may log as well.
    ours = [one for one in logs if one["event"].startswith("unkey_")]
    assert [(one["event"], one["unkey_key_id"]) for one in ours] == [
        ("unkey_unavailable_key_reused", key_id)
    ]
    assert SECRET not in str(logs)


async def test_in_an_outage_a_key_good_long_ago_is_not_let_in(world: World) -> None:
    world.unkey.add_key(SECRET)
    await world.verify()
    world.unkey.faults.add(Fault(kind="status", status=500))
    world.clock.seconds += 601
    with pytest.raises(AuthUnavailable):
        await world.verify()


async def test_reusing_does_not_prolong_the_ten_minutes(world: World) -> None:
    world.unkey.add_key(SECRET)
    await world.verify()
    world.unkey.faults.add(Fault(kind="status", status=500))
    for _ in range(5):
        world.clock.seconds += 119
        await world.verify()
    world.clock.seconds += 10
    with pytest.raises(AuthUnavailable):
        await world.verify()


async def test_in_an_outage_a_key_does_not_outlive_its_own_expiry(world: World) -> None:
    world.unkey.add_key(SECRET, expires=NOW_MS + 60_000)
    await world.verify()
    world.unkey.faults.add(Fault(kind="status", status=500))
    world.clock.seconds += 61
    with pytest.raises(AuthUnavailable):
        await world.verify()


async def test_a_refusal_ends_the_grace_at_once(world: World) -> None:
    key_id = world.unkey.add_key(SECRET)
    await world.verify()
    world.unkey.key(key_id).enabled = False
    world.clock.seconds += 11
    assert (await world.refusal()).code == "disabled_api_key"
    world.unkey.faults.add(Fault(kind="status", status=500))
    world.clock.seconds += 2
    with pytest.raises(AuthUnavailable):
        await world.verify()


async def test_a_known_key_does_not_wait_on_a_hanging_unkey_every_time(world: World) -> None:
    world.unkey.add_key(SECRET)
    await world.verify()
    world.unkey.faults.add(Fault(kind="hang"))
    world.clock.seconds += 11
    for _ in range(20):
        await world.verify()
    assert world.asked == 2


async def test_after_an_outage_unkey_is_asked_again(world: World) -> None:
    key_id = world.unkey.add_key(SECRET)
    await world.verify()
    world.unkey.faults.add(Fault(kind="status", status=500))
    world.clock.seconds += 11
    await world.verify()
    world.unkey.faults.clear()
    world.unkey.key(key_id).enabled = False
    world.clock.seconds += 11
    assert (await world.refusal()).code == "disabled_api_key"


async def test_a_passing_failure_is_tried_again_for_a_stranger(world: World) -> None:
    world.unkey.add_key(SECRET)
    world.unkey.faults.add(Fault(kind="status", status=500, times=1))
    await world.verify()
    assert world.asked == 2


async def test_tries_are_few(world: World) -> None:
    world.unkey.faults.add(Fault(kind="status", status=500))
    with pytest.raises(AuthUnavailable):
        await world.verify()
    assert world.asked <= 3


async def test_a_hundred_requests_at_once_ask_once(world: World) -> None:
    world.unkey.add_key(SECRET)
    world.unkey.faults.add(Fault(kind="delay", delay_secs=0.05))
    keys = await asyncio.gather(*(world.verify() for _ in range(100)))
    assert len({key.unkey_key_id for key in keys}) == 1
    assert world.asked == 1


async def test_a_caller_who_leaves_does_not_end_it_for_the_others(world: World) -> None:
    world.unkey.add_key(SECRET)
    world.unkey.faults.add(Fault(kind="delay", delay_secs=0.1))
    first, second = (asyncio.create_task(world.verify()) for _ in range(2))
    await world.until_asked(1)
    first.cancel()
    assert (await second).unkey_key_id
    assert first.cancelled()
    assert world.asked == 1


async def test_everybody_who_waited_gets_the_refusal(world: World) -> None:
    world.unkey.faults.add(Fault(kind="delay", delay_secs=0.05))
    results = await asyncio.gather(*(world.verify() for _ in range(10)), return_exceptions=True)
    assert {getattr(result, "code", None) for result in results} == {"invalid_api_key"}
    assert len({id(result) for result in results}) == 10


async def test_the_same_wrong_key_again_and_again_hardly_asks(world: World) -> None:
    for _ in range(50):
        await world.refusal("a_wrong_key")
    assert world.asked == 1


async def test_a_key_made_just_after_it_was_refused_works_within_a_second(world: World) -> None:
    await world.refusal()
    key_id = world.unkey.add_key(SECRET)
    world.clock.seconds += 1
    assert (await world.verify()).unkey_key_id == key_id


async def test_a_flood_of_made_up_keys_forgets_no_good_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flow.vendors.key_verification_cache.MAX_KNOWN", 10)
    monkeypatch.setattr("flow.vendors.key_verification_cache.MAX_REFUSALS", 10)
    world.keys = world.verifier()
    key_id = world.unkey.add_key(SECRET)
    await world.verify()
    flood = (world.verify(f"made_up_{n}") for n in range(60))
    await asyncio.gather(*flood, return_exceptions=True)
    world.unkey.faults.add(Fault(kind="status", status=500))
    assert (await world.verify()).unkey_key_id == key_id


async def test_a_hanging_flood_leaves_a_way_for_known_keys(world: World) -> None:
    registry = CollectorRegistry()
    world.keys = world.verifier(registry=registry, time_limit_secs=30)
    key_id = world.unkey.add_key(SECRET)
    await world.verify()
    world.clock.seconds += 11
    world.unkey.faults.add(Fault(kind="hang", times=32))
    flood = [asyncio.create_task(world.verify(f"made_up_{n}")) for n in range(150)]
    await world.until_asked(1 + 32)
    assert (await world.verify()).unkey_key_id == key_id
    assert not registry.get_sample_value(COUNTER, {"outcome": "reused"})
    for stranger in flood:
        stranger.cancel()


async def test_one_more_key_than_fits_forgets_the_one_unused_longest(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flow.vendors.key_verification_cache.MAX_KNOWN", 2)
    world.keys = world.verifier()
    for name in ("a", "b", "c"):
        world.unkey.add_key(name)
    for name in ("a", "b", "a", "c", "a"):
        await world.verify(name)
    assert world.asked == 3
    await world.verify("b")
    assert world.asked == 4


async def test_no_secret_is_kept(world: World) -> None:
    world.unkey.add_key(SECRET)
    key = await world.verify()
    await world.refusal("a_wrong_key")
    kept = repr((key, vars(world.keys)))
    assert SECRET not in kept
    assert "a_wrong_key" not in kept


async def test_it_is_ready_when_unkey_answers(world: World) -> None:
    await world.keys.check()
    await world.keys.check()
    assert world.asked == 1


async def test_it_is_not_ready_when_the_root_key_is_refused(world: World) -> None:
    keys = world.verifier(root_key="another_root_key")
    with pytest.raises(AuthUnavailable):
        await keys.check()


async def test_it_stays_ready_for_as_long_as_known_keys_go_on(world: World) -> None:
    await world.keys.check()
    world.unkey.faults.add(Fault(kind="status", status=500))
    world.clock.seconds += 590
    await world.keys.check()
    world.clock.seconds += 20
    with pytest.raises(AuthUnavailable):
        await world.keys.check()


async def test_an_unkey_that_is_not_there_lets_nobody_in(world: World) -> None:
    keys = world.verifier(base_url="http://127.0.0.1:9")
    with pytest.raises(AuthUnavailable):
        await keys.verify(SECRET, max_age_secs=10)


async def test_the_debug_key_is_the_only_one() -> None:
    keys = DebugKeys("the debug key")
    key = await keys.verify("the debug key", max_age_secs=0)
    assert (key.unkey_key_id, key.team_id) == ("debug", "debug")
    await keys.check()
    for wrong in ("", "the debug kez", "\ud800", "the debug key "):
        with pytest.raises(Refused) as refused:
            await keys.verify(wrong, max_age_secs=0)
        assert refused.value.code == "invalid_api_key"
