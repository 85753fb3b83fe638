"""Reading a vendor's messages as a tap does, without a wire."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from flow.domain.usage.events import Failure, UsageEvent
from flow.domain.usage.units import Kind
from flow.metering.evidence import Ended, Evidence, Opening, Output, Reported
from flow.metering.meter import Meter, Service
from flow.metering.wires.reader import Exchange, HttpAnswer, HttpRequest, HttpWire
from tests.events import an_owner
from tests.notebook import Notebook

OWNER = an_owner(team_id="team_a")
EVENT_STREAM = "text/event-stream; charset=utf-8"
JSON = "application/json"


def post(path: str, body: Mapping[str, Any] | bytes = b"", content_type: str = JSON) -> HttpRequest:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HttpRequest("POST", path, {"content-type": content_type}, sent)


def opened(wire: HttpWire, request: HttpRequest) -> Exchange:
    exchange = wire.open(request)
    assert exchange is not None
    assert not isinstance(exchange, HttpAnswer | str)
    return exchange  # type: ignore[return-value]


def read(
    exchange: Exchange,
    *chunks: bytes,
    content_type: str = JSON,
    is_whole: bool = True,
    headers: Mapping[str, str] | None = None,
) -> list[Evidence]:
    """All evidence of an answer; what is not whole was cut off where its chunks end."""
    answer = HttpAnswer(200, {"content-type": content_type, **(headers or {})})
    found = list(exchange.answered(answer))
    for chunk in chunks:
        found += exchange.body(chunk)
    return found + list(exchange.end() if is_whole else ())


def ended(
    opening: Opening,
    evidence: Iterable[Evidence],
    how: Ended = Ended.DONE,
    kind: Kind = Kind.LLM,
) -> UsageEvent:
    """The one event that the evidence ends as."""
    notebook = Notebook()
    request = Meter(Service(kind, "a vendor", "a model"), OWNER, notebook).open(opening)
    request.answered()
    for one in evidence:
        request.take(one)
    failure = Failure("ReadError", "the answer broke off", 200) if how is Ended.BROKEN else None
    request.closed(how, failure)
    (event,) = notebook.events
    assert notebook.open == set()
    return event


def texts(evidence: Iterable[Evidence]) -> str:
    return "".join(one.text for one in evidence if isinstance(one, Output))


def reports(evidence: Iterable[Evidence]) -> list[Reported]:
    return [one for one in evidence if isinstance(one, Reported)]


def event_stream(events: Sequence[Any], *, named: bool = False, newline: str = "\n") -> bytes:
    """The events as a vendor sends them; a string is sent as it is."""
    lines: list[str] = []
    for event in events:
        if named and isinstance(event, Mapping):
            lines.append(f"event: {event['type']}")
        data = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
        lines += [f"data: {data}", ""]
    return newline.join([*lines, ""]).encode()


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """The same bytes in pieces, cut at these places."""
    marks = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(marks)]
