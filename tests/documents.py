"""The documents of the repository, and the blocks of code in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```", re.M | re.S
)
_MARK = re.compile(r"<!-- not run: (?P<reason>\S[^\n]*?) -->\s*\Z")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of code; ``unrun`` is the reason why a shell is not given it."""

    path: Path
    line: int
    language: str
    text: str
    unrun: str | None

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """All blocks in these languages."""
    return [one for page in PAGES for one in _blocks_of(page) if one.language in languages]


def _blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    for found in _FENCE.finditer(text):
        before = text[: found.start()]
        mark = _MARK.search(before)
        indent = found["indent"]
        yield Block(
            page,
            before.count("\n") + 1,
            found["language"],
            re.sub(f"^{indent}", "", found["text"], flags=re.M),
            mark["reason"] if mark else None,
        )
