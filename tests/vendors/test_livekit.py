"""LiveKit's tokens as its server reads them, and closing a room against its stand-in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from pydantic import SecretStr

from flow.errors import TransportUnavailable
from flow.sandbox.faults import Fault
from flow.sandbox.livekit import API_KEY, API_SECRET, LiveKitSandbox
from flow.sandbox.server import Served
from flow.vendors.livekit import LiveKit

# Not the test's own time: the suite may take longer than a token lasts.
HOUR = timedelta(hours=1)
NOW = datetime.now(UTC)


@asynccontextmanager
async def project(secret: str = API_SECRET) -> AsyncIterator[tuple[LiveKit, LiveKitSandbox]]:
    stand_in = LiveKitSandbox()
    async with Served(stand_in) as url:
        ours = url.replace("http", "ws")
        livekit = LiveKit(ours, API_KEY, SecretStr(secret), answer_secs=0.5)
        yield livekit, stand_in
        await livekit.aclose()


async def test_a_token_lets_one_party_into_one_room_to_talk_and_to_hear() -> None:
    async with project() as (livekit, stand_in):
        until = NOW + HOUR
        token = livekit.token("flow-1", "caller", NOW, until).get_secret_value()
        claims = stand_in.admits(token)
    assert claims["iss"] == API_KEY
    assert claims["sub"] == "caller"
    assert claims["exp"] == int(until.timestamp())
    assert 0 < NOW.timestamp() - claims["nbf"] <= 60
    assert claims["video"] == {
        "roomJoin": True,
        "room": "flow-1",
        "canPublish": True,
        "canPublishSources": ["microphone"],
        "canSubscribe": True,
        "canPublishData": False,
    }


@pytest.mark.parametrize("secret", [API_SECRET, "another secret of thirty-two letters"])
async def test_a_token_expires_and_is_ours_alone(secret: str) -> None:
    async with project(secret) as (livekit, stand_in):
        past = livekit.token("flow-1", "caller", NOW, NOW - timedelta(seconds=1))
        with pytest.raises(jwt.InvalidTokenError):
            stand_in.admits(past.get_secret_value())
        token = livekit.token("flow-1", "caller", NOW, NOW + HOUR)
        if secret == API_SECRET:
            assert stand_in.admits(token.get_secret_value())
        else:
            with pytest.raises(jwt.InvalidSignatureError):
                stand_in.admits(token.get_secret_value())


async def test_a_room_is_closed_and_one_that_is_gone_left_alone() -> None:
    async with project() as (livekit, stand_in):
        stand_in.rooms |= {"flow-1", "flow-2"}
        await livekit.close("flow-1")
        await livekit.close("flow-1")
    assert (stand_in.deleted, stand_in.rooms) == (["flow-1"], {"flow-2"})


async def test_a_callers_token_closes_no_room() -> None:
    async with project() as (livekit, stand_in):
        stand_in.rooms.add("flow-1")
        token = livekit.token("flow-1", "caller", NOW, NOW + HOUR)
        assert "roomCreate" not in stand_in.admits(token.get_secret_value())["video"]


@pytest.mark.parametrize("kind", ["status", "drop", "hang"])
async def test_a_server_that_does_not_close_a_room_says_so(kind: str) -> None:
    async with project() as (livekit, stand_in):
        stand_in.faults.add(Fault(kind=kind, status=500))  # type: ignore[arg-type]
        with pytest.raises(TransportUnavailable):
            await livekit.close("flow-1")


async def test_a_wrong_secret_is_said_and_not_shown() -> None:
    async with project("another secret of thirty-two letters") as (livekit, _):
        with pytest.raises(TransportUnavailable, match="401") as refusal:
            await livekit.close("flow-1")
    assert "another secret" not in str(refusal.value)
