"""Which rooms a caller may name: none that leads the bot anywhere else."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flow.bot.transports import TRANSPORTS
from flow.bot.transports.daily import daily_problem
from flow.bot.transports.livekit import livekit_problem
from flow.domain.calls.join_request import JoinRequest, Transport
from flow.domain.calls.room import room_name

KNOWN = {"transports": TRANSPORTS}
OURS = "wss://livekit.example.com"


@pytest.mark.parametrize(
    "url",
    [
        "https://acme.daily.co/standup",
        "https://a-1.daily.co/A_b-9",
        "https://x.daily.co/" + "r" * 128,
    ],
)
def test_a_daily_room_may_be_named(url: str) -> None:
    assert daily_problem(url) is None
    given = {"type": "daily", "room_url": url}
    assert Transport.model_validate(given, context=KNOWN).room_url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "acme.daily.co/standup",
        "http://acme.daily.co/standup",
        "https://daily.co/standup",
        "https://acme.daily.co",
        "https://acme.daily.co/",
        "https://acme.daily.co/a/b",
        "https://acme.daily.co/../b",
        "https://acme.daily.co/standup?t=token",
        "https://acme.daily.co/standup#x",
        "https://acme.daily.co:8443/standup",
        "https://me:secret@acme.daily.co/standup",
        "https://acme.daily.co.evil.example/standup",
        "https://evil.example/acme.daily.co/standup",
        "https://acme.daily.co@evil.example/standup",
        "https://acme.dailyxco/standup",
        "https://a.b.daily.co/standup",
        "https://-.daily.co/standup",
        "https://.daily.co/standup",
        "https://169.254.169.254/latest",
        "https://[::1]/standup",
        "https://acme.daily.co/standup\n",
        " https://acme.daily.co/standup",
        "https://acme.daily.co\\@evil.example/x",
        "https://acme.daily.co/st%61ndup",
        "https://\u0430cme.daily.co/standup",
        "https://x.daily.co/" + "r" * 129,
        "file:///etc/passwd",
    ],
)
def test_nothing_else_passes_for_a_daily_room(url: str) -> None:
    assert daily_problem(url)
    with pytest.raises(ValidationError):
        Transport.model_validate({"type": "daily", "room_url": url}, context=KNOWN)


@given(st.text(max_size=60))
def test_a_daily_room_is_reached_at_daily_and_nowhere_else(text: str) -> None:
    for url in (
        text,
        f"https://{text}",
        f"https://{text}.daily.co/x",
        f"https://a.daily.co/{text}",
    ):
        if daily_problem(url) is None:
            host, _, room = url.removeprefix("https://").partition("/")
            assert host.isascii()
            assert host.removesuffix(".daily.co").replace("-", "").isalnum()
            assert room.replace("-", "").replace("_", "").isalnum() or set(room) <= {"-", "_"}


@pytest.mark.parametrize(
    "url",
    [OURS, f"{OURS}/", "https://livekit.example.com", "wss://livekit.example.com:443",
     "wss://LiveKit.Example.com"],
)  # fmt: skip
def test_our_own_livekit_may_be_named(url: str) -> None:
    assert livekit_problem(url, OURS) is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "livekit.example.com",
        "wss://evil.example",
        "wss://livekit.example.com.evil.example",
        "wss://livekit.example.com:8080",
        "wss://livekit.example.com:0x1bb",
        "wss://livekit.example.com:99999",
        "ws://livekit.example.com",
        "wss://me@livekit.example.com",
        "wss://livekit.example.com@evil.example",
        "wss://livekit.example.com/rtc",
        "wss://livekit.example.com?access_token=x",
        "wss://livekit.example.com#x",
        "wss://livekit.example.com\n",
        "wss://[::1",
        "wss://127.0.0.1",
        "file://livekit.example.com",
    ],
)
def test_nothing_else_passes_for_our_own_livekit(url: str) -> None:
    assert livekit_problem(url, OURS)


def test_rooms_of_threads_are_told_apart_and_made_again_alike() -> None:
    one, other = UUID(int=1), UUID(int=2)
    assert room_name(one) == room_name(UUID(int=1)) != room_name(other)
    assert daily_problem(f"https://acme.daily.co/{room_name(one)}") is None


@pytest.mark.parametrize("kind", ["websocket", "webrtc", "twilio"])
def test_only_rooms_have_a_url(kind: str) -> None:
    with pytest.raises(ValidationError, match="for daily and livekit"):
        JoinRequest.model_validate(
            {"transport": {"type": kind, "room_url": "https://acme.daily.co/x"}}, context=KNOWN
        )


@pytest.mark.parametrize("token", ["", "a b", "a\n", "ü", "\x00", "x" * 4097])
def test_what_is_no_token_is_refused_without_being_repeated(token: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        Transport.model_validate({"type": "daily", "token": token})
    assert len(token) < 4 or token not in str(refusal.value.errors(include_input=False))


def test_a_token_is_no_part_of_what_is_stored_or_shown() -> None:
    transport = {"type": "daily", "room_url": "https://acme.daily.co/x", "token": "very-secret"}
    join = JoinRequest.model_validate({"transport": transport})
    assert join.transport.token is not None
    assert join.transport.token.get_secret_value() == "very-secret"
    for shown in (join.to_json(), join, repr(join), join.model_dump_json()):
        assert "very-secret" not in str(shown)
    again = JoinRequest.model_validate(join.to_json())
    assert again.transport.room_url == "https://acme.daily.co/x"
    assert again.transport.token is None
