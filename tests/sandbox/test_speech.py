"""The voice: real speech, the same for the same words, and clear about what it cannot do."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import espeakng_loader
import numpy as np
import pytest

from flow.errors import ConfigurationError, InvalidInput
from flow.sandbox.speech.synthesis import MAX_CHARACTERS, recordings, synthesize

SENTENCE = "Hello, I ordered a coffee machine last week."


def seconds(pcm16: bytes, sample_rate: int = 24_000) -> float:
    return len(pcm16) / 2 / sample_rate


def loudest(pcm16: bytes) -> int:
    return int(np.abs(np.frombuffer(pcm16, np.int16).astype(int)).max())


def test_a_sentence_takes_about_as_long_as_a_person_needs_and_can_be_heard():
    speech = synthesize(SENTENCE)
    assert 2.0 < seconds(speech) < 4.5
    assert loudest(speech) > 5_000


@pytest.mark.parametrize("sample_rate", [8_000, 16_000, 22_050, 24_000, 48_000])
def test_the_sample_rate_changes_neither_length_nor_loudness(sample_rate: int):
    speech, usual = synthesize(SENTENCE, sample_rate=sample_rate), synthesize(SENTENCE)
    assert seconds(speech, sample_rate) == pytest.approx(seconds(usual), abs=0.001)
    assert loudest(speech) == pytest.approx(loudest(usual), rel=0.25)


def test_resampling_adds_no_images_above_what_espeak_renders():
    samples = np.frombuffer(synthesize(SENTENCE, sample_rate=48_000), np.int16).astype(float)
    power = np.abs(np.fft.rfft(samples)) ** 2
    above = np.fft.rfftfreq(samples.size, 1 / 48_000) > 11_500
    assert power[above].sum() < 1e-4 * power.sum()


def test_more_words_per_minute_are_sooner_said():
    slow, fast = (synthesize(SENTENCE, words_per_minute=n) for n in (100, 300))
    assert seconds(fast) < 0.6 * seconds(slow)


@pytest.mark.parametrize("text", ["", " ", "\n\t "])
def test_no_words_are_no_sound(text: str):
    assert synthesize(text) == b""


@pytest.mark.parametrize(
    "text",
    ["Grüße aus Köln", "你好", "Ça va? 😀", "<b>bold</b> [[not phonemes]]", "a\0b", "\ud800 half"],
)
def test_any_text_can_be_said(text: str):
    assert seconds(synthesize(text)) > 0.2


def test_a_nul_does_not_end_the_text():
    assert seconds(synthesize("one\0two three four")) > 1.5 * seconds(synthesize("one"))


def test_other_voices_speak_otherwise():
    said = {voice: synthesize(SENTENCE, voice=voice) for voice in ("en-us", "en", "en+f3", "de")}
    assert len(set(said.values())) == len(said)


@pytest.mark.parametrize("voice", ["", "zz", "f1", "../en", "en+nobody", "+f3", "en-us\0"])
def test_an_unknown_voice_is_refused_by_name(voice: str):
    with pytest.raises(InvalidInput) as refused:
        synthesize("hello", voice=voice)
    assert repr(voice) in str(refused.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sample_rate": 0},
        {"sample_rate": 7_999},
        {"sample_rate": 96_000},
        {"words_per_minute": 10},
        {"words_per_minute": 1_000},
        {"text": "x" * (MAX_CHARACTERS + 1)},
    ],
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, object]):
    with pytest.raises(InvalidInput):
        synthesize(**({"text": "hello"} | wrong))  # type: ignore[arg-type]


def test_the_same_words_sound_the_same_in_every_process_whatever_was_said_before():
    """A caller in one process is understood by ears in another."""
    synthesize("Something else entirely.")
    here = synthesize("These words were not said before.")
    there = subprocess.run(
        [
            sys.executable,
            "-c",
            "import hashlib; from flow.sandbox.speech.synthesis import synthesize as s;"
            "print(hashlib.sha256(s('These words were not said before.')).hexdigest())",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert hashlib.sha256(here).hexdigest() == there


def test_many_threads_get_what_one_would():
    texts = [f"Call number {n} is on the line." for n in range(12)]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(synthesize, texts))
    for n in range(70):
        synthesize(f"{n}")  # until nothing said before is remembered
    assert together == [synthesize(text) for text in texts]


def test_recordings_are_each_text_with_its_speech():
    made = recordings(["One.", "Two."], sample_rate=16_000, voice="en+f3")
    assert list(made) == ["One.", "Two."]
    assert made["Two."] == synthesize("Two.", sample_rate=16_000, voice="en+f3")


def test_a_library_that_does_not_load_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(espeakng_loader, "get_library_path", lambda: "/nowhere/libespeak-ng.so")
    with pytest.raises(ConfigurationError, match="espeak-ng does not load"):
        synthesize("These words need the library.")


def test_a_library_without_its_voices_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch):
    data = espeakng_loader.get_data_path()
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: data + "/nowhere")
    with pytest.raises(ConfigurationError, match="cannot read its voices"):
        synthesize("These words need the voices.", voice="en-us")
