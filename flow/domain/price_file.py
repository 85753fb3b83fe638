"""What a price file says: dated prices with a source, in TOML.

::

    [[price]]
    vendor = "deepgram"              # the event's provider
    model = "nova-3*"                # a model, or a pattern of models with *, ? and [...]
    effective_from = 2026-05-05      # from 00:00 UTC of that day, until a later line's day
    per_audio_minute = "0.0048"      # USD
    source = "https://deepgram.com/pricing"
    note = "Streaming, pay as you go."

A line has exactly one price: ``per_audio_minute``, ``per_audio_hour``, ``per_call_minute``,
``per_thousand_characters``, ``per_million_characters``, or for language models
``per_million_tokens``, a table of ``input`` and ``output`` and, where they differ,
``cache_read``, ``cache_write``, ``reasoning``, ``audio_input``, ``audio_cache_read`` and
``audio_output``. With ``service_tier`` a line is for that tier only, without it for the standard
one. A price of 0 is a price: it says that the model costs nothing.

A line is never changed once it has been used: a new price is a new line with a later date, and
what happened before keeps its old one.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from typing import Any, Literal

from flow.domain.rates import Rate, TokenRates, UnitRate
from flow.domain.tier import normal_tier
from flow.domain.usage import Kind
from flow.errors import ConfigurationError

_SPEECH = (Kind.STT, Kind.TTS)
_Measure = Literal["audio_seconds", "characters"]
_UNITS: dict[str, tuple[_Measure, int, tuple[Kind, ...]]] = {
    "per_audio_minute": ("audio_seconds", 60, _SPEECH),
    "per_audio_hour": ("audio_seconds", 3600, _SPEECH),
    "per_thousand_characters": ("characters", 1_000, (Kind.TTS,)),
    "per_million_characters": ("characters", 1_000_000, (Kind.TTS,)),
    "per_call_minute": ("audio_seconds", 60, (Kind.CALL,)),
}
_TOKENS = "per_million_tokens"
_TOKEN_RATES = frozenset(TokenRates.__slots__) - {"per_request"}
_PRICES = (*_UNITS, _TOKENS)
_TEXTS = ("vendor", "model", "source", "service_tier", "note")
_REQUIRED = ("vendor", "model", "effective_from", "source")


@dataclass(frozen=True, slots=True)
class PriceLine:
    """One price: what, from when on, how much, and where that is written."""

    vendor: str
    model: str
    service_tier: str | None
    effective_from: date
    kinds: tuple[Kind, ...]
    rates: TokenRates | UnitRate
    source: str
    note: str | None = None

    @property
    def is_pattern(self) -> bool:
        """Whether ``model`` stands for several models."""
        return any(c in self.model for c in "*?[")

    def covers(self, model: str) -> bool:
        """Whether the line is for this model, given in lower case."""
        return fnmatchcase(model, self.model) if self.is_pattern else model == self.model

    def __str__(self) -> str:
        tier = f" {self.service_tier}" if self.service_tier else ""
        return f"{self.effective_from} {self.vendor}/{self.model}{tier}"


def read_lines(text: str, where: str) -> tuple[PriceLine, ...]:
    """The prices written in ``text``, which came from the file ``where``.

    Raises:
        ConfigurationError: one sentence for each mistake, with file, line and entry.
    """
    try:
        data = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{where} is not TOML: {error}.") from None
    reader = _Reader(where, text)
    lines = tuple(reader.read(data))
    if reader.mistakes:
        raise ConfigurationError("\n".join(reader.mistakes))
    return lines


class _Mistake(ValueError):
    """Something is wrong with one entry."""


class _Reader:
    """Reads entries and collects what is wrong with them."""

    def __init__(self, where: str, text: str) -> None:
        self._where = where
        self._headers = [
            number
            for number, line in enumerate(text.splitlines(), start=1)
            if re.match(r"\s*\[\[\s*price\s*\]\]", line)
        ]
        self._seen: dict[tuple[Any, ...], int] = {}
        self.mistakes: list[str] = []

    def read(self, data: Mapping[str, Any]) -> Iterator[PriceLine]:
        entries = data.get("price", [])
        if not isinstance(entries, list) or set(data) - {"price"}:
            self.mistakes.append(f"{self._where}: only [[price]] entries are known.")
            return
        for number, entry in enumerate(entries, start=1):
            try:
                line = _line(entry)
                self._refuse_twin(line, number)
            except _Mistake as mistake:
                self.mistakes.append(f"{self._place(number, entry)}: {mistake}.")
            else:
                yield line

    def _refuse_twin(self, line: PriceLine, number: int) -> None:
        for kind in line.kinds:
            key = (kind, line.vendor, line.model, line.service_tier, line.effective_from)
            first = self._seen.setdefault(key, number)
            if first != number:
                raise _Mistake(f"entry {first} already has a price for this from the same day on")

    def _place(self, number: int, entry: Any) -> str:
        at = ""
        if number <= len(self._headers):
            at = f" (line {self._headers[number - 1]})"
        what = ""
        if isinstance(entry, Mapping) and entry.get("vendor") and entry.get("model"):
            what = f", {entry['vendor']}/{entry['model']}"
        return f"{self._where}: entry {number}{at}{what}"


def _line(entry: Any) -> PriceLine:
    if not isinstance(entry, Mapping):
        raise _Mistake("is not a table")
    if unknown := set(entry) - {*_TEXTS, *_REQUIRED, *_PRICES}:
        raise _Mistake(f"{', '.join(sorted(unknown))} is not known")
    if missing := [name for name in _REQUIRED if name not in entry]:
        raise _Mistake(f"{', '.join(missing)} is missing")
    for name in _TEXTS:
        if name in entry and not (isinstance(entry[name], str) and entry[name].strip()):
            raise _Mistake(f"{name} must be text")
    kinds, rates = _rates(entry)
    vendor = entry["vendor"].strip().lower()
    return PriceLine(
        vendor=vendor,
        model=entry["model"].strip().lower(),
        service_tier=normal_tier(vendor, entry.get("service_tier")),
        effective_from=_day(entry["effective_from"]),
        kinds=kinds,
        rates=rates,
        source=entry["source"],
        note=entry.get("note"),
    )


def _rates(entry: Mapping[str, Any]) -> tuple[tuple[Kind, ...], TokenRates | UnitRate]:
    given = [name for name in _PRICES if name in entry]
    if len(given) != 1:
        raise _Mistake(
            f"exactly one of {', '.join(_PRICES)} is needed, not {' and '.join(given) or 'none'}"
        )
    (name,) = given
    if name == _TOKENS:
        return (Kind.LLM,), _token_rates(entry[name])
    measure, per, kinds = _UNITS[name]
    return kinds, UnitRate(_usd(entry[name], name), measure, per)


def _token_rates(table: Any) -> TokenRates:
    if not isinstance(table, Mapping):
        raise _Mistake(f'{_TOKENS} must be a table such as {{ input = "2", output = "8" }}')
    if unknown := set(table) - _TOKEN_RATES:
        raise _Mistake(f"{_TOKENS}.{', '.join(sorted(unknown))} is not known")
    if missing := [name for name in ("input", "output") if name not in table]:
        raise _Mistake(f"{_TOKENS}.{' and '.join(missing)} is missing")
    rates: dict[str, Any] = {
        name: Rate(_usd(usd, f"{_TOKENS}.{name}")) for name, usd in table.items()
    }
    return TokenRates(**rates)


def _usd(value: Any, name: str) -> Decimal:
    if isinstance(value, str | int | Decimal) and not isinstance(value, bool):
        try:
            usd = Decimal(value)
        except InvalidOperation:
            usd = Decimal("NaN")
        if usd.is_finite() and usd >= 0:
            return usd
    raise _Mistake(f"{name} must be a number of USD from 0 on, not {value!r}")


def _day(value: Any) -> date:
    if isinstance(value, str):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    raise _Mistake(f"effective_from must be a day such as 2026-11-01, not {value}")
