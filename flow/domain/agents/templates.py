r"""Text with placeholders: ``{{name}}``, or ``{{name|text to use where name is not given}}``.

Blanks around name and default do not count. ``\{{`` stands for the characters ``{{``, and a
backslash right before a placeholder is written twice. Nothing else is special: a ``}}`` without its
``{{``, and a backslash anywhere else, stand for themselves.

In the nodes of a flow ``{{tool.field}}`` stands for a part of what a tool has answered in the call.
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
_ANSWER = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}(\.[A-Za-z0-9_-]{1,64}){1,8}")
_REMEMBERED = 1_000


@dataclass(frozen=True, slots=True)
class Placeholder:
    """Where the value of a variable goes; without a ``default`` there must be one."""

    name: str
    default: str | None = None


@dataclass(frozen=True, slots=True)
class AnswerPlaceholder:
    """Where a part of a tool's last answer goes: of an object by its name, of a list by its place.

    What is not there yet is the ``default``, or nothing.
    """

    tool: str
    path: tuple[str, ...]
    default: str = ""

    def __str__(self) -> str:
        name = ".".join([self.tool, *self.path])
        return f"{{{{{name}|{self.default}}}}}" if self.default else f"{{{{{name}}}}}"


class TemplateError(ValueError):
    """The text has a ``{{`` that begins no placeholder; the message says where and why."""


def parse(text: str) -> tuple[str | Placeholder, ...]:
    """The literal pieces of ``text`` and its placeholders, in order.

    Raises:
        TemplateError: a ``{{`` begins no placeholder.
    """
    return _parsed(text, False)  # type: ignore[return-value]


def parse_node_text(text: str) -> tuple[str | Placeholder | AnswerPlaceholder, ...]:
    """As `parse`, of a text in a node of a flow, which may hold answers of tools."""
    return _parsed(text, True)


def escape(text: str, *, before_placeholder: bool = False) -> str:
    """The template that stands for these very characters.

    ``before_placeholder``: what comes after it is a placeholder. The text must not end in ``{``
    then, for which there is no template.
    """
    escaped = _OPENING.sub(lambda found: found[1] * 2 + r"\{{", text)
    if not before_placeholder:
        return escaped
    return escaped + "\\" * (len(text) - len(text.rstrip("\\")))


@lru_cache(maxsize=_REMEMBERED)
def _parsed(text: str, has_answers: bool) -> tuple[str | Placeholder | AnswerPlaceholder, ...]:
    return tuple(piece for piece in _pieces(text, has_answers) if piece != "")


def _pieces(text: str, has_answers: bool) -> Iterator[str | Placeholder | AnswerPlaceholder]:
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
        yield _placeholder(text[at:end], has_answers)
        at = end + 2
    yield text[at:]


def _placeholder(inside: str, has_answers: bool) -> Placeholder | AnswerPlaceholder:
    name, bar, default = (part.strip() for part in inside.partition("|"))
    is_answer = has_answers and _ANSWER.fullmatch(name) and not name.startswith(RESERVED)
    if not is_answer and not _NAME.fullmatch(name):
        raise TemplateError(
            f"has {{{{{inside[:80]}}}}}, which names no variable: a name has up to 64 letters,"
            f" digits and _, and does not begin with a digit; {_ESCAPE}"
        )
    if "{{" in default:
        raise TemplateError(f"has a {{{{ in the default of {{{{{name}}}}}; a default is plain text")
    if is_answer:
        tool, *path = name.split(".")
        return AnswerPlaceholder(tool, tuple(path), default)
    return Placeholder(name, default if bar else None)


_ESCAPE = r"write \{{ for the characters themselves"


def _quoted(text: str, at: int) -> str:
    return "{{" + text[at : at + 30]
