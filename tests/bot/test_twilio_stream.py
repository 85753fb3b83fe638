"""What the start of a media stream says, and what is taken for one."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree as Xml

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.bot.transports import plivo, twilio
from flow.bot.transports.media_stream import read_message, speakable
from flow.bot.transports.spec import MediaStreamSpec
from flow.bot.transports.twilio import started
from flow.domain.calls.media_stream import MediaStream
from flow.errors import InvalidInput
from flow.vendors.twilio import is_call_sid

CALL, STREAM = f"CA{'a' * 32}", f"MZ{'0' * 32}"
START: dict[str, Any] = {
    "streamSid": STREAM,
    "callSid": CALL,
    "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
    "customParameters": {"token": "t"},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def wire(**changed: Any) -> str:
    return json.dumps({"event": "start", "start": START | changed})


def test_a_start_names_the_stream_its_call_and_its_token() -> None:
    assert started(wire()) == MediaStream(STREAM, CALL, "t")
    assert started('{"event": "connected", "protocol": "Call"}') is None


def test_what_twilio_may_add_one_day_does_no_harm() -> None:
    sound = START["mediaFormat"] | {"new": 1}
    assert started(wire(mediaFormat=sound, more=[1])) == MediaStream(STREAM, CALL, "t")


@pytest.mark.parametrize("sid", ["", "CA", CALL + "0", CALL.upper(), f"CA{'a' * 31}/", CALL + "\n"])
def test_what_is_no_id_of_a_call(sid: str) -> None:
    assert not is_call_sid(sid)
    with pytest.raises(InvalidInput):
        started(wire(callSid=sid))


@given(st.text() | JSON.map(json.dumps) | JSON.map(lambda v: json.dumps({"event": v, "start": v})))
def test_nothing_else_is_a_start(text: str) -> None:
    assert isinstance(read_message(text), dict)
    with pytest.raises(InvalidInput):
        started(text)


@given(st.dictionaries(st.sampled_from(sorted(START)), JSON, min_size=1))
def test_a_start_that_is_changed_is_refused_or_says_text(changed: dict[str, Any]) -> None:
    try:
        found = started(wire(**changed))
    except InvalidInput:
        return
    assert found is not None
    assert isinstance(found.token, str)


@pytest.mark.parametrize("spec", [twilio.TRANSPORT, plivo.TRANSPORT], ids=lambda spec: spec.name)
@given(st.text(st.characters()))
def test_whatever_is_to_be_spoken_is_in_xml_that_can_be_read(
    spec: MediaStreamSpec, text: str
) -> None:
    said, *_ = Xml.fromstring(spec.spoken(text, "de-DE"))
    assert (said.text or "").split() == speakable(text).split()


@pytest.mark.parametrize("spec", [twilio.TRANSPORT, plivo.TRANSPORT], ids=lambda spec: spec.name)
def test_pipecats_serializers_have_the_resamplers_that_are_replaced(spec: MediaStreamSpec) -> None:
    """Else a new Pipecat would silently keep 150 ms of sound back again."""
    serializer = spec.serializer(MediaStream(STREAM, CALL, "t"), lambda: None)
    assert {"_input_resampler", "_output_resampler"} <= vars(serializer).keys()
