"""Where in a TOML text each key stands, which ``tomllib`` does not tell.

The text has been read by ``tomllib`` before, so it is known to be right; what is left is to walk
over it with strings, comments, arrays and inline tables kept apart.
"""

from __future__ import annotations

import re
import tomllib

Path = tuple[str | int, ...]

_BLANK = re.compile(r"[ \t\r]*")
_BETWEEN = re.compile(r"(?:[\s,]|#[^\n]*)*")
_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:\\.|[^"\\\n])*"|'[^'\n]*'""")
_STRING = re.compile(
    r'''"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*\'''', re.DOTALL
)
_SCALAR = re.compile(r"[^,\]}#\n]+")


class KeyLines:
    """The line on which each key, table and element of a list was first written.

    Args:
        text: TOML that ``tomllib`` reads.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._counted = (0, 1)  # a position, and the number of its line
        self._lines: dict[Path, int] = {}
        self._walk()

    def line(self, path: Path) -> int | None:
        """The line of ``path``, or of the nearest table around it; ``None`` without any.

        A path is made of keys, and numbers from 0 on for the elements of a list. Elements of a
        list of tables (``[[name]]``) are not told apart.
        """
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path)

    def _walk(self) -> None:
        table: Path = ()
        while self._skip(_BETWEEN):
            if self._text[self._at] == "[":
                self._at += 2 if self._text.startswith("[[", self._at) else 1
                table = self._key(())
                self._at = self._text.index("]", self._at) + 1
                self._at += self._text.startswith("]", self._at)
            else:
                self._pair(table)

    def _pair(self, table: Path) -> None:
        path = self._key(table)
        self._at += 1  # =
        self._value(path)

    def _key(self, path: Path) -> Path:
        """Read a key, dotted or not; end up before what follows it."""
        while True:
            self._skip(_BLANK)
            name = self._take(_KEY)
            path = (*path, _plain(name))
            self._note(path, self._at - len(name))
            self._skip(_BLANK)
            if not self._text.startswith(".", self._at):
                return path
            self._at += 1

    def _value(self, path: Path) -> None:
        self._skip(_BLANK)
        opened = self._text[self._at]
        if opened == "{":
            self._at += 1
            while self._skip(_BETWEEN) and self._text[self._at] != "}":
                self._pair(path)
            self._at += 1
        elif opened == "[":
            self._list(path)
        else:
            self._take(_STRING if opened in "\"'" else _SCALAR)

    def _list(self, path: Path) -> None:
        self._at += 1
        index = 0
        while self._skip(_BETWEEN) and self._text[self._at] != "]":
            self._note((*path, index), self._at)
            self._value((*path, index))
            index += 1
        self._at += 1

    def _note(self, path: Path, at: int) -> None:
        counted, line = self._counted
        line += self._text.count("\n", counted, at)
        self._counted = at, line
        self._lines.setdefault(path, line)

    def _skip(self, blank: re.Pattern[str]) -> bool:
        """Go past what means nothing; whether anything is left."""
        self._take(blank)
        return self._at < len(self._text)

    def _take(self, token: re.Pattern[str]) -> str:
        found = token.match(self._text, self._at)
        assert found is not None, "only TOML that tomllib reads comes here"
        self._at = found.end()
        return found.group()


def _plain(key: str) -> str:
    """A key without its quotes and escapes."""
    if key[0] not in "\"'":
        return key
    return str(tomllib.loads(f"key = {key}")["key"])
