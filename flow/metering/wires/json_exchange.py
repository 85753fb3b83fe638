"""Answers in JSON that come as server-sent events or as one whole body."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from flow.domain.usage.vendor_reports import Counting, ReportedTokens, accepted
from flow.metering.evidence import EndOfAnswer, Evidence, Opening, Reported
from flow.metering.wires.reader import HttpAnswer, failed_in_answer, parsed, unreadable
from flow.metering.wires.server_sent_events import EventStream

# Of `data`, `event`, `id`, `retry`, a comment and a byte order mark: JSON begins with none of them.
_FIRST_OF_EVENTS = b"deir:\xef"


class JsonExchange(ABC):
    """An exchange that is read one JSON object at a time: each event's, or the whole body's.

    Servers send streams, and errors in their place, under the other's content type: where a stream
    was asked for, what begins as events do is events, and all else is JSON.
    """

    def __init__(self, opening: Opening) -> None:
        self.opening = opening
        self._events: EventStream | None = None
        self._is_begun = not opening.stream
        self._body = bytearray()

    def answered(self, answer: HttpAnswer) -> Iterator[Evidence]:
        """Tell a stream from a whole answer, as far as its head does."""
        if answer.is_event_stream:
            self._events = EventStream()
        yield from ()

    def body(self, data: bytes) -> Iterator[Evidence]:
        """Read the events in it, or keep it until the answer is whole."""
        self._begin(data)
        if self._events is None:
            self._body += data
            return
        for event in self._events.feed(data):
            yield from self._data(event.data)

    def end(self) -> Iterator[Evidence]:
        """Read what is left, or the whole answer."""
        if self._events is None:
            answer = parsed(bytes(self._body))
            error = within(answer, "error")
            if isinstance(error, Mapping) and "usage" not in answer:
                yield failed_in_answer(error.get("code") or error.get("type"))
            else:
                yield from self._whole(answer)
            return
        for event in self._events.end():
            yield from self._data(event.data)

    def _begin(self, data: bytes) -> None:
        """Tell events from JSON by the first byte of the body."""
        if self._is_begun or not (begun := data.lstrip()):
            return
        self._is_begun = True
        if begun[0] not in _FIRST_OF_EVENTS:
            self._events = None
        elif self._events is None:
            self._events = EventStream()

    def _data(self, data: str) -> Iterator[Evidence]:
        if not data.strip():  # as some keep a connection alive
            return
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
