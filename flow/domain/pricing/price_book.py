"""Price books: prices found by what was used and when."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Self

from flow.domain.pricing.price_file import PriceLine, read_lines
from flow.errors import ConfigurationError


class PriceBook:
    """Price lines, found by what was used and when.

    Args:
        name: what a ledger row's price version begins with.
        lines: in any order; an exact model goes before a pattern, a longer name before a shorter
            one, and of one and the same the latest that was in force, at its own times before
            the rest of the time.
    """

    def __init__(self, name: str, lines: Iterable[PriceLine] = ()) -> None:
        self.name = name
        self.lines = tuple(lines)
        self._by_vendor: dict[str, list[PriceLine]] = {}
        for line in sorted(self.lines, key=_precedence):
            self._by_vendor.setdefault(line.vendor, []).append(line)
        self._covering = lru_cache(maxsize=4096)(self._look_up)

    @classmethod
    def shipped(cls) -> Self:
        """Flow's own book."""
        text = resources.files("flow.domain.pricing").joinpath("prices.toml").read_text("utf-8")
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
            ConfigurationError: one sentence for each mistake, with file, entry and field.
        """
        return cls(name, read_lines(text, where))

    def find(
        self, vendor: str, model: str, service_tier: str | None, at: datetime
    ) -> PriceLine | None:
        """The line of rates in force; the tier is ``None`` for standard, ``at`` has a zone."""
        in_utc = at.astimezone(UTC)
        for line in self._covering(vendor.lower(), model.lower()):
            if not line.multiples and line.service_tier == service_tier and line.holds(in_utc):
                return line
        return None

    def find_multiples(
        self, vendor: str, model: str, service_tier: str | None, at: datetime
    ) -> Iterator[PriceLine]:
        """The lines of multiples in force, the one that goes first at first."""
        in_utc = at.astimezone(UTC)
        for line in self._covering(vendor.lower(), model.lower()):
            if line.multiples and line.service_tier in (None, service_tier) and line.holds(in_utc):
                yield line

    def _look_up(self, vendor: str, model: str) -> tuple[PriceLine, ...]:
        return tuple(line for line in self._by_vendor.get(vendor, ()) if line.covers(model))


def _precedence(line: PriceLine) -> tuple[bool, int, int, bool]:
    return (
        line.is_pattern,
        -len(line.model),
        -line.effective_from.toordinal(),
        line.times is None,
    )
