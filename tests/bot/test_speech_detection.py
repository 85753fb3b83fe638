"""Models that calls share hear in each call what a model of the call's own would."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from pipecat.audio.turn.smart_turn.local_smart_turn_v3 import LocalSmartTurnAnalyzerV3
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADAnalyzer, VADState
from pipecat.processors.filters.identity_filter import IdentityFilter
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.stt_service import SegmentedSTTService, STTService
from pipecat.turns.eager_end_of_turn_mixin import EagerEndOfTurnSTTServiceMixin
from pipecat.turns.user_start import VADUserTurnStartStrategy
from pipecat.turns.user_stop import (
    BaseUserTurnStopStrategy,
    EagerUserTurnStopStrategy,
    ExternalUserTurnStopStrategy,
    SpeechTimeoutUserTurnStopStrategy,
    TurnAnalyzerUserTurnStopStrategy,
)

from flow.bot.speech_detection import ListeningModels, SharedSmartTurn, SharedVAD
from flow.bot.turn_stop import SilenceTurnStop
from flow.domain.calls.join_request import TurnDetection
from flow.sandbox.speech.synthesis import recordings

RATE = 16_000
CHUNK = 640  # 20 ms, which is no whole number of the model's windows


@pytest.fixture(scope="module")
def models() -> ListeningModels:
    return ListeningModels("smart")


@pytest.fixture(scope="module")
def voices() -> list[bytes]:
    """Three callers: two who say something else, and one who is not quite silent."""
    said = recordings(["Hello, are you open today?", "Please wait a little."], sample_rate=RATE)
    noise = np.random.default_rng(7).integers(-90, 90, 3 * RATE, np.int16).tobytes()
    pause = bytes(RATE)
    return [*(pause + one + 3 * pause for one in said.values()), noise]


def started(analyzer: VADAnalyzer) -> VADAnalyzer:
    analyzer.set_sample_rate(RATE)
    return analyzer


def chunks(voice: bytes) -> list[bytes]:
    return [voice[at : at + CHUNK] for at in range(0, len(voice), CHUNK)]


async def heard(analyzer: VADAnalyzer, voice: bytes) -> list[VADState]:
    return [await analyzer.analyze_audio(chunk) for chunk in chunks(voice)]


async def test_each_of_several_calls_hears_what_pipecats_own_analyzer_would(
    models: ListeningModels, voices: list[bytes]
) -> None:
    params = models.vad().params
    expected = [await heard(started(SileroVADAnalyzer(params=params)), voice) for voice in voices]
    assert VADState.SPEAKING in expected[0]
    shared = [started(models.vad()) for _ in voices]
    found: list[list[VADState]] = [[] for _ in voices]
    for at in range(max(map(len, expected))):  # chunk by chunk in turn, as calls come
        for one, voice, states in zip(shared, voices, found, strict=True):
            if at < len(chunks(voice)):
                states.append(await one.analyze_audio(chunks(voice)[at]))
    assert found == expected


async def test_calls_may_be_heard_in_several_threads_at_once(
    models: ListeningModels, voices: list[bytes]
) -> None:
    expected = [await heard(started(models.vad()), voice) for voice in voices]

    def alone(voice: bytes) -> list[VADState]:
        return asyncio.run(heard(started(models.vad()), voice))

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(len(voices)) as threads:
        found = [loop.run_in_executor(threads, alone, voice) for voice in voices]
        assert list(await asyncio.gather(*found)) == expected


async def test_a_shared_turn_analyzer_says_what_pipecats_own_would(
    models: ListeningModels, voices: list[bytes]
) -> None:
    sound = np.frombuffer(voices[0], np.int16).astype(np.float32) / 32768
    own, shared = LocalSmartTurnAnalyzerV3(), SharedSmartTurn(models._turn)
    assert shared._predict_endpoint(sound) == own._predict_endpoint(sound)


async def test_what_may_become_speech_is_told_before_it_is_speech(
    models: ListeningModels, voices: list[bytes]
) -> None:
    analyzer = started(models.vad())
    maybe, speech = [], []
    for chunk in chunks(voices[0]):
        speech.append(await analyzer.analyze_audio(chunk) is VADState.SPEAKING)
        maybe.append(analyzer.may_be_speech)
    assert not any(maybe[: RATE // CHUNK])  # a second of silence
    assert maybe.index(True) <= speech.index(True) - 3
    assert not maybe[-1]


@pytest.mark.parametrize(
    ("shared", "own"),
    [(SharedVAD, SileroVADAnalyzer), (SharedSmartTurn, LocalSmartTurnAnalyzerV3)],
)
def test_what_pipecats_constructor_sets_is_set(shared: type, own: type) -> None:
    """The shared ones pass that constructor by: an attribute it gains must be noticed."""
    assert vars(own()).keys() <= vars(shared(session=None)).keys()


async def test_smart_turn_is_loaded_when_a_call_first_needs_it_and_then_by_a_thread() -> None:
    models = ListeningModels("silence")
    await models.prepare("silence")
    assert models._turn is None
    loading = [asyncio.create_task(models.prepare("smart")) for _ in range(3)]
    stalls = []
    while not all(task.done() for task in loading):
        at = time.monotonic()
        await asyncio.sleep(0)
        stalls.append(time.monotonic() - at)
    assert models._turn is not None
    assert len(stalls) > 10
    loaded = models._turn
    await models.prepare("smart")
    assert models._turn is loaded


@dataclass(frozen=True)
class Case:
    """What listens where turns are told so, and a service hears the caller."""

    turn_detection: TurnDetection
    hears: type[FrameProcessor]
    stop: type[BaseUserTurnStopStrategy]
    notices_secs: float


class Streaming(STTService):
    async def run_stt(self, audio: bytes) -> Any: ...


class Segmented(SegmentedSTTService):
    async def run_stt(self, audio: bytes) -> Any: ...


class TellsTurns(EagerEndOfTurnSTTServiceMixin, Streaming):
    pass


@pytest.mark.parametrize(
    "case",
    [
        Case("silence", Segmented, SilenceTurnStop, 0.2),
        Case("silence", Streaming, SilenceTurnStop, 0.1),
        Case("smart", Streaming, TurnAnalyzerUserTurnStopStrategy, 0.2),
        Case("vendor", TellsTurns, ExternalUserTurnStopStrategy, 0.1),
        Case("vendor", IdentityFilter, ExternalUserTurnStopStrategy, 0.2),
        Case("silence", IdentityFilter, SpeechTimeoutUserTurnStopStrategy, 0.2),
    ],
    ids=lambda case: f"{case.turn_detection}-{case.hears.__name__}",
)
def test_however_turns_end_they_begin_by_voice_activity(
    case: Case, models: ListeningModels
) -> None:
    """So an interruption is as fast with each."""
    listening = models.listening(case.turn_detection, case.hears())
    assert listening.strategies.start is not None
    assert isinstance(listening.strategies.start[0], VADUserTurnStartStrategy)
    assert [type(stop) for stop in listening.strategies.stop or ()] == [case.stop]
    assert listening.vad.params.start_secs == 0.13
    assert listening.vad.params.stop_secs == case.notices_secs


def test_a_service_that_predicts_the_end_of_turns_is_answered_early(
    models: ListeningModels,
) -> None:
    listening = models.listening("vendor", TellsTurns(enable_eager_end_of_turn=True))
    (stop,) = listening.strategies.stop or ()
    assert isinstance(stop, EagerUserTurnStopStrategy)
    assert isinstance((listening.strategies.start or [])[0], VADUserTurnStartStrategy)
