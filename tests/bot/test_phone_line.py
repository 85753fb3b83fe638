"""Keys that a bot presses are the two tones that a telephone makes for each, and a caller who
cannot be passed on stays with the bot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pipecat.frames.frames import OutputAudioRawFrame
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams
from pydantic import SecretStr

from flow.bot.calls.phone_line import CarrierLines, PhoneLine
from flow.bot.tools.tool import ToolFailed
from flow.bot.transports.twilio import conference
from flow.db.database import Database
from flow.domain.calls.phone_call import Direction, caller_leg
from flow.sandbox.faults import Fault
from flow.sandbox.server import Served
from flow.sandbox.twilio.app import AUTH_TOKEN, TwilioSandbox
from flow.sandbox.twilio.rest_api import ACCOUNT_SID
from flow.vendors.twilio import Twilio
from tests.db.making import a_key, a_thread

OURS, THEIRS, TARGET = "+4930111111", "+4930222222", "+4930333333"
RATE = 8_000
# ITU-T Q.23.
TONES = {"1": (697, 1209), "5": (770, 1336), "9": (852, 1477), "*": (941, 1209), "#": (941, 1477)}
NOBODY: Any = None


class Line(BaseOutputTransport):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(TransportParams())
        self._sample_rate = RATE
        self.said: list[bytes] = []

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        self.said.append(frame.audio)
        return True

    def output(self) -> Line:
        return self


def tones(audio: bytes) -> tuple[int, int]:
    """The strongest frequency below 1,000 Hz, and above."""
    samples = np.frombuffer(audio, "<i2").astype(float)
    power = np.abs(np.fft.rfft(samples, RATE))
    return int(power[:1000].argmax()), int(power[1000:].argmax()) + 1000


async def test_keys_are_pressed_one_after_the_other() -> None:
    line: Any = Line()
    shared = CarrierLines("twilio", None, NOBODY, None)
    await PhoneLine(shared, NOBODY, "CA1", lambda: line).send_dtmf("1w59*#")
    heard = [tones(audio) for audio in line.said]
    for (low, high), (want_low, want_high) in zip(heard, TONES.values(), strict=True):
        assert abs(low - want_low) < 15
        assert abs(high - want_high) < 25


async def test_without_a_line_the_model_is_told() -> None:
    shared = CarrierLines("twilio", None, NOBODY, None)
    line = PhoneLine(shared, NOBODY, "CA1", lambda: None)
    with pytest.raises(ToolFailed, match="no line"):
        await line.send_dtmf("1")
    with pytest.raises(ToolFailed, match="cannot be passed on"):
        await line.transfer("+4930333333")


async def test_a_carrier_that_says_nothing_of_a_target_is_one_that_does_not_answer(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flow.bot.calls.phone_line.ANSWER_SECS", 0.2)
    thread = await a_thread(database, await a_key(database))
    twilio = TwilioSandbox()
    twilio.faults.add(Fault(kind="hang", route="GET *"))
    async with Served(twilio) as url:
        client = Twilio(ACCOUNT_SID, SecretStr(AUTH_TOKEN), url)
        shared = CarrierLines("twilio", client, database.telephony, conference, ("+49",))
        await database.telephony.bind(
            caller_leg(thread.id), thread.id, "twilio", twilio.begin().sid,
            direction=Direction.INBOUND, numbers=(THEIRS, OURS), due_secs=60,
        )  # fmt: skip
        with pytest.raises(ToolFailed, match="Nobody answered"):
            await PhoneLine(shared, thread, "CA1", lambda: None).transfer(TARGET)
        [target] = [call for call in twilio.calls.values() if call.called == TARGET]
        assert target.status == "canceled"
        await client.aclose()
