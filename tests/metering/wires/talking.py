"""A connection to a vendor of speech, played message by message, without a wire."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flow.domain.usage.events import UsageEvent
from flow.domain.usage.units import Kind
from flow.metering.meter import Meter, Service
from flow.metering.taps.socket import SocketTap
from flow.metering.wires.socket import SocketWire
from tests.events import an_owner
from tests.notebook import Notebook


class Talk:
    """What is said on one connection, and the events that come of it.

    Args:
        wire: makes the reader that is tested.
        url: as dialled.
    """

    def __init__(self, wire: SocketWire, url: str, kind: Kind) -> None:
        self.notebook = Notebook()
        meter = Meter(Service(kind, "a vendor", "a model"), an_owner(team_id="t"), self.notebook)
        self._conversation = SocketTap(meter, wire).opened(url)

    @property
    def events(self) -> list[UsageEvent]:
        return self.notebook.events

    @property
    def estimate(self) -> UsageEvent:
        """What a process that dies now leaves behind."""
        return self.notebook.begun[-1]

    def send(self, *messages: Mapping[str, Any] | bytes | str) -> None:
        for message in messages:
            self._conversation.sent(_raw(message))

    def receive(self, *messages: Mapping[str, Any] | bytes | str) -> None:
        for message in messages:
            self._conversation.received(_raw(message))

    def interrupt(self, work: str) -> None:
        self._conversation.abandoned(work)

    def close(self, code: int | None = None, *, by_us: bool = True) -> list[UsageEvent]:
        self._conversation.closed(code, by_us=by_us)
        assert not self.notebook.open
        return self.events


def _raw(message: Mapping[str, Any] | bytes | str) -> str | bytes:
    return json.dumps(message) if isinstance(message, Mapping) else message
