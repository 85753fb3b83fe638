r"""Text with placeholders: ``{{name}}``, or ``{{name|text to use where name is not given}}``.

Blanks around name and default do not count. ``\{{`` stands for the characters ``{{``, and a
backslash right before a placeholder is written twice. Nothing else is special: a ``}}`` without its
``{{``, and a backslash anywhere else, stand for themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

NAME = r"[A-Za-z_][A-Za-z0-9_]{0,63}"
RESERVED = "flow."
"""What the names of variables begin with that Flow itself gives."""

# From the first backslash of a run: tried from each of them, a long run takes quadratic time.
_OPENING = re.compile(r"(?<!\\)(\\*)\{\{")
_NAME = re.compile(rf"({re.escape(RESERVED)})?{NAME}")
_REMEMBERED = 1_000


@dataclass(frozen=True, slots=True)
class Placeholder:
    """Where the value of a variable goes; without a ``default`` there must be one."""

    name: str
    default: str | None = None


class TemplateError(ValueError):
    """The text has a ``{{`` that begins no placeholder; the message says where and why."""


@lru_cache(maxsize=_REMEMBERED)
def parse(text: str) -> tuple[str | Placeholder, ...]:
    """The literal pieces of ``text`` and its placeholders, in order.

    Raises:
        TemplateError: a ``{{`` begins no placeholder.
    """
    return tuple(piece for piece in _pieces(text) if piece != "")


def _pieces(text: str) -> Iterator[str | Placeholder]:
    at = 0
    while opening := _OPENING.search(text, at):
        slashes = len(opening[1])
        yield text[at : opening.start()] + "\\" * (slashes // 2)
        at = opening.end()
        if slashes % 2:
            yield "{{"
            continue
        end = text.find("}}", at)
        if end < 0:
            raise TemplateError(f"has {_quoted(text, at)} without }}}}; {_ESCAPE}")
        yield _placeholder(text[at:end])
        at = end + 2
    yield text[at:]


def _placeholder(inside: str) -> Placeholder:
    name, bar, default = (part.strip() for part in inside.partition("|"))
    if not _NAME.fullmatch(name):
        raise TemplateError(
            f"has {{{{{inside[:80]}}}}}, which names no variable: a name has up to 64 letters,"
            f" digits and _, and does not begin with a digit; {_ESCAPE}"
        )
    if "{{" in default:
        raise TemplateError(f"has a {{{{ in the default of {{{{{name}}}}}; a default is plain text")
    return Placeholder(name, default if bar else None)


_ESCAPE = r"write \{{ for the characters themselves"


def _quoted(text: str, at: int) -> str:
    return "{{" + text[at : at + 30]
