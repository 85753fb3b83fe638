"""What is known of a transport as data: how joins name it, what it needs, how callers connect."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True)
class CallAddress:
    """Where one call is reached: the service's ``base`` URL, the thread, and the join's token."""

    base: str
    thread_id: UUID
    token: str

    def http(self, path: str) -> str:
        """The URL of a route of this call, with the token."""
        return f"{self.base}/api/bot/{self.thread_id}/{path}?token={self.token}"

    def websocket(self, path: str) -> str:
        """The URL of a WebSocket of this call, with the token."""
        return f"{stream_url(self.base, self.thread_id, path)}?token={self.token}"


def stream_url(base: str, thread_id: UUID, path: str) -> str:
    """The URL of a WebSocket of a call whose token travels otherwise than in the URL."""
    return f"ws{base.removeprefix('http')}/api/bot/{thread_id}/{path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportSpec:
    """A transport, for those who know nothing of its packages. How a call begins over it is said
    by the subclasses in `flow.bot.transports.spec`.

    Args:
        name: what joins and answers call it.
        settings: the environment variables without which it is not set up.
        options: those that it can do without.
        connection: what the caller is told beside the type: fields of the answer by their name.
            ``None`` for rooms, which say it themselves.
        connect_params: what ``connect()`` of Pipecat's clients takes, made of those fields;
            ``None`` where they have no such transport.
        has_rooms: whether the bot waits for its caller in a room.
        controls: the types of tools that act on the call (`flow.domain.calls.tools.CALL_CONTROLS`)
            and that this transport can do, by the `CallControl` of its calls.
        room_url_problem: what is wrong with the URL of a room that the caller names, or ``None``.
    """

    name: str
    settings: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    connection: Callable[[CallAddress], dict[str, str]] | None = None
    connect_params: Callable[[Mapping[str, str]], dict[str, Any]] | None = None
    has_rooms: bool = False
    controls: frozenset[str] = frozenset()
    room_url_problem: Callable[[str], str | None] = lambda _: None

    @property
    def speaks_rtvi(self) -> bool:
        """Whether Pipecat's clients connect over it, so that RTVI can be spoken."""
        return self.connect_params is not None

    @property
    def needed(self) -> str | None:
        """The hint to an operator who has not set it up, or ``None`` if it needs no settings."""
        return f"'{self.name}' needs {listed(self.settings)}." if self.settings else None

    def contradiction(self, given: Collection[str]) -> str | None:
        """What is wrong with settings of which some are ``given`` and some are not, or ``None``."""
        if not set(self.settings) & set(given) or set(self.settings) <= set(given):
            return None
        rule = "set both or neither" if len(self.settings) == 2 else "set all or none"
        return f"{listed(self.settings)} go together: {rule}."


TransportSpecs = Mapping[str, TransportSpec]
"""Every transport by its name."""


def names_with_rooms(specs: TransportSpecs) -> str:
    """The transports with rooms, as a sentence names them."""
    return listed([spec.name for spec in specs.values() if spec.has_rooms])


def names_with_rtvi(specs: TransportSpecs) -> str:
    """The transports that RTVI is spoken over, as a sentence names them."""
    return listed([spec.name for spec in specs.values() if spec.speaks_rtvi])


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them: ``A, B and C``."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
