"""Answers in JSON that come as server-sent events or as one whole body."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from flow.domain.usage.vendor_reports import Counting, ReportedTokens, accepted
from flow.metering.evidence import EndOfAnswer, Evidence, Opening, Reported
from flow.metering.wires.reader import HttpAnswer, parsed, unreadable
from flow.metering.wires.server_sent_events import EventStream


class JsonExchange(ABC):
    """An exchange that is read one JSON object at a time: each event's, or the whole body's."""

    def __init__(self, opening: Opening) -> None:
        self.opening = opening
        self._events: EventStream | None = None
        self._body = bytearray()

    def answered(self, answer: HttpAnswer) -> Iterator[Evidence]:
        """Tell a stream from a whole answer."""
        if answer.is_event_stream:
            self._events = EventStream()
        yield from ()

    def body(self, data: bytes) -> Iterator[Evidence]:
        """Read the events in it, or keep it until the answer is whole."""
        if self._events is None:
            self._body += data
            return
        for event in self._events.feed(data):
            yield from self._data(event.data)

    def end(self) -> Iterator[Evidence]:
        """Read what is left, or the whole answer."""
        if self._events is None:
            yield from self._whole(parsed(bytes(self._body)))
            return
        for event in self._events.end():
            yield from self._data(event.data)

    def _data(self, data: str) -> Iterator[Evidence]:
        if data.strip() == "[DONE]":
            yield EndOfAnswer()
            return
        event = parsed(data)
        if isinstance(event, Mapping):
            yield from self._event(event)
        else:
            yield unreadable("an event of the stream")

    @abstractmethod
    def _event(self, event: Mapping[str, Any]) -> Iterator[Evidence]:
        """What one event of a stream shows."""

    @abstractmethod
    def _whole(self, answer: Any) -> Iterator[Evidence]:
        """What a whole answer shows; ``None`` stands for one that is no JSON."""


def report(
    tokens: ReportedTokens, counting: Counting, *, is_final: bool = True
) -> Iterator[Reported]:
    """The vendor's report; none where it tells no number at all."""
    if (tokens.prompt_tokens, tokens.completion_tokens, tokens.total_tokens) != (None, None, None):
        yield Reported(*accepted(tokens, counting), is_final)


def objects(value: Any) -> Iterator[Mapping[str, Any]]:
    """The objects in a JSON array, or in anything else none."""
    return (
        (item for item in value if isinstance(item, Mapping))
        if isinstance(value, list)
        else iter(())
    )


def within(value: Any, *names: str) -> Any:
    """The value at this path of object fields, or ``None``."""
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def text(value: Any) -> str:
    """The string, or an empty one for anything else."""
    return value if isinstance(value, str) else ""
