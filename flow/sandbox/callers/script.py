"""What a scripted caller says and when, and what the bot is to answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class AfterBot:
    """When the bot has spoken and then been silent for so many seconds."""

    silent_secs: float = 1.0


@dataclass(frozen=True, slots=True)
class Interrupt:
    """When so many seconds of the bot's speech have sounded and it still speaks.

    A bot that was too brief for that is answered when it has been silent for so many seconds.
    """

    speaking_secs: float = 4.0
    silent_secs: float = 1.5


@dataclass(frozen=True, slots=True)
class Unasked:
    """When so many seconds have passed since the caller's own last word, or since the call began,
    whether the bot has spoken or not: as one who speaks first does."""

    secs: float = 1.0


Cue = AfterBot | Interrupt | Unasked


@dataclass(frozen=True, slots=True)
class Line:
    """One thing the caller says, and the bot's reply to it."""

    text: str
    reply: str
    when: Cue = AfterBot()


@dataclass(frozen=True, slots=True)
class Insights:
    """What to look for in the transcript, as JSON Schema, and what there is to be found."""

    instructions: str
    schema: Mapping[str, Any]
    expected: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Script:
    """A whole call.

    Attributes:
        voice: the caller's, one of espeak's.
        hang_up: when the caller does; ``Interrupt`` hangs up on a bot that is still speaking.
        token_secs: how long the model takes for a token of its replies.
        patience_secs: how long the caller waits for a bot that says nothing before going on. It
            is for bots that do not work: one that does may be slow.
    """

    system_prompt: str
    greeting: str
    lines: tuple[Line, ...]
    insights: Insights
    hang_up: Cue = AfterBot()
    voice: str = "en+f3"
    token_secs: float = 0.02
    patience_secs: float = 15.0
    not_understood: str = "I am sorry, I did not understand that. Could you say it again?"

    def reply_to(self, said: str) -> str:
        """The reply to the line of which most was said, the later one if it is a tie."""
        heard = _words(said)
        best = max(reversed(self.lines), key=lambda line: _share(line.text, heard), default=None)
        if best is None or not _share(best.text, heard):
            return self.not_understood
        return best.reply

    def join_request(self) -> dict[str, Any]:
        """The body of ``POST /api/bot/join`` for this call over a WebSocket."""
        return {
            "transport": {"type": "websocket"},
            "bot": {"system_prompt": self.system_prompt, "greeting": self.greeting},
            "insights": {
                "instructions": self.insights.instructions,
                "schema": dict(self.insights.schema),
            },
        }


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[^\W_]+", text.lower()))


def _share(text: str, heard: frozenset[str]) -> float:
    words = _words(text)
    return len(words & heard) / max(len(words), 1)


SUPPORT_CALL = Script(
    system_prompt=(
        "You are the telephone support of Bluebird Coffee, a shop for coffee machines. You are"
        " friendly and you explain things in full sentences, without lists or symbols, because"
        " everything you write is read aloud."
    ),
    greeting="Hello, this is Bluebird Coffee. How can I help you today?",
    lines=(
        Line(
            "Hi, I ordered a coffee machine last week, and it still has not arrived.",
            "I am sorry to hear that, and I understand that you are waiting for it. Let me tell"
            " you what I can see here. Your order left our warehouse in Hamburg on Monday"
            " morning, together with a grinder and two bags of our house blend. On Tuesday it"
            " reached the sorting centre of the carrier, where it was weighed and scanned as"
            " usual. Since then there has been a strike of the drivers in your region, which is"
            " why many parcels have been standing still for several days. The carrier has told"
            " us that the strike ended last night, and that all parcels are on their way again.",
        ),
        Line(
            "Sorry, I only want to know when it will be here.",
            "Of course, and I apologise for the long story. Your coffee machine will be with"
            " you on Friday, between nine and twelve in the morning.",
            Interrupt(4.0),
        ),
        Line(
            "Friday is fine. Can you send me an email about that?",
            "I have just sent it to the address of your order. It has the new delivery time and"
            " a link that shows you where the driver is.",
        ),
        Line(
            "Great, thank you very much. Goodbye.",
            "You are welcome, and enjoy your coffee. Goodbye.",
        ),
    ),
    insights=Insights(
        instructions="Describe the support call for the colleagues who follow it up.",
        schema={
            "type": "object",
            "additionalProperties": False,
            "required": ["summary", "topic", "sentiment", "resolved", "promises"],
            "properties": {
                "summary": {"type": "string"},
                "topic": {"type": "string", "enum": ["delivery", "product", "invoice", "other"]},
                "sentiment": {"type": "string", "enum": ["positive", "neutral", "negative"]},
                "resolved": {"type": "boolean"},
                "promises": {"type": "array", "items": {"type": "string"}},
            },
        },
        expected={
            "summary": "The caller asked about a coffee machine that was late; it was delayed by"
            " a strike and will be delivered on Friday morning.",
            "topic": "delivery",
            "sentiment": "positive",
            "resolved": True,
            "promises": [
                "delivery on Friday between nine and twelve",
                "an email with the new delivery time",
            ],
        },
    ),
    token_secs=0.12,
)
"""A support call in which the caller interrupts the bot while the model is still writing."""

QUICK_MODEL_CALL = replace(SUPPORT_CALL, token_secs=0.002)
"""The same call with a model that has long written its reply when the caller interrupts it."""
