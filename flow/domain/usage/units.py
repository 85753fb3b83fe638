"""The units that vendors bill by: one entry each, and nothing else to change for a new one.

An event of the ledger has a line for each unit that it used. Most units are *disjoint*: no token,
character or second is in two of them, so their quantities add up. A unit with ``part_of`` counts
some of another unit again ("of which"): its quantity is never added up. Costs are disjoint on
every line: a part has a cost of its own where a price is known for it, and the line of its whole
then holds the cost of the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Literal


class Kind(StrEnum):
    """What was consumed."""

    LLM = "llm"
    EMBEDDING = "embedding"
    TTS = "tts"
    STT = "stt"
    CALL = "call"
    TELEPHONY = "telephony"


class Measure(StrEnum):
    """How a unit counts. Tokens, characters and seconds are alternatives: vendors bill a piece of
    work by one of them. Only seconds have fractions."""

    TOKENS = "tokens"
    CHARACTERS = "characters"
    SECONDS = "seconds"


Side = Literal["input", "output"]


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit of the ledger.

    Args:
        name: the name of its lines. Units of tokens end in ``_tokens``, and no others do: the
            database adds up ``total_tokens`` by that.
        counts: what it counts, for people.
        measure: see `Measure`.
        component: the component of cost that it belongs to in a language model's work; in any
            other kind of work the component is the kind itself.
        side: whether it is what went to the vendor or what came back, for analytics that know
            these two only.
        part_of: the unit that contains it.
        priced_as: the unit whose rate holds where a price list has none for this one, and, for a
            part, none for its whole either. The cost of a part without a rate stays in the line
            of its whole.
        shown_by: the kinds of work that have a column of their own for it in reports, where it
            means something else in each; a unit without has one column over all kinds.
    """

    name: str
    counts: str
    measure: Measure
    component: str
    side: Side
    part_of: str | None = None
    priced_as: str | None = None
    shown_by: tuple[Kind, ...] = ()

    @property
    def label(self) -> str:
        """What tables say behind an amount of it, such as ``cache read`` or ``s audio``."""
        what = self.name.removesuffix(f"_{self.measure}").replace("_", " ")
        return f"s {what}" if self.measure is Measure.SECONDS else what


_ALL = (
    Unit(
        "input_tokens", "uncached input", Measure.TOKENS, "llm_input", "input",
    ),
    Unit(
        "input_audio_tokens", "sound in the uncached input", Measure.TOKENS, "llm_audio", "input",
        part_of="input_tokens",
    ),
    Unit(
        "cache_read_tokens", "input read from the vendor's cache", Measure.TOKENS,
        "llm_cache_read", "input", priced_as="input_tokens",
    ),
    Unit(
        "cache_read_audio_tokens", "sound in what was read from the cache", Measure.TOKENS,
        "llm_cache_read", "input", part_of="cache_read_tokens", priced_as="input_audio_tokens",
    ),
    Unit(
        "cache_write_tokens", "input written to the vendor's cache", Measure.TOKENS,
        "llm_cache_write", "input", priced_as="input_tokens",
    ),
    Unit(
        "cache_write_1h_tokens", "what was written to the cache for an hour", Measure.TOKENS,
        "llm_cache_write", "input", part_of="cache_write_tokens",
    ),
    Unit(
        "output_tokens", "output, reasoning included", Measure.TOKENS, "llm_output", "output",
    ),
    Unit(
        "reasoning_tokens", "reasoning in the output", Measure.TOKENS, "llm_output", "output",
        part_of="output_tokens",
    ),
    Unit(
        "output_audio_tokens", "sound in the output", Measure.TOKENS, "llm_audio", "output",
        part_of="output_tokens",
    ),
    Unit(
        "characters", "text given to a voice", Measure.CHARACTERS, "tts", "input",
    ),
    Unit(
        "audio_seconds", "sound spoken or heard", Measure.SECONDS, "tts", "output",
        shown_by=(Kind.TTS, Kind.STT),
    ),
    Unit(
        "session_seconds", "time that a speech-to-speech session was open", Measure.SECONDS,
        "llm_session", "output",
    ),
    Unit(
        "call_seconds", "time from a caller's coming to the end of the call", Measure.SECONDS,
        "call", "output",
    ),
    Unit(
        "phone_seconds", "time that a leg of a telephone call lasted at its carrier",
        Measure.SECONDS, "telephony", "output",
    ),
)  # fmt: skip

UNITS = MappingProxyType({unit.name: unit for unit in _ALL})
"""Every unit by its name, in the order in which lines and columns are shown."""

COMPONENTS = tuple(
    dict.fromkeys(
        [
            *(u.component for u in _ALL if u.component.startswith("llm_")),
            *(kind.value for kind in Kind if kind is not Kind.LLM),
        ]
    )
)
"""Every component of cost, in the order in which they are shown."""


def component_of(kind: Kind, unit: str) -> str:
    """The component of cost that a unit's line belongs to in work of this kind."""
    return UNITS[unit].component if kind is Kind.LLM else kind.value
