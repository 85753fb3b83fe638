"""Price books: prices found by what was used and when."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Self

from flow.domain.price_file import PriceLine, read_lines
from flow.domain.usage import Kind
from flow.errors import ConfigurationError


class PriceBook:
    """Price lines, found by what was used and when.

    Args:
        name: what a ledger row's price version begins with.
        lines: in any order; an exact model goes before a pattern, a longer pattern before a
            shorter one, and of one and the same the latest that was in force.
    """

    def __init__(self, name: str, lines: Iterable[PriceLine] = ()) -> None:
        self.name = name
        self.lines = tuple(lines)
        self._shelves: dict[tuple[Kind, str], list[PriceLine]] = {}
        for line in sorted(self.lines, key=_precedence):
            for kind in line.kinds:
                self._shelves.setdefault((kind, line.vendor), []).append(line)

    @classmethod
    def shipped(cls) -> Self:
        """Flow's own book of speech prices."""
        text = resources.files("flow.domain").joinpath("prices.toml").read_text("utf-8")
        return cls.parse(text, name="flow", where="prices.toml")

    @classmethod
    def load(cls, path: Path) -> Self:
        """The operator's book.

        Raises:
            ConfigurationError: the file cannot be read, or has mistakes.
        """
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"The price file {path} cannot be read: {error}.") from None
        return cls.parse(text, name="operator", where=str(path))

    @classmethod
    def parse(cls, text: str, *, name: str, where: str) -> Self:
        """The book written in ``text``.

        Raises:
            ConfigurationError: one sentence for each mistake, with file, line and entry.
        """
        return cls(name, read_lines(text, where))

    def find(
        self, kind: Kind, vendor: str, model: str, service_tier: str | None, at: datetime
    ) -> PriceLine | None:
        """The line in force; ``service_tier`` is ``None`` for standard, ``at`` has a zone."""
        day = at.astimezone(UTC).date()
        model = model.lower()
        for line in self._shelves.get((kind, vendor.lower()), ()):
            if (
                line.service_tier == service_tier
                and line.effective_from <= day
                and line.covers(model)
            ):
                return line
        return None


def _precedence(line: PriceLine) -> tuple[bool, int, int]:
    return line.is_pattern, -len(line.model), -line.effective_from.toordinal()
