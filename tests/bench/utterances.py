"""What callers of P11 say, with the pauses that people make when they speak.

A transcriber of segments ends each with a full stop, whether the caller has finished or not, so
some parts here end so though more follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from flow.sandbox.speech.synthesis import recordings

RATE = 16_000
_QUIET = 250


@dataclass(frozen=True, slots=True)
class Utterance:
    """One turn of a caller: parts, and the seconds of silence after each but the last."""

    parts: tuple[str, ...]
    pauses: tuple[float, ...] = ()


UTTERANCES = (
    Utterance(("Hello, are you open today?",)),
    Utterance(("I would like to book a table", "for four people, please."), (0.35,)),
    Utterance(("My name is Ada Lovelace.",)),
    Utterance(("Can I come by tomorrow evening.", "At about eight o'clock?"), (0.3,)),
    Utterance(("Do you have anything", "without gluten?"), (0.5,)),
    Utterance(("That sounds wonderful.",)),
    Utterance(("Well,", "let me think.", "We could come at seven, too."), (0.6, 0.35)),
    Utterance(("Where can I park my car?",)),
    Utterance(("There will be two children and", "a very old dog with us."), (0.7,)),
    Utterance(("How long does it usually take?",)),
    Utterance(("My number is four two,", "seven three,", "nine one."), (0.45, 0.45)),
    Utterance(("What do you recommend to start with?",)),
    Utterance(("I think I would take the soup.", "And the fish."), (0.4,)),
    Utterance(("Could you repeat that, please?",)),
    Utterance(("The last time we were there,", "it was rather loud."), (0.5,)),
    Utterance(("No, thank you very much, that is all.",)),
)
INTERRUPTIONS = (
    "Excuse me, I have another question.",
    "Sorry, one moment please.",
    "Wait, that is not what I meant.",
    "No, on the other day.",
    "Hold on, let me write that down.",
)


def recorded() -> dict[str, bytes]:
    """Each part by its words, in 16-bit mono PCM at `RATE`, without silence around it."""
    parts = {part for utterance in UTTERANCES for part in utterance.parts}
    sounds = recordings([*sorted(parts), *INTERRUPTIONS], sample_rate=RATE)
    return {text: _trimmed(sound) for text, sound in sounds.items()}


def spoken(utterance: Utterance, parts: Mapping[str, bytes]) -> bytes:
    """The whole of an utterance."""
    pauses = [bytes(2 * round(secs * RATE)) for secs in utterance.pauses]
    sounds = [parts[part] for part in utterance.parts]
    return b"".join(s + p for s, p in zip(sounds, [*pauses, b""], strict=True))


def _trimmed(sound: bytes) -> bytes:
    loud = np.flatnonzero(np.abs(np.frombuffer(sound, np.int16).astype(np.int32)) > _QUIET)
    return sound[2 * int(loud[0]) : 2 * int(loud[-1] + 1)]
