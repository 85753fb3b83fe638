"""Pieces of Markdown, and the list of what the code says nothing about."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence


class Descriptions:
    """Takes descriptions from the code; ``missing`` names all that have none."""

    def __init__(self) -> None:
        self.missing: list[str] = []

    def of(self, what: str, text: str | None) -> str:
        """The description of ``what`` as Markdown, on one line."""
        if not (text or "").strip():
            self.missing.append(what)
        return one_line(text or "")


def one_line(text: str) -> str:
    """A docstring's or a comment's text on one line, with code in single backquotes."""
    return re.sub(r"\s+", " ", text.replace("``", "`")).strip()


def paragraphs(text: str) -> str:
    """A docstring as Markdown: what is indented after ``::`` is a block of code."""
    text = inspect.cleandoc(text).replace("``", "`")
    text = re.sub(r"(?<=\w)::$", ":", text, flags=re.MULTILINE)
    return re.sub(r"^::\n", "", text, flags=re.MULTILINE)


def code(value: object) -> str:
    """Inline code, or nothing for ``None``."""
    return "" if value is None else f"`{value}`"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; pipes in cells are escaped."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return one_line(text).replace("|", "\\|")


def page(title: str, *parts: str) -> str:
    """A page: its title and the parts that are not empty."""
    return "\n\n".join([f"# {title}", *(part for part in parts if part)]) + "\n"
