"""The ears: known words however they arrive, and no words that were not said."""

from __future__ import annotations

import io
import re
from functools import cache

import av
import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from flow.errors import InvalidInput
from flow.sandbox.speech.recognition import UNINTELLIGIBLE, Ears
from flow.sandbox.speech.synthesis import recordings, synthesize

VOICE = "en+f3"
RATE = 16_000
LINES = [
    "Hi, I ordered a coffee machine last week, and it still has not arrived.",
    "The order number is four seven one one.",
    "Sorry, stop there please. I only want to know when it arrives.",
    "Friday is fine, thank you. Can you send me an email with that?",
    "That is all, goodbye.",
    "Yes, please.",
    "Yes.",
    "I would like to change the address of my delivery before it is sent out.",
    "Could you tell me again how much the express delivery costs?",
    "No, the invoice should go to my company and not to me.",
]
STRANGERS = [
    "My neighbour's dog has been barking all night and nobody does anything.",
    "The order was cancelled yesterday, and I want my money back.",
    "Hi, I bought a coffee grinder last month, and it never worked.",
    "Could you please repeat that more slowly?",
    "I would like a table for two.",
    "Okay, wonderful, see you tomorrow.",
    "What?",
]
RECORDED = recordings(LINES, sample_rate=24_000, voice=VOICE)
any_line = st.sampled_from(LINES)


@cache
def ears() -> Ears:
    return Ears(RECORDED, 24_000)


@cache
def said(line: str, rate: int = RATE) -> bytes:
    """A known line as it leaves a microphone of `rate`."""
    samples = np.frombuffer(RECORDED[line], np.int16)
    return soxr.resample(samples, 24_000, rate).tobytes()


def silence(secs: float, rate: int = RATE) -> bytes:
    return bytes(2 * round(secs * rate))


def segment(speech: bytes, rate: int = RATE) -> bytes:
    """Speech as a call's segment: a second of pre-roll before it, half a second of padding."""
    return silence(1, rate) + speech + silence(0.5, rate)


def louder(pcm16: bytes, gain: float) -> bytes:
    samples = np.frombuffer(pcm16, np.int16) * gain
    return np.clip(samples, -32_768, 32_767).astype(np.int16).tobytes()


def noisy(pcm16: bytes, decibels_below: float) -> bytes:
    samples = np.frombuffer(pcm16, np.int16).astype(float)
    level = np.sqrt(np.mean(samples[samples != 0] ** 2)) * 10 ** (-decibels_below / 20)
    noise = np.random.default_rng(7).normal(0, level, samples.size)
    return np.clip(samples + noise, -32_768, 32_767).astype(np.int16).tobytes()


def opus(pcm16: bytes, bits_per_second: int) -> bytes:
    """Sound at `RATE` after Opus, as WebRTC carries it."""
    file = io.BytesIO()
    samples = soxr.resample(np.frombuffer(pcm16, np.int16), RATE, 48_000)
    with av.open(file, "w", format="ogg") as out:
        stream = out.add_stream("libopus", rate=48_000, layout="mono")
        stream.bit_rate = bits_per_second
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = 48_000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    file.seek(0)
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    with av.open(file) as coded:
        frames = [f for packet in coded.decode(audio=0) for f in resampler.resample(packet)]
    return b"".join(frame.to_ndarray().astype(np.int16).tobytes() for frame in frames)


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 48_000])
def test_a_line_is_heard_at_any_sample_rate(line: str, rate: int):
    assert ears().transcribe(segment(said(line, rate), rate), rate) == line


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_heard_after_24k_to_16k_to_8k(line: str):
    narrow = soxr.resample(np.frombuffer(segment(said(line)), np.int16), RATE, 8_000)
    assert ears().transcribe(narrow.tobytes(), 8_000) == line


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("gain", [0.03, 0.2, 3.0])
def test_a_line_is_heard_soft_or_loud(line: str, gain: float):
    assert ears().transcribe(segment(louder(said(line), gain)), RATE) == line


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_heard_over_noise(line: str):
    assert ears().transcribe(noisy(segment(said(line)), 15), RATE) == line


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("bits_per_second", [32_000, 12_000])
def test_a_line_is_heard_through_opus(line: str, bits_per_second: int):
    assert ears().transcribe(opus(segment(said(line)), bits_per_second), RATE) == line


@pytest.mark.parametrize("line", [LINES[0], LINES[3], LINES[7]])
def test_a_line_is_heard_although_a_packet_is_lost(line: str):
    speech = said(line)
    middle = len(speech) // 4 * 2
    assert ears().transcribe(segment(speech[:middle] + speech[middle + 640 :]), RATE) == line


@settings(max_examples=40)
@given(any_line, st.floats(0, 3), st.floats(0, 2))
def test_silence_around_a_line_changes_nothing(line: str, before: float, after: float):
    heard = silence(before) + said(line) + silence(after)
    assert ears().transcribe(heard, RATE) == line


@settings(max_examples=60)
@given(st.sampled_from([line for line in LINES if len(line) > 20]), st.floats(0, 1), st.booleans())
def test_two_parts_of_a_line_make_the_whole(line: str, where: float, is_padded: bool):
    """Wherever a voice activity detector cuts, each word is heard in one part and once."""
    speech = said(line)
    shortest = round(0.35 * RATE)
    cut = 2 * (shortest + round(where * (len(speech) // 2 - 2 * shortest)))
    pad = silence(0.5) if is_padded else b""
    parts = [silence(1) + speech[:cut] + pad, speech[cut:] + pad]
    assert " ".join(ears().transcribe(part, RATE) for part in parts).split() == line.split()


@pytest.mark.parametrize("line", [line for line in LINES if re.search(r"[.,] ", line)])
def test_a_line_cut_in_a_pause_is_cut_at_its_punctuation(line: str):
    speech = np.frombuffer(said(line), np.int16)
    (loud,) = np.nonzero(np.abs(speech.astype(int)) > 200)
    pause = int(np.diff(loud).argmax())
    cut = int(loud[pause] + loud[pause + 1]) // 2
    first = ears().transcribe(segment(speech[:cut].tobytes()), RATE)
    second = ears().transcribe(segment(speech[cut:].tobytes()), RATE)
    assert first[-1] in ".,"
    assert f"{first} {second}" == line


@settings(max_examples=30)
@given(st.lists(any_line, min_size=2, max_size=3), st.floats(0, 0.6))
def test_lines_in_one_segment_are_heard_in_order(lines: list[str], pause: float):
    heard = segment(silence(pause).join(said(line) for line in lines))
    assert ears().transcribe(heard, RATE) == " ".join(lines)


def test_a_line_cut_off_by_another_is_heard_as_far_as_it_was_said():
    first, second = LINES[7], LINES[1]
    cut = len(said(first)) // 4 * 2
    words = ears().transcribe(segment(said(first)[:cut] + said(second)), RATE)
    assert words.endswith(second)
    begun = words.removesuffix(second).strip()
    assert first.startswith(begun)
    assert 4 <= len(begun.split()) <= 10


@pytest.mark.parametrize("stranger", STRANGERS)
def test_other_words_in_the_same_voice_are_unintelligible(stranger: str):
    speech = synthesize(stranger, sample_rate=RATE, voice=VOICE)
    assert ears().transcribe(segment(speech), RATE) == UNINTELLIGIBLE
    assert ears().transcribe(opus(segment(speech), 24_000), RATE) == UNINTELLIGIBLE


def test_a_known_line_beside_other_words_is_heard():
    stranger = synthesize(STRANGERS[0], sample_rate=RATE, voice=VOICE)
    assert ears().transcribe(segment(stranger + silence(0.2) + said(LINES[1])), RATE) == LINES[1]


def hiss(level: float) -> bytes:
    return np.random.default_rng(3).normal(0, level, 2 * RATE).astype(np.int16).tobytes()


@pytest.mark.parametrize(
    "quiet",
    [
        b"",
        b"\1",
        b"\1\0",
        silence(0.01),
        silence(3),
        hiss(1),
        hiss(30),
        hiss(1_000),
        b"\0\x10" * 50,
    ],
    ids=["nothing", "odd", "sample", "short", "silence", "dither", "hiss", "loud hiss", "click"],
)
def test_silence_has_no_words(quiet: bytes):
    assert ears().transcribe(quiet, RATE) == ""


@settings(max_examples=50)
@given(st.binary(max_size=4_000), st.integers(8_000, 48_000))
def test_no_bytes_are_too_strange(noise: bytes, rate: int):
    assert ears().transcribe(noise, rate) in ("", UNINTELLIGIBLE)


@pytest.mark.parametrize("utterances", [{}, {"": silence(1)}, {"words": b""}, {"": said(LINES[0])}])
def test_who_knows_no_recording_understands_nothing(utterances: dict[str, bytes]):
    assert Ears(utterances, RATE).transcribe(segment(said(LINES[0])), RATE) == UNINTELLIGIBLE
    assert Ears(utterances, RATE).transcribe(silence(1), RATE) == ""


@pytest.mark.parametrize("rate", [0, -16_000])
def test_a_sample_rate_must_be_positive(rate: int):
    with pytest.raises(InvalidInput, match=str(rate)):
        ears().transcribe(said(LINES[0]), rate)
    with pytest.raises(InvalidInput, match=str(rate)):
        Ears({"a": b""}, rate)
