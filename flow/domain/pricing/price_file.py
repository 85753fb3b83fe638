"""Price files: dated prices with a source, in TOML, validated by pydantic.

::

    [[price]]
    vendor = "openai"
    model = "gpt-4o-transcribe"
    effective_from = 2025-03-20
    per_million = { input_tokens = "2.50", output_tokens = "10" }
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
earlier usage keeps the old one.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from flow.domain.pricing.model_names import is_release
from flow.domain.pricing.rates import Multiple, Rate, Rates
from flow.domain.pricing.tier_names import normal_tier
from flow.domain.pricing.time_of_use import PriceTimes
from flow.domain.usage.units import UNITS, Measure
from flow.errors import ConfigurationError
from flow.kit.toml_errors import mistake, path_of, sentence_of, suggestion

_PER = {
    "per_unit": 1,
    "per_thousand": 1_000,
    "per_million": 1_000_000,
    "per_minute": 60,
    "per_hour": 3600,
}
_OF_TIME = ("per_minute", "per_hour")


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
    """The prices in ``text``, which is that of the file ``where``.

    Raises:
        ConfigurationError: one sentence for each mistake, with the file, the number of the entry
            and the path of the field.
    """
    try:
        data = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{where} is not TOML: {error}.") from None
    entries = data.get("price", [])
    if not isinstance(entries, list) or set(data) - {"price"}:
        raise ConfigurationError(f"{where}: only [[price]] entries are known.")
    lines: dict[int, PriceLine] = {}
    mistakes: list[str] = []
    for number, fields in enumerate(entries, start=1):
        entry = f"{where}: entry {number}{_named(fields)}"
        try:
            line = Entry.model_validate(fields).line()
        except ValidationError as error:
            mistakes += [f"{entry}: {_problem(one)}." for one in error.errors()]
            continue
        mistakes += [f"{entry}: {twin}." for twin in _twins(line, lines)]
        lines[number] = line
    if mistakes:
        raise ConfigurationError("\n".join(mistakes))
    return tuple(lines.values())


def _named(fields: Any) -> str:
    if isinstance(fields, Mapping) and fields.get("vendor") and fields.get("model"):
        return f", {fields['vendor']}/{fields['model']}"
    return ""


def _problem(error: ErrorDetails) -> str:
    *table, name = error["loc"] or ("the entry",)
    if error["type"] == "missing":
        return f"{path_of(error['loc'])} is missing"
    if error["type"] == "extra_forbidden":
        known = MultipleTable if table else Entry
        return f"{path_of(error['loc'])} is not known: {suggestion(str(name), known.model_fields)}"
    sentence = sentence_of(error)
    return f"{path_of(error['loc'])}: {sentence}" if error["loc"] else sentence


def _twins(line: PriceLine, lines: Mapping[int, PriceLine]) -> Iterator[str]:
    for number, other in lines.items():
        if _meet(line, other):
            at = " at some of these times" if line.times else ""
            yield f"entry {number} already has a price for this from the same day on{at}"
            return


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


def _text(value: str) -> str:
    if not value.strip():
        raise mistake("must be text that says something")
    return value


def _not_empty(value: list[Any]) -> list[Any]:
    if not value:
        raise mistake("must not be empty")
    return value


def _unit(value: str) -> str:
    if value not in UNITS:
        raise mistake(f"is not a unit: {suggestion(value, UNITS)}")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool | float):
        raise mistake("must be a number from 0 on")
    return value


def _day(value: Any) -> Any:
    """A TOML date, or text of one; a date with a time is no day."""
    if isinstance(value, str):
        try:
            return date.fromisoformat(value)
        except ValueError:
            raise mistake("must be a day such as 2026-11-01") from None
    if isinstance(value, datetime):
        raise mistake("must be a day such as 2026-11-01")
    return value


Text = Annotated[str, AfterValidator(_text)]
Unit = Annotated[str, AfterValidator(_unit)]
Number = Annotated[Decimal, BeforeValidator(_number), Field(strict=False, ge=0)]
Day = Annotated[date, BeforeValidator(_day)]
Usd = dict[Unit, Number]


class _Table(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class MultipleTable(_Table):
    """How often the rate of another unit: ``{ of = "input_tokens", factor = "2" }``."""

    of: Unit = Field(description="The unit whose rate is multiplied.")
    factor: Number = Field(description="By how much.")


class Entry(_Table):
    """One ``[[price]]`` of a file."""

    vendor: Text = Field(description="The vendor, as in a join.")
    model: Text = Field(description="A model and its dated releases; or a pattern: *, ?, [...].")
    effective_from: Day = Field(description="From 00:00 UTC of that day, until a later line's day.")
    source: Text = Field(description="Where the price is written.")
    service_tier: Text | None = Field(
        default=None, description="For that tier only; left out: the standard one."
    )
    note: Text | None = Field(default=None, description="Anything worth knowing.")
    per_unit: Usd = Field(default={}, description="USD for one of each unit.")
    per_thousand: Usd = Field(default={}, description="USD for a thousand.")
    per_million: Usd = Field(default={}, description="USD for a million.")
    per_minute: Usd = Field(default={}, description="USD a minute, for units of time.")
    per_hour: Usd = Field(default={}, description="USD an hour, for units of time.")
    multiples: dict[Unit, MultipleTable] = Field(
        default={}, description="In place of rates: how often the rate of another unit."
    )
    weekdays: Annotated[list[str], AfterValidator(_not_empty)] | None = Field(
        default=None, description="Days on which it holds, such as `mon`; left out: every day."
    )
    hours: Annotated[list[str], AfterValidator(_not_empty)] | None = Field(
        default=None,
        description="Hours at which it holds, such as `00:30-16:30` (UTC); left out: all.",
    )
    except_on: Annotated[list[Day], AfterValidator(_not_empty)] | None = Field(
        default=None, description="Days on which it does not hold."
    )

    @model_validator(mode="after")
    def _one_rate_a_unit(self) -> Self:
        rates = [(table, unit) for table in _PER for unit in getattr(self, table)]
        first = dict[str, str]()
        for table, unit in rates:
            if first.setdefault(unit, table) != table:
                raise mistake(f"{unit} has a second rate in {table}")
            if table in _OF_TIME and UNITS[unit].measure is not Measure.SECONDS:
                raise mistake(f"{table}.{unit} is not a unit of time")
        for unit, multiple in self.multiples.items():
            if multiple.of == unit:
                raise mistake(f"multiples.{unit}.of must be another unit")
        if bool(rates) == bool(self.multiples):
            tables = ", ".join(_PER)
            raise mistake(f"one rate or more is needed in {tables}, or multiples in place of them")
        return self

    @model_validator(mode="after")
    def _times_can_be_read(self) -> Self:
        try:
            self._times()
        except ValueError as error:
            raise mistake(f"weekdays and hours: {error}") from None
        return self

    def _times(self) -> PriceTimes | None:
        if self.weekdays is None and self.hours is None and self.except_on is None:
            return None
        return PriceTimes.parse(self.weekdays, self.hours, self.except_on or ())

    def line(self) -> PriceLine:
        """The price that the entry gives."""
        vendor = self.vendor.strip().lower()
        return PriceLine(
            vendor=vendor,
            model=self.model.strip().lower(),
            service_tier=normal_tier(vendor, self.service_tier),
            effective_from=self.effective_from,
            source=self.source,
            rates=Rates(
                {
                    unit: Rate(usd, per)
                    for table, per in _PER.items()
                    for unit, usd in getattr(self, table).items()
                }
            ),
            multiples={
                unit: Multiple(multiple.of, multiple.factor)
                for unit, multiple in self.multiples.items()
            },
            times=self._times(),
            note=self.note,
        )
