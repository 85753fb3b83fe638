"""Daily's rooms and tokens, against its stand-in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from flow.errors import TransportUnavailable
from flow.sandbox.daily import API_KEY, DailySandbox
from flow.sandbox.faults import Fault
from flow.sandbox.server import Served
from flow.vendors.daily import Daily

SOON = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)


@asynccontextmanager
async def domain(
    key: str = API_KEY, *, answer_secs: float = 5.0
) -> AsyncIterator[tuple[Daily, DailySandbox]]:
    stand_in = DailySandbox()
    async with Served(stand_in) as url:
        daily = Daily(SecretStr(key), f"{url}/v1", answer_secs=answer_secs, first_pause_secs=0)
        yield daily, stand_in
        await daily.aclose()


async def test_a_room_is_private_for_two_and_ends_by_itself() -> None:
    async with domain() as (daily, stand_in):
        url = await daily.open("flow-1", SOON)
    room = stand_in.rooms["flow-1"]
    assert url == room.url
    assert room.privacy == "private"
    assert room.properties == {
        "exp": int(SOON.timestamp()),
        "eject_at_room_exp": True,
        "max_participants": 2,
        "start_video_off": True,
    }


async def test_opening_a_room_again_finds_it() -> None:
    async with domain() as (daily, stand_in):
        assert await daily.open("flow-1", SOON) == await daily.open("flow-1", SOON)
    assert [(one.method, one.status) for one in stand_in.requests] == [
        ("POST", 200), ("POST", 400), ("GET", 200),
    ]  # fmt: skip


@pytest.mark.parametrize("owner", [True, False])
async def test_a_token_is_for_one_room_and_a_time_and_makes_only_the_bot_an_owner(
    owner: bool,
) -> None:
    async with domain() as (daily, stand_in):
        await daily.open("flow-1", SOON)
        token = await daily.token("flow-1", SOON, owner=owner)
    claims = stand_in.admits(token.get_secret_value())
    assert (claims["r"], claims["exp"], claims["o"]) == ("flow-1", int(SOON.timestamp()), owner)
    assert claims["ud"] == ("flow-bot" if owner else "caller")


async def test_closing_a_room_puts_the_caller_out_first_and_may_be_repeated() -> None:
    async with domain() as (daily, stand_in):
        await daily.open("flow-1", SOON)
        room = stand_in.rooms["flow-1"]
        room.present |= {"caller", "somebody"}
        await daily.close("flow-1")
        await daily.close("flow-1")
    assert room.present == {"somebody"}
    assert stand_in.deleted == ["flow-1"]


async def test_an_expired_room_is_gone() -> None:
    async with domain() as (daily, stand_in):
        await daily.open("flow-1", datetime(2020, 1, 1, tzinfo=UTC))
        await daily.close("flow-1")
        await daily.open("flow-1", SOON)
    assert stand_in.deleted == []
    assert stand_in.rooms["flow-1"].properties["exp"] == int(SOON.timestamp())


@pytest.mark.parametrize("route", ["*/rooms", "*/meeting-tokens", "*/rooms/flow-1"])
@pytest.mark.parametrize(
    ("fault", "attempts"),
    [
        (Fault(kind="status", status=500), 3),
        (Fault(kind="status", status=429), 3),
        (Fault(kind="status", status=403), 1),
        (Fault(kind="drop"), 3),
        (Fault(kind="hang"), 3),
        (Fault(kind="cut"), 3),
    ],
    ids=lambda value: f"{value.kind}-{value.status}" if isinstance(value, Fault) else None,
)
async def test_what_may_pass_is_tried_again_and_what_will_not_is_said(
    fault: Fault, attempts: int, route: str
) -> None:
    # An attempt that took too long for another reason would not be seen by the stand-in.
    answer_secs = 0.5 if fault.kind == "hang" else 5.0
    async with domain(answer_secs=answer_secs) as (daily, stand_in):
        if route.endswith("flow-1"):
            await daily.open("flow-1", SOON)
        stand_in.requests.clear()

        async def ask() -> None:
            if route.endswith("rooms"):
                await daily.open("flow-1", SOON)
            elif route.endswith("tokens"):
                await daily.token("flow-1", SOON, owner=True)
            else:
                await daily.close("flow-1")

        stand_in.faults.add(fault.model_copy(update={"route": route}))
        with pytest.raises(TransportUnavailable):
            await ask()
        hit = [one for one in stand_in.requests if one.faults]
        assert len(hit) == attempts
        stand_in.faults.clear()
        if attempts > 1:
            times = {"route": route, "times": attempts - 1}
            stand_in.faults.add(fault.model_copy(update=times))
            await ask()
    if route.endswith("flow-1") and attempts > 1:
        assert "flow-1" not in stand_in.rooms


NO_ANSWERS = ["", "no json", [], "[]", {}, {"url": None, "token": 7}, {"url": "", "token": ""}]


@pytest.mark.parametrize(
    "answer",
    [
        Fault(kind="malformed"),
        *(Fault(kind="status", status=200, body=body) for body in NO_ANSWERS),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.body!r}",
)
async def test_an_answer_that_is_none_is_a_refusal(answer: Fault) -> None:
    async with domain() as (daily, stand_in):
        stand_in.faults.add(answer)
        with pytest.raises(TransportUnavailable):
            await daily.open("flow-1", SOON)
        with pytest.raises(TransportUnavailable):
            await daily.token("flow-1", SOON, owner=False)


async def test_a_wrong_key_is_said_and_not_shown() -> None:
    async with domain("a-wrong-key") as (daily, stand_in):
        with pytest.raises(TransportUnavailable, match="401") as refusal:
            await daily.open("flow-1", SOON)
    assert "a-wrong-key" not in str(refusal.value)
    assert len(stand_in.requests) == 1


async def test_a_room_that_cannot_be_ejected_from_is_deleted_all_the_same() -> None:
    async with domain() as (daily, stand_in):
        await daily.open("flow-1", SOON)
        stand_in.faults.add(Fault(kind="status", status=500, route="*/eject"))
        await daily.close("flow-1")
    assert stand_in.deleted == ["flow-1"]
