"""A tap on WebSockets whose reader keeps what it is shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from flow.domain.usage.events import Outcome, Quantities, UsageEvent
from flow.domain.usage.units import Kind
from flow.metering.evidence import Completed, Ended, Opening, Output
from flow.metering.meter import Meter, Service
from flow.metering.taps.socket import SocketTap
from flow.metering.wires.socket import Begun, Closing, Message, Over, Seen, Shown
from tests.events import an_owner
from tests.notebook import Notebook

INPUT = Opening(Quantities(characters=5), sent=Quantities(characters=5), model="m", stream=True)


@dataclass
class Reader:
    """Keeps all that it is shown. ``begin``, ``say`` and ``end`` with a name after them are what
    they say of a piece of work, and ``fail`` is more than it can stand."""

    url: str
    seen: list[tuple[str, Message]] = field(default_factory=list)
    closings: list[Closing] = field(default_factory=list)
    expects_report: bool = False

    def sent(self, message: Message) -> Iterator[Seen]:
        self.seen.append(("sent", message))
        return self._read(message)

    def received(self, message: Message) -> Iterator[Seen]:
        self.seen.append(("received", message))
        return self._read(message)

    def closed(self, closing: Closing) -> Iterator[Seen]:
        self.closings.append(closing)
        return iter(())

    def _read(self, message: Message) -> Iterator[Seen]:
        match message.split() if isinstance(message, str) else []:
            case ["begin", work]:
                yield Begun(work, INPUT)
            case ["say", work]:
                yield Shown(work, Output())
            case ["end", work]:
                yield Shown(work, Completed())
                yield Over(work, Ended.DONE)
            case ["ask"]:
                self.expects_report = True
            case ["report"]:
                self.expects_report = False
            case ["fail"]:
                raise ValueError("this reader cannot read")


@dataclass
class World:
    """A tap, and what came of it."""

    tap: SocketTap
    notebook: Notebook
    readers: list[Reader]

    @property
    def reader(self) -> Reader:
        (reader,) = self.readers
        return reader

    @property
    def events(self) -> list[UsageEvent]:
        return self.notebook.events

    @property
    def outcomes(self) -> list[Outcome]:
        return [event.outcome for event in self.events]


def watched_sockets() -> World:
    """A tap of which nothing has come yet."""
    notebook, readers = Notebook(), []

    def read(url: str) -> Reader:
        readers.append(Reader(url))
        return readers[-1]

    meter = Meter(Service(Kind.TTS, "a vendor", "a model"), an_owner(team_id="t"), notebook)
    return World(SocketTap(meter, read), notebook, readers)
