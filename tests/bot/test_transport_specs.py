"""A transport is one file: all that joins, routes and answers know of it comes from its spec."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from pydantic import ValidationError

from flow.app.transport_settings import set_up
from flow.bot.transports import TRANSPORTS, of_kind
from flow.bot.transports.spec import MediaStreamSpec, OfferSpec, RoomSpec, SocketSpec
from flow.bot.transports.twilio import TRANSPORT as TWILIO
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.transport_spec import CallAddress
from flow.settings import Settings


def test_every_transport_begins_in_one_way() -> None:
    kinds = (SocketSpec, OfferSpec, MediaStreamSpec, RoomSpec)
    found = [name for kind in kinds for name in of_kind(kind, TRANSPORTS)]
    assert sorted(found) == sorted(TRANSPORTS)
    assert {"daily", "livekit", "twilio", "webrtc", "websocket"} <= set(found)


def test_a_further_telephone_company_is_a_spec_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    further = replace(TWILIO, name="further", settings=("FURTHER_ID", "FURTHER_KEY"))
    join = {"transport": {"type": "further"}}
    known = {"transports": {**TRANSPORTS, "further": further}}
    assert JoinRequest.model_validate(join, context=known).transport.type == "further"
    with pytest.raises(
        ValidationError, match="daily, livekit, plivo, twilio, webrtc and websocket"
    ):
        JoinRequest.model_validate(join, context={"transports": TRANSPORTS})
    assert set_up(further, Settings()) is None  # type: ignore[call-arg]
    monkeypatch.setenv("FURTHER_ID", "one")
    monkeypatch.setenv("FURTHER_KEY", "two")
    values = set_up(further, Settings())  # type: ignore[call-arg]
    assert values is not None
    assert (values["FURTHER_ID"], values["FURTHER_KEY"]) == ("one", "two")


def test_what_it_needs_is_named() -> None:
    assert TWILIO.needed == "'twilio' needs TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN."
    assert TRANSPORTS["websocket"].needed is None


def test_a_caller_is_told_where_to_connect_with_the_token() -> None:
    at = CallAddress("https://flow.example.com", UUID(int=1), "t")
    call = f"flow.example.com/api/bot/{UUID(int=1)}"
    for name, urls in {
        "websocket": {"url": f"wss://{call}/ws?token=t"},
        "webrtc": {"url": f"https://{call}/offer?token=t"},
        "twilio": {"url": f"wss://{call}/twilio", "twiml_url": f"https://{call}/twiml?token=t"},
    }.items():
        connection = TRANSPORTS[name].connection
        assert connection is not None
        assert connection(at) == urls
