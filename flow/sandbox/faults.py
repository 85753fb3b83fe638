"""Faults a stand-in is told to have, switched on and off while it runs.

From Python: ``stand_in.faults.add(Fault(kind="status", status=429, times=2))``. Over HTTP:
``POST /_sandbox/faults`` with a JSON list of the same fields, ``GET`` to see them, ``DELETE``
to be well again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal[
    "status",
    "hang",
    "drop",
    "malformed",
    "delay",
    "content_type",
    "cut",
    "stall",
    "close",
    "error_chunk",
    "malformed_chunk",
    "failed_response",
    "failed_transcription",
    "slow_tokens",
    "same_id",
    "empty_choices",
    "no_usage",
    "other_usage",
    "cumulative_usage",
    "null_usage_details",
    "empty_reply",
    "refusal",
]
"""The first four answer in the vendor's place, so that nothing is served and nothing billed."""


class Fault(BaseModel):
    """One way of going wrong.

    ``route`` is a glob over the path, or over ``METHOD path`` when it holds a space. The first
    ``skip`` requests it matches are spared; of those after, ``times`` are hit (``None``: all).

    What each kind does:

    - ``status``: answer with ``status``, ``headers`` and ``body`` (the vendor's own error body
      when left out; a string is sent as it is, anything else as JSON).
    - ``hang``: accept the request and never answer.
    - ``drop``: close the connection instead of answering.
    - ``malformed``: answer 200 with JSON that breaks off.
    - ``delay``: wait ``delay_secs`` before anything else.
    - ``content_type``: the right answer, labelled ``text/html``.
    - ``cut``: close the connection after ``chunks`` parts of the body, which arrive; 0 means
      before the headers, when the work is done and lost.
    - ``stall``: send ``chunks`` parts of the body and then nothing, with the connection open.
    - ``close``: on a WebSocket, close with ``code`` after ``chunks`` messages. There ``cut``,
      ``stall`` and ``malformed_chunk`` count messages, too; ``status`` refuses the handshake.
    - ``error_chunk``, ``malformed_chunk``: after ``chunks`` events of a chat stream, an error
      object and the end, or a broken event and then the rest. ``failed_response``: after as many
      of a response, it fails and reports what it has used. ``failed_transcription``: what the
      caller says to a realtime session is not written down.
    - ``slow_tokens``: ``delay_secs`` before each token, or each chunk of a streamed voice.
    - ``same_id``: every reply has the same response id.
    - ``empty_choices``: events without choices are mixed into the stream; no choices at all
      when the reply is not streamed.
    - ``no_usage``: usage is never reported.
    - ``other_usage``: the closing report of a WebSocket says ``factor`` times what was received,
      and so does the bill.
    - ``cumulative_usage``: usage so far is reported on every chunk.
    - ``null_usage_details``: the breakdowns of usage are null.
    - ``empty_reply``: the reply has no tokens. ``refusal``: it is a refusal.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    route: str = "*"
    times: Annotated[int, Field(ge=1)] | None = None
    skip: Annotated[int, Field(ge=0)] = 0
    status: Annotated[int, Field(ge=200, le=599)] = 500
    headers: dict[str, str] = Field(default_factory=dict)
    body: Any = None
    delay_secs: Annotated[float, Field(ge=0)] = 0.0
    chunks: Annotated[int, Field(ge=0)] = 0
    code: Annotated[int, Field(ge=1000, le=4999)] = 1011
    factor: Annotated[float, Field(ge=0)] = 1.0

    def matches(self, method: str, path: str) -> bool:
        """Whether a request is on this fault's route."""
        return fnmatchcase(f"{method} {path}" if " " in self.route else path, self.route)


@dataclass(slots=True)
class _Armed:
    fault: Fault
    seen: int = 0

    def take(self) -> bool:
        """Whether the next request on the route is hit."""
        self.seen += 1
        nth = self.seen - self.fault.skip
        return nth > 0 and (self.fault.times is None or nth <= self.fault.times)


class Faults:
    """The faults a stand-in has now, in the order they were added; several can hit at once."""

    def __init__(self) -> None:
        self._armed: list[_Armed] = []

    def add(self, *faults: Fault) -> None:
        """Arm each fault, with its own count."""
        self._armed.extend(_Armed(fault) for fault in faults)

    def clear(self) -> None:
        """Disarm all of them."""
        self._armed.clear()

    def take(self, method: str, path: str) -> Hits:
        """Count a request and return the faults that hit it."""
        on_route = [armed for armed in self._armed if armed.fault.matches(method, path)]
        return Hits(armed.fault for armed in on_route if armed.take())

    def to_json(self) -> list[dict[str, Any]]:
        """What is armed, and how many requests each has seen."""
        return [a.fault.model_dump(mode="json") | {"seen": a.seen} for a in self._armed]


class Hits:
    """The faults that hit one request."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._faults = tuple(faults)

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._faults)

    def of(self, *kinds: Kind) -> Fault | None:
        """The first that is of one of these kinds."""
        return next((fault for fault in self._faults if fault.kind in kinds), None)
