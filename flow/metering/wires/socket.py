"""What a reader of a WebSocket protocol is: it tells the pieces of work on one connection apart."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable
from urllib.parse import parse_qs, urlsplit

from flow.domain.usage.events import Failure
from flow.metering.evidence import Ended, Evidence, Opening

Message = str | bytes
Work = Hashable
"""What a reader calls a piece of work, such as the vendor's id of a context or response. A name
is free again once its work is over."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A piece of work begins."""

    work: Work
    opening: Opening


@dataclass(frozen=True, slots=True)
class Shown:
    """The wire shows something of a piece of work; of one that is not open it is ignored."""

    work: Work
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Over:
    """A piece of work is over. What the connection's end leaves open needs none."""

    work: Work
    ended: Ended
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The vendor took the connection and says that it will do no work on it, which costs nothing.

    It is for what is said while no work is open, such as that a quota is used up.
    """

    failure: Failure


Seen = Begun | Shown | Over | Refused


@dataclass(frozen=True, slots=True)
class Closing:
    """How a connection ended.

    Args:
        code: the code of the close frame that the vendor sent; ``None`` where it sent none.
        by_us: whether the bot closed it, or dropped it, before the vendor did.
    """

    code: int | None
    by_us: bool

    @property
    def is_clean(self) -> bool:
        """Whether nothing went wrong: the bot left, or the vendor said goodbye in peace."""
        return self.by_us or self.code in (1000, 1001)


class SocketReader(Protocol):
    """Reads one connection, message by message. A message is text or bytes, whole."""

    @property
    def expects_report(self) -> bool:
        """Whether the vendor's account of the work is still to come, so that the connection should
        not be closed just yet."""

    def sent(self, message: Message) -> Iterable[Seen]:
        """A message goes to the vendor."""

    def received(self, message: Message) -> Iterable[Seen]:
        """A message has come from the vendor."""

    def closed(self, closing: Closing) -> Iterable[Seen]:
        """The connection has ended. Work that is still open afterwards was abandoned where that
        was clean, and broke off where it was not."""


@runtime_checkable
class Interruptible(Protocol):
    """A reader of work that the bot may give up without a word on the wire."""

    def abandoned(self, work: Work) -> Iterable[Seen]:
        """Nobody wants the rest of a piece of work, if it is open."""


SocketWire = Callable[[str], SocketReader]
"""Makes the reader of a connection, given its URL: models and formats are often in the query."""


def query_value(url: str, name: str) -> str | None:
    """What the query of a URL says of ``name``."""
    return next(iter(parse_qs(urlsplit(url).query).get(name, ())), None)
