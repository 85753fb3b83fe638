"""Managing keys, over Unkey's real SDK against a stand-in that can be told to fail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from flow.errors import (
    AuthUnavailable,
    ConfigurationError,
    FlowError,
    InvalidInput,
    NotFound,
    Refused,
)
from flow.sandbox.faults import Fault
from flow.sandbox.server import Served
from flow.sandbox.unkey.app import ROOT_KEY, UnkeySandbox
from flow.vendors.key_verification_cache import KeyVerifier
from flow.vendors.unkey_admin import UnkeyAdmin

NOW_MS = 1_800_000_000_000
EXPIRES = datetime(2090, 1, 1, tzinfo=UTC)


@dataclass
class World:
    """A stand-in for Unkey, and who manages its keys."""

    unkey: UnkeySandbox
    admin: UnkeyAdmin
    url: str


@pytest.fixture
async def world() -> AsyncIterator[World]:
    unkey = UnkeySandbox(now_ms=lambda: NOW_MS)
    async with Served(unkey) as url:
        admin = UnkeyAdmin(ROOT_KEY, "api_1", url, time_limit_secs=5)
        yield World(unkey, admin, url)
        await admin.aclose()


async def test_a_key_is_made_as_asked_and_verifies(world: World) -> None:
    made = await world.admin.create(
        team_id="acme",
        name="Ada",
        prefix="live",
        expires_at=EXPIRES,
        permissions=["budget.override"],
        meta={"plan": "pro"},
    )
    assert made.secret.startswith("live_")
    keys = KeyVerifier(ROOT_KEY, base_url=world.url, time_limit_secs=20)
    verified = await keys.verify(made.secret, max_age_secs=0)
    await keys.aclose()
    assert (verified.unkey_key_id, verified.team_id) == (made.unkey_key_id, "acme")
    assert (verified.name, verified.meta) == ("Ada", {"plan": "pro"})
    details = await world.admin.get(made.unkey_key_id)
    assert (details.team_id, details.name, details.enabled) == ("acme", "Ada", True)
    assert (details.expires_at, details.permissions) == (EXPIRES, ("budget.override",))
    assert details.created_at == datetime.fromtimestamp(NOW_MS / 1000, UTC)
    assert made.secret.startswith(details.start)


async def test_a_secret_is_in_no_representation(world: World) -> None:
    made = await world.admin.create(team_id="acme", name="Ada")
    assert made.secret not in repr(made)
    assert made.secret not in repr(await world.admin.get(made.unkey_key_id))


async def test_a_key_of_no_identity_is_a_team_of_its_own(world: World) -> None:
    key_id = world.unkey.add_key("secret")
    assert (await world.admin.get(key_id)).team_id == key_id


async def test_revoking_twice_says_that_there_was_nothing_left(world: World) -> None:
    made = await world.admin.create(team_id="acme", name="Ada")
    assert await world.admin.revoke(made.unkey_key_id) is True
    assert await world.admin.revoke(made.unkey_key_id) is False
    with pytest.raises(NotFound):
        await world.admin.get(made.unkey_key_id)


async def test_without_an_api_nothing_is_asked(world: World) -> None:
    admin = UnkeyAdmin(ROOT_KEY, None, world.url)
    with pytest.raises(ConfigurationError, match="UNKEY_API_ID is missing"):
        await admin.create(team_id="acme", name="Ada")
    await admin.aclose()
    assert not world.unkey.requests


@pytest.mark.parametrize("team_id", ["", "a b", "a/b", "t" * 256, "\u00e9quipe", "a\n"])
async def test_a_team_unkey_could_not_hold_is_refused(world: World, team_id: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        await world.admin.create(team_id=team_id, name="Ada")
    assert [problem.field for problem in refused.value.problems] == ["team"]
    assert not world.unkey.requests


async def test_what_unkey_cannot_take_is_told_in_its_words(world: World) -> None:
    with pytest.raises(InvalidInput) as refused:
        await world.admin.create(team_id="acme", name="Ada", prefix="not-good")
    (problem,) = refused.value.problems
    assert problem.field == "prefix"


OUTAGES: list[tuple[Fault, type[FlowError], str]] = [
    (Fault(kind="status", status=401), Refused, "UNKEY_ROOT_KEY"),
    (Fault(kind="status", status=429), AuthUnavailable, "try again"),
    (Fault(kind="status", status=500), AuthUnavailable, "HTTP 500"),
    (Fault(kind="status", status=503, body="no healthy upstream"), AuthUnavailable, "HTTP 503"),
    (
        Fault(kind="status", status=302, headers={"location": "/elsewhere"}),
        AuthUnavailable,
        "HTTP 302",
    ),
    (Fault(kind="drop"), AuthUnavailable, "did not answer"),
    (Fault(kind="malformed"), AuthUnavailable, "makes no sense"),
    (Fault(kind="status", status=200, body=[]), AuthUnavailable, "makes no sense"),
]


@pytest.mark.parametrize(("fault", "error", "said"), OUTAGES)
@pytest.mark.parametrize("method", ["create", "get", "revoke"])
async def test_a_failing_unkey_is_asked_once_and_named(
    world: World, method: str, fault: Fault, error: type[FlowError], said: str
) -> None:
    world.unkey.add_key("secret_of_nobody", name="Ada")
    world.unkey.faults.add(fault)
    with pytest.raises(error, match=said) as raised:
        await _call(world.admin, method)
    assert len(world.unkey.requests) == 1
    sentence = str(raised.value)
    assert ROOT_KEY not in sentence
    unsure = error is AuthUnavailable and fault.status != 429
    assert ("'Ada' all the same" in sentence) == (unsure and method == "create")
    assert ("do it again" in sentence) == (unsure and method == "revoke")


async def test_the_text_of_a_broken_answer_is_never_told(world: World) -> None:
    """It may hold the secret that was just made."""
    body = {"meta": {"requestId": "req_1"}, "data": {"keyId": 7, "key": "flow_very_secret"}}
    world.unkey.faults.add(Fault(kind="status", status=200, body=body))
    with pytest.raises(AuthUnavailable) as raised:
        await world.admin.create(team_id="acme", name="Ada")
    assert "flow_very_secret" not in str(raised.value)
    assert raised.value.__suppress_context__


async def test_a_hanging_unkey_is_given_up(world: World) -> None:
    admin = UnkeyAdmin(ROOT_KEY, "api_1", world.url, time_limit_secs=0.2)
    world.unkey.faults.add(Fault(kind="hang"))
    with pytest.raises(AuthUnavailable, match="did not answer"):
        await admin.create(team_id="acme", name="Ada")
    await admin.aclose()


async def test_where_nobody_listens_nothing_can_have_been_made() -> None:
    admin = UnkeyAdmin(ROOT_KEY, "api_1", "http://127.0.0.1:1")
    with pytest.raises(AuthUnavailable, match=r"cannot be reached \(ConnectError\)\.$"):
        await admin.create(team_id="acme", name="Ada")
    await admin.aclose()


@pytest.mark.parametrize(
    ("method", "permission"),
    [("create", "create_key"), ("get", "read_key"), ("revoke", "delete_key")],
)
async def test_a_root_key_that_may_not_is_told_what_it_lacks(
    world: World, method: str, permission: str
) -> None:
    world.unkey.faults.add(Fault(kind="status", status=403))
    with pytest.raises(Refused, match=rf"api\.\*\.{permission}"):
        await _call(world.admin, method)


@pytest.mark.parametrize(
    ("status", "said"), [(404, "does not exist"), (412, "not set up for keys")]
)
async def test_an_api_unkey_does_not_have_is_named(world: World, status: int, said: str) -> None:
    world.unkey.faults.add(Fault(kind="status", status=status))
    with pytest.raises(ConfigurationError, match=f"'api_1' in UNKEY_API_ID.*{said}"):
        await _call(world.admin, "create")


async def _call(admin: UnkeyAdmin, method: str) -> object:
    if method == "create":
        return await admin.create(team_id="acme", name="Ada")
    return await getattr(admin, method)("key_1")
