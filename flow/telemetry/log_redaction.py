"""The constant text of a log message: the words that stand in the code, without the values.

Pipecat logs f-strings: ``f"{self} exception sending data: {e}"``. The constant parts are read from
the source of the call that logged. Values are left out, since they may quote a conversation, except
those that name a processor or the type of an error.
"""

from __future__ import annotations

import ast
import linecache
import re
import textwrap
from collections.abc import Iterator
from functools import lru_cache
from string import Formatter
from typing import NamedTuple

LEFT_OUT = "..."
LONGEST_CALL = 12
LONGEST_WAY = 40

# Expressions whose values name something of the code.
_NAMES = re.compile(
    r"self|self\._?name|(?:error\.|frame\.)?processor|service\.name"
    r"|\w+\.__class__\.__name__|type\(\w+\)\.__name__"
)
_NAME = re.compile(r"[\w#.\-]{1,64}")


class _Template(NamedTuple):
    """``parts`` alternate: text, value, text, ...; ``names`` says of each value what it shows."""

    pattern: re.Pattern[str]
    parts: tuple[str, ...]
    names: tuple[bool, ...]


def code_text(path: str, line: int, message: str) -> str | None:
    """What of a message is the code's own, by the file and line of the call that logged it.

    ``None`` where that cannot be told.
    """
    try:
        templates = _templates(path, line)
    except (ValueError, RecursionError):  # braces that are no format, or a source that is none
        return None
    for template in templates:
        found = template.pattern.fullmatch(message)
        if found is not None:
            return _filled(template, found.groups())
    return None


def _filled(template: _Template, values: tuple[str, ...]) -> str:
    text = template.parts[0]
    # A value that may hold anything may also look like the text after it: none behind it is sure.
    is_sure = True
    for value, is_name, part in zip(values, template.names, template.parts[1:], strict=True):
        is_sure = is_sure and is_name and _NAME.fullmatch(value) is not None
        text += (value if is_sure else LEFT_OUT) + part
    return text


@lru_cache(maxsize=512)
def _templates(path: str, line: int) -> tuple[_Template, ...]:
    lines = linecache.getlines(path)
    call = _call_at(lines, line)
    if call is None or not call.args:
        return ()
    said = call.args[0]
    if isinstance(said, ast.Name):
        return tuple(_template(one, False) for one in _assigned(lines, line, said.id))
    return (_template(said, len(call.args) > 1 or bool(call.keywords)),) if _is_text(said) else ()


def _call_at(lines: list[str], line: int) -> ast.Call | None:
    for statement in _statements(lines, line):
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            return statement.value
    return None


def _assigned(lines: list[str], line: int, name: str) -> Iterator[ast.expr]:
    """The texts that a variable is given shortly before a line."""
    begins = re.compile(rf"\s*{re.escape(name)} = ")
    for before in range(line - 1, max(line - LONGEST_WAY, 0), -1):
        if begins.match(lines[before - 1]):
            for statement in _statements(lines, before):
                if isinstance(statement, ast.Assign) and _is_text(statement.value):
                    yield statement.value


def _statements(lines: list[str], line: int) -> Iterator[ast.stmt]:
    """The statement that begins at a line, if one does."""
    for length in range(1, LONGEST_CALL + 1):
        source = textwrap.dedent("".join(lines[line - 1 : line - 1 + length]))
        try:
            module = ast.parse(source)
        except (SyntaxError, ValueError):
            continue
        yield from module.body[:1]
        return


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _template(node: ast.expr, is_formatted: bool) -> _Template:
    parts, names = [""], list[bool]()
    for text, value in _pieces(node, is_formatted):
        parts[-1] += text
        if value is not None:
            names.append(_NAMES.fullmatch(value) is not None)
            parts.append("")
    pattern = "(.*?)".join(re.escape(part) for part in parts)
    return _Template(re.compile(pattern, re.DOTALL), tuple(parts), tuple(names))


def _pieces(node: ast.expr, is_formatted: bool) -> Iterator[tuple[str, str | None]]:
    """Constant text, and the expression of the value behind it if there is one."""
    if isinstance(node, ast.JoinedStr):
        for value in node.values:
            if isinstance(value, ast.Constant):
                yield str(value.value), None
            elif isinstance(value, ast.FormattedValue):
                yield "", ast.unparse(value.value)
    elif isinstance(node, ast.Constant) and is_formatted:
        for text, name, _, _ in Formatter().parse(str(node.value)):
            yield text, None if name is None else f"argument {name}"
    elif isinstance(node, ast.Constant):
        yield str(node.value), None
