"""The elements of a JSON array that comes bit by bit."""

from __future__ import annotations

import re
from collections.abc import Iterator

_STRUCTURE = re.compile(rb'["\\{}\[\]]')


class JsonArray:
    """Collects chunks and gives whole elements, where these are objects; other values are passed
    over. What is no array but one object is given as well."""

    def __init__(self) -> None:
        self._object = bytearray()
        self._depth = 0
        self._in_string = False
        self._is_escaped = False

    @property
    def is_whole(self) -> bool:
        """Whether no object is left open."""
        return not self._depth

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The objects that this chunk completes."""
        begin = at = 0
        if self._is_escaped and chunk:
            self._is_escaped, at = False, 1
        while found := _STRUCTURE.search(chunk, at):
            mark, at = found.group(), found.end()
            if mark == b"\\":
                if self._in_string:
                    self._is_escaped, at = at == len(chunk), at + 1
            elif mark == b'"':
                self._in_string = not self._in_string
            elif self._in_string:
                continue
            elif mark in b"{[":
                if mark == b"{" and not self._depth:
                    begin = at - 1
                if mark == b"{" or self._depth:
                    self._depth += 1
            elif self._depth:
                self._depth -= 1
                if not self._depth:
                    yield bytes(self._object + chunk[begin:at])
                    self._object.clear()
        if self._depth:
            self._object += chunk[begin:]
