"""How long a caller waits for a reply is measured from frames, by what was waited for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from pipecat.frames.frames import (
    AggregatedTextFrame,
    BotStartedSpeakingFrame,
    Frame,
    LLMServiceMetadataFrame,
    MetricsFrame,
    TTSAudioRawFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.metrics.metrics import MetricsData, TTFBMetricsData
from pipecat.processors.frame_processor import FrameDirection
from pipecat.utils.text.base_text_aggregator import TextType

from flow.bot.turn_latency import MEASURED, LatencyProcessor
from flow.domain.calls.latency import TurnLatency
from flow.domain.usage.units import Kind
from tests.bot.running import started

SPOKE_UNTIL = 1_000.0
KINDS = {"stt": Kind.STT, "llm": Kind.LLM, "tts": Kind.TTS}


@dataclass(frozen=True)
class At:
    """A frame that passes so many seconds after the caller has stopped speaking."""

    secs: float
    frame: Frame
    up: bool = False


def metrics(data: MetricsData) -> MetricsFrame:
    return MetricsFrame(data=[data])


def silence_noticed(secs: float = 0.2, stop_secs: float = 0.2) -> At:
    frame = VADUserStoppedSpeakingFrame(stop_secs=stop_secs, timestamp=SPOKE_UNTIL + secs)
    return At(secs, frame)


def transcript(secs: float) -> At:
    return At(secs, metrics(TTFBMetricsData(processor="stt", value=secs)))


def turn_over(secs: float) -> At:
    return At(secs, UserStoppedSpeakingFrame())


def first_token(secs: float) -> At:
    return At(secs, metrics(TTFBMetricsData(processor="llm", value=0.3)))


def sentence(secs: float) -> At:
    return At(secs, AggregatedTextFrame("Yes.", TextType.SENTENCE))


def sound(secs: float) -> At:
    return At(secs, TTSAudioRawFrame(bytes(2), 24_000, 1))


def bot_starts(secs: float) -> At:
    return At(secs, BotStartedSpeakingFrame(), up=True)


def model_hears() -> At:
    return At(-1.0, LLMServiceMetadataFrame(service_name="realtime", is_realtime_service=True))


def caller_speaks(secs: float) -> At:
    return At(secs, VADUserStartedSpeakingFrame())


REPLY = [first_token(1.1), sentence(1.2), sound(1.4), bot_starts(1.41)]
USUAL = [silence_noticed(), transcript(0.3), turn_over(0.8), *REPLY]


async def measured(passing: Sequence[At]) -> list[TurnLatency]:
    """What is measured of frames that pass at these moments."""
    found: list[TurnLatency] = []
    now = SPOKE_UNTIL
    processor = LatencyProcessor(KINDS.get, now=lambda: now)
    processor.add_event_handler(MEASURED, lambda _, latency: found.append(latency))
    async with started([processor]):
        for one in passing:
            now = SPOKE_UNTIL + one.secs
            direction = FrameDirection.UPSTREAM if one.up else FrameDirection.DOWNSTREAM
            await processor.process_frame(one.frame, direction)
    return found


@pytest.mark.parametrize(
    ("passing", "parts"),
    [
        pytest.param(
            USUAL,
            TurnLatency(0.7, 0.1, 0.3, 0.1, 0.2, 0.01),
            id="one-after-the-other",
        ),
        pytest.param(
            [silence_noticed(), turn_over(0.5), transcript(0.9), *REPLY],
            TurnLatency(0.2, 0.7, 0.2, 0.1, 0.2, 0.01),
            id="the-transcript-is-what-was-waited-for",
        ),
        pytest.param(
            [
                silence_noticed(),
                transcript(0.3),
                first_token(0.6),
                turn_over(0.8),
                sentence(0.9),
                sound(1.1),
                bot_starts(1.11),
            ],
            TurnLatency(0.7, 0.1, 0.0, 0.1, 0.2, 0.01),
            id="a-model-asked-early-costs-nothing",
        ),
        pytest.param(
            [silence_noticed(), turn_over(0.5), sound(1.0), bot_starts(1.0)],
            TurnLatency(0.5, tts_secs=0.5),
            id="speech-to-speech",
        ),
        pytest.param(
            [model_hears(), silence_noticed(), sound(0.5), turn_over(0.8), bot_starts(0.9)],
            TurnLatency(0.2, llm_secs=0.3, output_secs=0.4),
            id="a-model-that-hears-by-itself-answers-before-the-turn-is-over",
        ),
        pytest.param(
            [model_hears(), silence_noticed(), turn_over(0.5), sound(1.0), bot_starts(1.0)],
            TurnLatency(0.5, llm_secs=0.5),
            id="a-model-that-hears-by-itself",
        ),
        pytest.param(
            [
                silence_noticed(),
                caller_speaks(0.4),
                *[
                    At(one.secs, one.frame, one.up)
                    for one in (silence_noticed(2.2, 0.2), turn_over(2.5), bot_starts(3.0))
                ],
            ],
            TurnLatency(0.5, output_secs=0.5),
            id="from-the-last-silence",
        ),
    ],
)
async def test_a_wait_is_told_by_its_parts(passing: list[At], parts: TurnLatency) -> None:
    (found,) = await measured(passing)
    assert found.parts == pytest.approx(parts.parts)
    assert found.total_secs == pytest.approx(sum(parts.parts.values()))


@pytest.mark.parametrize(
    "passing",
    [
        pytest.param([bot_starts(1.0)], id="a-greeting"),
        pytest.param([silence_noticed(), bot_starts(1.0)], id="the-turn-is-not-over"),
        pytest.param([*USUAL[:-1], caller_speaks(1.405), bot_starts(1.41)], id="spoken-over"),
    ],
)
async def test_what_is_no_reply_is_not_measured(passing: list[At]) -> None:
    assert await measured(passing) == []


async def test_only_the_first_sound_of_a_reply_ends_its_wait() -> None:
    assert len(await measured([*USUAL, bot_starts(4.0), bot_starts(5.0)])) == 1
