"""Models that calls share hear in each call what a model of the call's own would."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from pipecat.audio.turn.smart_turn.local_smart_turn_v3 import LocalSmartTurnAnalyzerV3
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADAnalyzer, VADState
from pipecat.turns.user_stop import (
    SpeechTimeoutUserTurnStopStrategy,
    TurnAnalyzerUserTurnStopStrategy,
)

from flow.bot.speech_detection import ListeningModels, SharedSmartTurn, SharedVAD
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
    expected = [await heard(started(SileroVADAnalyzer()), voice) for voice in voices]
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
    stop = models.turn_stop()
    assert isinstance(stop, TurnAnalyzerUserTurnStopStrategy)
    sound = np.frombuffer(voices[0], np.int16).astype(np.float32) / 32768
    own, shared = LocalSmartTurnAnalyzerV3(), SharedSmartTurn(models._turn)
    assert shared._predict_endpoint(sound) == own._predict_endpoint(sound)


@pytest.mark.parametrize(
    ("shared", "own"),
    [(SharedVAD, SileroVADAnalyzer), (SharedSmartTurn, LocalSmartTurnAnalyzerV3)],
)
def test_what_pipecats_constructor_sets_is_set(shared: type, own: type) -> None:
    """The shared ones pass that constructor by: an attribute it gains must be noticed."""
    assert vars(shared(session=None)).keys() == vars(own()).keys()


def test_smart_turn_is_not_loaded_where_silence_tells() -> None:
    models = ListeningModels("silence")
    assert models._turn is None
    assert isinstance(models.turn_stop(), SpeechTimeoutUserTurnStopStrategy)
