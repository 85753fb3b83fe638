"""What was said in a call, as its caller knows, and whether the transcript has it.

On a busy machine the bot may stutter, and a caller then speaks into its pause: turns run together
or are cut off. What counts is therefore what was said and answered, and what was heard whole.
"""

from __future__ import annotations

from collections.abc import Iterable

from flow.sandbox.callers.conversation import EventKind
from flow.sandbox.speech.synthesis import synthesize
from tests.chaos.scripts import SHOP
from tests.chaos.world import Caller

Said = tuple[str, str]
"""Who said what: ``user`` or ``assistant``, and the text."""

RATE = 8_000
# The voice is silent at its beginning and end, which nobody hears as speech.
WHOLE = 0.85
REPLIES = {line.text: line.reply for line in SHOP.lines}


def spoken(caller: Caller, moment: float) -> list[Said]:
    """What had been said by a moment of `time.monotonic`: lines that the bot had begun to answer,

    and answers that had been heard from beginning to end.
    """
    said: list[Said] = []
    line: str | None = None
    began: float | None = None
    for event, at in zip(caller.events, caller.times, strict=True):
        if at > moment:
            break
        match event.kind:
            case EventKind.LINE_STARTED:
                began = None
            case EventKind.LINE_ENDED:
                line = event.detail
            case EventKind.BOT_STARTED:
                began = event.at_secs if began is None else began
                if line is not None and ("user", line) not in said:
                    said.append(("user", line))
            case EventKind.BOT_STOPPED if began is not None:
                answer = SHOP.greeting if line is None else REPLIES[line]
                is_whole = event.at_secs - began >= WHOLE * _seconds(answer)
                if is_whole and ("assistant", answer) not in said:
                    said.append(("assistant", answer))
    return said


def missing(said: Iterable[Said], turns: Iterable[Said]) -> list[str]:
    """What was said and is nowhere in a transcript."""
    kept = {"user": "", "assistant": ""}
    for role, content in turns:
        kept[role] += f" {content}"
    return [f"{role}: {text}" for role, text in said if text not in kept[role]]


def _seconds(text: str) -> float:
    return len(synthesize(text, sample_rate=RATE)) / (2 * RATE)
