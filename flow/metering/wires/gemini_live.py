"""Gemini's Live API, speech to speech over a WebSocket (ai.google.dev/api/live).

A piece of work is a generation of the model. It is billed for everything that is in the session by
then, sound as sound (ai.google.dev, "Live API best practices", on pricing), so each report stands
for itself, and all of them are added up. What one generation reports bit by bit is so far, and the
last of it counts. It ends with its turn, or with the answer to a tool that it has called, for which
the model reads the session again. Usage may come on any message, and after the turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from flow.domain.usage.events import Quantities
from flow.domain.usage.vendor_reports import Counting, from_gemini_usage
from flow.metering.evidence import Completed, Ended, Evidence, Noted, Opening, Output, Served
from flow.metering.wires.gemini_content import called, field, generated, searched
from flow.metering.wires.gemini_session import SessionEstimate, sound_seconds, sound_tokens
from flow.metering.wires.json_exchange import objects, report, text, within
from flow.metering.wires.reader import parsed, unreadable
from flow.metering.wires.socket import Begun, Closing, Message, Over, Seen, Shown

NOTED_SECS = Decimal(1)
"""How much more sound puts a new estimate on record, should the process die."""


@dataclass(slots=True)
class _Generation:
    """How far a generation has come.

    ``is_at_tools``: a tool call was the last that it made. ``is_made``: it makes nothing more.
    ``is_stopping``: the bot has interrupted it. ``is_over``: its turn is. ``is_told``: its last
    report says all that it used. ``unnoted``: seconds of its sound that are not in the estimate.
    """

    number: int
    has_output: bool = False
    is_at_tools: bool = False
    is_interrupted: bool = False
    is_made: bool = False
    is_stopping: bool = False
    is_over: bool = False
    is_told: bool = False
    unnoted: Decimal = Decimal(0)
    searched: Noted | None = None


class GeminiLive:
    """Reads one connection, by whatever URL."""

    def __init__(self, url: str = "") -> None:
        self._session = SessionEstimate()
        self._now: _Generation | None = None
        self._begun = 0
        self._is_another_wanted = False
        self._last_usage: Any = None

    @property
    def expects_report(self) -> bool:
        """Whether a turn is over, or told to be, whose usage is not told."""
        now = self._now
        return now is not None and (now.is_over or now.is_stopping) and not now.is_told

    def sent(self, message: Message) -> Iterator[Seen]:
        """A message goes to Gemini: it adds to the session, and may ask for a generation."""
        asked = parsed(message)
        if not isinstance(asked, Mapping):
            return
        self._session.sent(asked)
        now = self._now
        if told := field(asked, "toolResponse"):
            if now is not None and now.is_at_tools and now.is_told:
                yield from self._end()
            if not _is_silent(told):
                yield from self._begin()
        elif now is not None and now.has_output and field(asked, "clientContent"):
            now.is_stopping = True
        if _asks(asked):
            self._is_another_wanted = now is not None and now.has_output
            yield from self._begin()

    def received(self, message: Message) -> Iterator[Seen]:
        """A message has come from Gemini."""
        told = parsed(message)
        if not isinstance(told, Mapping):
            yield from self._shown(unreadable("a message"))
            return
        content = within(told, "serverContent")
        self._session.heard(text(within(content, "inputTranscription", "text")))
        parts = list(objects(within(content, "modelTurn", "parts")))
        calls = list(objects(within(told, "toolCall", "functionCalls")))
        if parts or calls:
            if self._now is not None and self._now.is_over:
                yield from self._end()
            yield from self._begin()
        if (now := self._now) is not None:
            yield from self._made(now, parts, calls)
            yield from self._shown(*_said(content))
            now.searched = next(searched(content), now.searched)
            now.is_interrupted = now.is_interrupted or bool(within(content, "interrupted"))
            now.is_made = now.is_made or bool(within(content, "generationComplete"))
            now.is_over = now.is_over or bool(within(content, "turnComplete"))
        if isinstance(usage := told.get("usageMetadata"), Mapping):
            yield from self._report(usage, is_turn_over=bool(within(content, "turnComplete")))
        if (now := self._now) is not None and now.is_over and now.is_told:
            yield from self._end()

    def closed(self, closing: Closing) -> Iterator[Seen]:
        """The connection has ended: what is in mid-generation is left to be closed with it."""
        if self._now is not None and (self._now.is_over or self._now.is_told):
            yield from self._end()
        yield from self._note()

    def _begin(self) -> Iterator[Seen]:
        if self._now is not None:
            return
        self._begun += 1
        self._now = _Generation(self._begun)
        opening = Opening(
            estimate=self._session.prompt(),
            model=self._session.model,
            stream=True,
            content=self._session.content,
        )
        self._session.begun()
        yield Begun(self._begun, opening)

    def _end(self) -> Iterator[Seen]:
        assert self._now is not None
        now = self._now
        yield from self._note()
        if now.searched is not None:
            yield Shown(now.number, now.searched)
        yield Shown(now.number, Completed())
        yield Over(now.number, Ended.ABANDONED if now.is_interrupted else Ended.DONE)
        self._session.answered()
        self._now = None
        if self._is_another_wanted:
            self._is_another_wanted = False
            yield from self._begin()

    def _made(
        self,
        now: _Generation,
        parts: list[Mapping[str, Any]],
        calls: list[Mapping[str, Any]],
    ) -> Iterator[Seen]:
        for part in parts:
            now.unnoted += sound_seconds(field(part, "inlineData"))
            yield from self._shown(Output(generated(part)))
        yield from self._shown(*(Output(called(call)) for call in calls))
        if parts or calls:
            now.has_output, now.is_told, now.is_at_tools = True, False, bool(calls)
        if now.unnoted >= NOTED_SECS:
            yield from self._note()

    def _note(self) -> Iterator[Seen]:
        """Put sound that has been made into the estimate."""
        if self._now is None or not self._now.unnoted:
            return
        tokens = sound_tokens(self._now.unnoted)
        self._now.unnoted = Decimal(0)
        self._session.made(tokens)
        estimate = Quantities(output_tokens=tokens, output_audio_tokens=tokens)
        yield from self._shown(Output(estimate=estimate))

    def _report(self, usage: Mapping[str, Any], *, is_turn_over: bool) -> Iterator[Seen]:
        if self._now is None and usage == self._last_usage:
            return  # It is told twice, not used twice.
        yield from self._begin()
        yield from self._note()
        assert self._now is not None
        now = self._now
        now.is_over = now.is_over or is_turn_over
        is_final = now.is_over or now.is_made or now.is_interrupted or now.is_at_tools
        if tier := text(usage.get("serviceTier")) or text(usage.get("trafficType")):
            yield from self._shown(Served(service_tier=tier.lower().removeprefix("on_demand_")))
        for one in report(from_gemini_usage(usage), Counting.GEMINI, is_final=is_final):
            yield from self._shown(one)
            now.is_told, self._last_usage = is_final, usage
            self._session.told(one.quantities)

    def _shown(self, *evidence: Evidence) -> Iterator[Seen]:
        if self._now is not None:
            yield from (Shown(self._now.number, one) for one in evidence)


def _asks(message: Mapping[str, Any]) -> bool:
    """Whether this has the model generate. That somebody has stopped speaking is told to nobody
    where Gemini listens for it by itself."""
    realtime = field(message, "realtimeInput")
    return bool(
        field(message, "clientContent", "turnComplete")
        or field(realtime, "text")
        or field(realtime, "activityEnd") is not None
    )


def _said(content: Any) -> Iterator[Output]:
    """What the sound says."""
    if said := text(within(content, "outputTranscription", "text")):
        yield Output(said)


def _is_silent(told: Any) -> bool:
    """Whether Gemini takes these results in without a word of its own
    (ai.google.dev/gemini-api/docs/live-api/tools#async-function-calling)."""
    results = field(told, "functionResponses") or []
    return bool(results) and all(field(one, "scheduling") == "SILENT" for one in results)
