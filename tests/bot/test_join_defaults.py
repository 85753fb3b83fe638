"""What a join leaves out, and what of it cannot be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flow.bot import join_defaults
from flow.bot.join_defaults import Resolver
from flow.bot.vendors import VENDORS
from flow.bot.vendors.spec import Choice, ServiceSpec
from flow.domain.calls.bot_part import BotPart
from flow.domain.calls.join_request import JoinRequest, TurnDetection
from flow.domain.products.product import Product, Products
from flow.errors import InvalidInput

DEFAULTS = {
    "stt": {"provider": "openai", "model": "whisper-1"},
    "llm": {"provider": "openai", "model": "gpt-4.1"},
    "tts": {"provider": "openai", "model": "tts-1", "voice": "alloy"},
    "realtime": {"provider": "openai", "model": "speaks"},
}
PRODUCTS = Products(
    [Product("voice_bot", billable=True), Product("insights", billable=False, calls=False)]
)
TELLS = {"stt": {"provider": "openai", "model": "tells"}}
SPEAKS: dict[str, Any] = {"realtime": {"provider": "openai", "model": "speaks"}}


def not_made(_: object) -> Any:
    raise AssertionError("no call is made")


def _tells(choice: Choice) -> bool:
    return choice.model == "tells"


def resolver(usual: TurnDetection) -> Resolver:
    """Of a vendor with a model for STT that tells turns beside one that does not."""
    openai = VENDORS["openai"]
    tells = ServiceSpec(BotPart.STT, not_made, by_frames=True, serves=_tells, tells_turns=True)
    speaks = ServiceSpec(BotPart.REALTIME, not_made, by_frames=True, tells_turns=True)
    one = replace(openai, services=(tells, speaks, *openai.services))
    return Resolver(PRODUCTS, DEFAULTS, ["openai"], usual, {**VENDORS, "openai": one})


def resolved(bot: dict[str, Any], usual: TurnDetection = "silence") -> TurnDetection | None:
    join = JoinRequest.model_validate({"bot": bot})
    return resolver(usual).resolve(join).bot.turn_detection


@pytest.mark.parametrize(
    ("bot", "usual", "detection"),
    [
        ({}, "silence", "silence"),
        ({}, "smart", "smart"),
        ({}, "vendor", "silence"),
        ({"turn_detection": "smart"}, "silence", "smart"),
        (TELLS, "silence", "vendor"),
        (TELLS | {"turn_detection": "vendor"}, "silence", "vendor"),
        (TELLS | {"turn_detection": "silence"}, "smart", "silence"),
        (SPEAKS, "smart", "vendor"),
    ],
)
def test_a_join_says_or_the_service_that_hears_tells_or_the_setting_holds(
    bot: dict[str, Any], usual: TurnDetection, detection: TurnDetection
) -> None:
    assert resolved(bot, usual) == detection


@pytest.mark.parametrize(
    ("bot", "why"),
    [
        ({"turn_detection": "vendor"}, "openai/whisper-1 does not tell turns by itself"),
        (SPEAKS | {"turn_detection": "smart"}, "openai/speaks tells turns by itself"),
    ],
)
def test_what_cannot_tell_turns_is_refused(bot: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        resolved(bot)
    (problem,) = refused.value.problems
    assert problem.field == "bot.turn_detection"
    assert why in problem.message


@pytest.mark.parametrize(
    ("allow", "bot", "said"),
    [
        ("messages", {}, "bot of one's own"),
        ("text", SPEAKS, "not for realtime"),
    ],
)
def test_what_the_built_in_bot_cannot_take_from_a_client_is_not_allowed(
    allow: str, bot: dict[str, Any], said: str
) -> None:
    transport = {"type": "webrtc", "rtvi": {"allow": [allow]}}
    join = JoinRequest.model_validate({"transport": transport, "bot": bot})
    with pytest.raises(InvalidInput) as caught:
        resolver("silence").resolve(join)
    [problem] = caught.value.problems
    assert problem.field == "transport.rtvi.allow"
    assert said in problem.message


@pytest.mark.parametrize(
    ("most_days", "asked", "field"),
    [
        (None, True, "recording"),
        (None, False, None),
        (30, True, None),
        (30, {"retention_days": 30}, None),
        (30, {"retention_days": 31}, "recording.retention_days"),
    ],
)
def test_a_call_is_recorded_where_that_is_set_up_and_for_as_long(
    most_days: int | None, asked: object, field: str | None
) -> None:
    join = JoinRequest.model_validate({"recording": asked})
    resolving = Resolver(PRODUCTS, DEFAULTS, ["openai"], recording_days=most_days)
    if field is None:
        assert resolving.resolve(join).recording == join.recording
        return
    with pytest.raises(InvalidInput) as caught:
        resolving.resolve(join)
    [problem] = caught.value.problems
    assert problem.field == field
    assert "FLOW_" not in problem.message


def test_a_caller_is_not_told_how_the_operator_installs_mcp(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(join_defaults, "is_installed", lambda module: module != "mcp")
    bot = {"tools": [{"type": "mcp", "url": "https://tools.example.com/mcp"}]}
    with pytest.raises(InvalidInput) as refused:
        resolved(bot)
    [problem] = refused.value.problems
    assert (problem.field, problem.message) == ("bot.tools", "MCP is not set up here")
    assert problem.hint == "For MCP install 'flow-voice[mcp]'."
