"""Server-sent events out of chunks that may be cut anywhere."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import NamedTuple


class ServerSentEvent(NamedTuple):
    """One event: its type, empty where none is given, and its data."""

    type: str
    data: str


class EventStream:
    """Collects chunks and gives whole events (WHATWG HTML, "Server-sent events").

    ``id`` and ``retry`` fields and comments are passed over. Lines may end in CR, LF or both.
    """

    def __init__(self) -> None:
        # In pieces: joining them with each chunk would take a long line's time squared.
        self._rest: list[bytes] = []
        self._is_begun = False
        self._type = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """The events that this chunk completes."""
        buffered = chunk
        if self._rest:
            self._rest.append(chunk)
            if not any(b"\n" in one or b"\r" in one for one in self._rest[-2:]):
                return
            buffered = b"".join(self._rest)
        # A CR at the end may be half of CR LF.
        held = b"\r" if buffered.endswith(b"\r") else b""
        *lines, rest = _split(buffered[: len(buffered) - len(held)])
        self._rest = [rest + held] if rest or held else []
        for line in lines:
            if line:
                self._take(line)
            elif self._data:
                yield self._event()
            else:
                self._type = ""

    def end(self) -> Iterator[ServerSentEvent]:
        """What stands at the end without an empty line after it, as lenient clients read it."""
        if rest := b"".join(self._rest).strip(b"\r\n"):
            self._take(rest)
        self._rest = []
        if self._data:
            yield self._event()

    def _take(self, line: bytes) -> None:
        if not self._is_begun:
            line, self._is_begun = line.removeprefix(BOM_UTF8), True
        name, _, value = line.partition(b":")
        text = value.removeprefix(b" ").decode("utf-8", "replace")
        if name == b"data":
            self._data.append(text)
        elif name == b"event":
            self._type = text

    def _event(self) -> ServerSentEvent:
        data, self._data = self._data, []
        kind, self._type = self._type, ""
        return ServerSentEvent(kind, data[0] if len(data) == 1 else "\n".join(data))


def _split(data: bytes) -> list[bytes]:
    if b"\r" not in data:
        return data.split(b"\n")
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
