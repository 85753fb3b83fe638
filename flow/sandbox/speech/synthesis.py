"""Real speech without an account: espeak-ng, from the ``espeakng-loader`` wheel.

The wheel ships the library and its voices, so nothing is installed and nothing is downloaded.
"""

from __future__ import annotations

import _ctypes
import ctypes
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path

import espeakng_loader
import numpy as np
import soxr

from flow.errors import ConfigurationError, InvalidInput

MAX_CHARACTERS = 4096

# Names and values of espeak-ng's speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_RATE_PARAMETER = 1
_CHARS_UTF8 = 1
_POS_CHARACTER = 1

_ON_SAMPLES = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_SYNTH_ARGUMENTS = (
    *(ctypes.c_char_p, ctypes.c_size_t),
    *(ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint),
    *(ctypes.c_void_p, ctypes.c_void_p),
)


def synthesize(
    text: str, *, sample_rate: int = 24000, voice: str = "en-us", words_per_minute: int = 160
) -> bytes:
    """`text` as speech: 16-bit mono PCM, the same bytes for the same arguments in every process.

    It blocks for about 2 ms per second of speech the first time a text is asked for.

    Args:
        text: what to say; blank text is no sound at all.
        sample_rate: of the result, 8,000 to 48,000 Hz (espeak renders at 22,050).
        voice: an espeak voice such as ``en``, ``en-us``, ``de``, or a variant such as
            ``en-us+f3``.
        words_per_minute: 80 to 450, the range of espeak.

    Raises:
        InvalidInput: the text is too long, the voice unknown or a number out of its range.
        ConfigurationError: the library or its voices cannot be loaded.
    """
    if len(text) > MAX_CHARACTERS:
        raise InvalidInput(f"The text has {len(text)} characters; at most {MAX_CHARACTERS}.")
    if not 8_000 <= sample_rate <= 48_000:
        raise InvalidInput(f"The sample rate {sample_rate} is not within 8000 and 48000.")
    if not 80 <= words_per_minute <= 450:
        raise InvalidInput(f"{words_per_minute} words per minute is not within 80 and 450.")
    if not text.strip():
        return b""
    return _speech(text, sample_rate, voice, words_per_minute)


def recordings(
    texts: Iterable[str], *, sample_rate: int = 16000, voice: str = "en-us"
) -> dict[str, bytes]:
    """Each text with its speech: what a caller plays, and what `recognition` listens for."""
    return {text: synthesize(text, sample_rate=sample_rate, voice=voice) for text in texts}


@lru_cache(maxsize=64)
def _speech(text: str, sample_rate: int, voice: str, words_per_minute: int) -> bytes:
    with _espeak_lock(), _espeak() as (library, rendered_rate):
        rendered = _render(library, text, voice, words_per_minute)
    samples = np.frombuffer(rendered, dtype=np.int16)
    return bytes(soxr.resample(samples, rendered_rate, sample_rate).tobytes())


@cache
def _languages_and_variants() -> tuple[frozenset[str], frozenset[str]]:
    """What may stand before and after the ``+`` of a voice; espeak crashes on some other names."""
    data = Path(espeakng_loader.get_data_path())
    languages = frozenset(path.name.lower() for path in data.glob("lang/**/*") if path.is_file())
    return languages, frozenset(path.name for path in data.glob("voices/!v/*"))


def _is_voice(voice: str) -> bool:
    languages, variants = _languages_and_variants()
    language, plus, variant = voice.partition("+")
    return language in languages and (variant in variants or not plus)


@cache
def _espeak_lock() -> threading.Lock:
    """The library's state is one per process, so one thread at a time may use it."""
    return threading.Lock()


@contextmanager
def _espeak() -> Iterator[tuple[ctypes.CDLL, int]]:
    """A freshly loaded espeak-ng and the sample rate it renders at.

    The library carries its oscillators over from one utterance to the next, even over its own
    terminate and initialise, so that the same words never sound quite the same. Loading it anew
    (1 ms) makes speech a function of its text.
    """
    try:
        library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path()
    except (OSError, RuntimeError) as error:
        raise ConfigurationError(f"The speech library espeak-ng does not load: {error}") from None
    rate = library.espeak_Initialize(
        _AUDIO_OUTPUT_SYNCHRONOUS, 0, data.encode(), _INITIALIZE_DONT_EXIT
    )
    if rate <= 0:
        raise ConfigurationError(f"The speech library espeak-ng cannot read its voices in {data}.")
    try:
        yield library, rate
    finally:
        library.espeak_Terminate()
        if hasattr(_ctypes, "dlclose"):
            _ctypes.dlclose(library._handle)


def _render(library: ctypes.CDLL, text: str, voice: str, words_per_minute: int) -> bytes:
    """The text as espeak's own 16-bit mono PCM."""
    chunks: list[bytes] = []

    def collect(samples: int | None, count: int, _events: int | None) -> int:
        if samples and count > 0:
            chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    on_samples = _ON_SAMPLES(collect)
    library.espeak_SetSynthCallback(on_samples)
    if not _is_voice(voice) or library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise InvalidInput(f"There is no voice {voice!r}.")
    library.espeak_SetParameter(_RATE_PARAMETER, words_per_minute, 0)
    # A NUL would end the text early, as C strings end.
    words = text.replace("\0", " ").encode("utf-8", "replace")
    library.espeak_Synth.argtypes = _SYNTH_ARGUMENTS
    library.espeak_Synth(words, len(words) + 1, 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None)
    library.espeak_Synchronize()
    return b"".join(chunks)
