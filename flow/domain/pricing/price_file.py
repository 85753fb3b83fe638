"""What a price file says: dated prices with a source, in TOML.

::

    [[price]]
    vendor = "openai"                # the event's provider
    model = "gpt-4o-transcribe"      # a model and its dated releases; or a pattern: *, ?, [...]
    effective_from = 2025-03-20      # from 00:00 UTC of that day, until a later line's day
    per_million = { input_tokens = "2.50", output_tokens = "10" }  # USD
    per_minute = { audio_seconds = "0.006" }
    source = "https://developers.openai.com/api/docs/models/gpt-4o-transcribe"
    note = "Tokens where the vendor reports them, else its own estimate per minute."

The tables of rates are ``per_unit``, ``per_thousand``, ``per_million`` and, for units of time,
``per_minute`` and ``per_hour``; their keys are units (`flow.domain.usage.units`). `Rates` tells
which of them an event is charged by. A rate of 0 is a price: it says that the work costs nothing.

A model means itself and its dated releases (``gpt-4.1-2025-04-14``), never a sibling such as
``gpt-4.1-nano``; a pattern means all that it matches. With ``service_tier`` a line is for that
tier only, without it for the standard one.

With ``hours = ["00:30-16:30"]``, ``weekdays = ["mon", "tue"]`` or both, all in UTC, a line holds
at those times only, and never on the days of ``except_on = [2026-10-01]``. It goes before a line
of the same day without them, which is then for the rest of the time.

A line with ``multiples`` instead of rates adds to the price of the models that it covers, from
wherever that price is, rates that it lacks::

    multiples = { cache_write_1h_tokens = { of = "input_tokens", factor = "2" } }

It is for every tier, unless it names one.

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
from typing import Any

from flow.domain.pricing.model_names import is_release
from flow.domain.pricing.price_times import PriceTimes
from flow.domain.pricing.rates import Multiple, Rate, Rates
from flow.domain.pricing.service_tier import normal_tier
from flow.domain.usage.units import UNITS, Measure
from flow.errors import ConfigurationError

_PER = {
    "per_unit": 1,
    "per_thousand": 1_000,
    "per_million": 1_000_000,
    "per_minute": 60,
    "per_hour": 3600,
}
_OF_TIME = ("per_minute", "per_hour")
_TEXTS = ("vendor", "model", "source", "service_tier", "note")
_TIMES = ("weekdays", "hours", "except_on")
_REQUIRED = ("vendor", "model", "effective_from", "source")


@dataclass(frozen=True, slots=True)
class PriceLine:
    """One price: what, from when on, at which times, how much, and where that is written.

    ``multiples`` is empty in a line of rates, and the other way round. ``times`` is ``None``
    where the line holds at any time.
    """

    vendor: str
    model: str
    service_tier: str | None
    effective_from: date
    source: str
    rates: Rates
    multiples: Mapping[str, Multiple]
    times: PriceTimes | None = None
    note: str | None = None

    @property
    def is_pattern(self) -> bool:
        """Whether ``model`` is a pattern of models."""
        return any(c in self.model for c in "*?[")

    def covers(self, model: str) -> bool:
        """Whether the line is for this model, given in lower case."""
        if self.is_pattern:
            return fnmatchcase(model, self.model)
        return is_release(model, self.model)

    def holds(self, at: datetime) -> bool:
        """Whether the line is in force at this time, given in UTC."""
        return self.effective_from <= at.date() and (self.times is None or self.times.hold(at))

    def __str__(self) -> str:
        tier = f" {self.service_tier}" if self.service_tier else ""
        times = f" {self.times.text}" if self.times else ""
        return f"{self.effective_from} {self.vendor}/{self.model}{tier}{times}"


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
        self._read: list[tuple[int, PriceLine]] = []
        self.mistakes: list[str] = []

    def read(self, data: Mapping[str, Any]) -> Iterator[PriceLine]:
        entries = data.get("price", [])
        if not isinstance(entries, list) or set(data) - {"price"}:
            self.mistakes.append(f"{self._where}: only [[price]] entries are known.")
            return
        for number, entry in enumerate(entries, start=1):
            try:
                line = _line(entry)
                self._refuse_twin(line)
            except _Mistake as mistake:
                self.mistakes.append(f"{self._place(number, entry)}: {mistake}.")
            else:
                self._read.append((number, line))
                yield line

    def _refuse_twin(self, line: PriceLine) -> None:
        for number, other in self._read:
            if _meet(line, other):
                at = " at some of these times" if line.times else ""
                raise _Mistake(
                    f"entry {number} already has a price for this from the same day on{at}"
                )

    def _place(self, number: int, entry: Any) -> str:
        at = ""
        if number <= len(self._headers):
            at = f" (line {self._headers[number - 1]})"
        what = ""
        if isinstance(entry, Mapping) and entry.get("vendor") and entry.get("model"):
            what = f", {entry['vendor']}/{entry['model']}"
        return f"{self._where}: entry {number}{at}{what}"


def _meet(line: PriceLine, other: PriceLine) -> bool:
    """Whether both are for the same work at some time, and neither goes before the other."""
    same = all(
        getattr(line, name) == getattr(other, name)
        for name in ("vendor", "model", "service_tier", "effective_from")
    )
    if not same or bool(line.multiples) != bool(other.multiples):
        return False
    if line.times is None or other.times is None:
        return line.times is other.times
    return line.times.meet(other.times)


def _line(entry: Any) -> PriceLine:
    if not isinstance(entry, Mapping):
        raise _Mistake("is not a table")
    if unknown := set(entry) - {*_TEXTS, *_REQUIRED, *_TIMES, *_PER, "multiples"}:
        raise _Mistake(f"{', '.join(sorted(unknown))} is not known")
    if missing := [name for name in _REQUIRED if name not in entry]:
        raise _Mistake(f"{', '.join(missing)} is missing")
    for name in _TEXTS:
        if name in entry and not (isinstance(entry[name], str) and entry[name].strip()):
            raise _Mistake(f"{name} must be text")
    rates, multiples = _rates(entry), _multiples(entry)
    if bool(rates) == bool(multiples):
        raise _Mistake(
            f"one rate or more is needed in {', '.join(_PER)}, or multiples in place of them"
        )
    vendor = entry["vendor"].strip().lower()
    return PriceLine(
        vendor=vendor,
        model=entry["model"].strip().lower(),
        service_tier=normal_tier(vendor, entry.get("service_tier")),
        effective_from=_day(entry["effective_from"], "effective_from"),
        source=entry["source"],
        rates=Rates(rates),
        multiples=multiples,
        times=_times(entry),
        note=entry.get("note"),
    )


def _rates(entry: Mapping[str, Any]) -> dict[str, Rate]:
    rates: dict[str, Rate] = {}
    for table, per in _PER.items():
        for unit, usd in _table(entry, table, '{ output_tokens = "10" }'):
            if table in _OF_TIME and UNITS[unit].measure is not Measure.SECONDS:
                raise _Mistake(f"{table}.{unit} is not a unit of time")
            if unit in rates:
                raise _Mistake(f"{unit} has a second rate in {table}")
            rates[unit] = Rate(_number(usd, f"{table}.{unit}", "USD "), per)
    return rates


def _multiples(entry: Mapping[str, Any]) -> dict[str, Multiple]:
    multiples: dict[str, Multiple] = {}
    example = '{ of = "input_tokens", factor = "2" }'
    for unit, multiple in _table(entry, "multiples", f"{{ cache_write_tokens = {example} }}"):
        name = f"multiples.{unit}"
        if not isinstance(multiple, Mapping) or set(multiple) != {"of", "factor"}:
            raise _Mistake(f"{name} must be a table such as {example}")
        if multiple["of"] not in UNITS or multiple["of"] == unit:
            raise _Mistake(f"{name}.of must be another unit, not {multiple['of']!r}")
        multiples[unit] = Multiple(multiple["of"], _number(multiple["factor"], f"{name}.factor"))
    return multiples


def _table(entry: Mapping[str, Any], name: str, example: str) -> Iterator[tuple[str, Any]]:
    table = entry.get(name, {})
    if not isinstance(table, Mapping):
        raise _Mistake(f"{name} must be a table such as {example}")
    for unit, value in table.items():
        if unit not in UNITS:
            raise _Mistake(f"{name}.{unit} is not known; units are {', '.join(UNITS)}")
        yield unit, value


def _number(value: Any, name: str, of: str = "") -> Decimal:
    if isinstance(value, str | int | Decimal) and not isinstance(value, bool):
        try:
            number = Decimal(value)
        except InvalidOperation:
            number = Decimal("NaN")
        if number.is_finite() and number >= 0:
            return number
    raise _Mistake(f"{name} must be a number {of and 'of ' + of}from 0 on, not {value!r}")


def _times(entry: Mapping[str, Any]) -> PriceTimes | None:
    given = {name: entry[name] for name in _TIMES if name in entry}
    for name, value in given.items():
        if not isinstance(value, list) or not value:
            raise _Mistake(f"{name} must be a list, and not empty")
    if not given:
        return None
    days = [_day(day, "except_on") for day in given.get("except_on", ())]
    try:
        return PriceTimes.parse(given.get("weekdays"), given.get("hours"), days)
    except (TypeError, ValueError) as error:
        raise _Mistake(f"weekdays and hours: {error}") from None


def _day(value: Any, name: str) -> date:
    if isinstance(value, str):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    raise _Mistake(f"{name} must be a day such as 2026-11-01, not {value}")
