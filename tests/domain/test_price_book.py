"""Price books: what is read, what is refused, and what is found."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from flow.domain.pricing.price_book import PriceBook
from flow.domain.pricing.rates import Multiple, Rate
from flow.errors import ConfigurationError

NOVEMBER = datetime(2026, 11, 15, 12, tzinfo=UTC)
ENTRY = """
[[price]]
vendor = "acme"
model = "{model}"
effective_from = {day}
per_minute = {{ audio_seconds = {usd} }}
source = "https://acme.example/pricing"
"""


def entry(model: str = "ear-1", day: str = "2026-01-01", usd: str = '"0.01"') -> str:
    return ENTRY.format(model=model, day=day, usd=usd)


def without(name: str) -> str:
    return "\n".join(line for line in entry().splitlines() if not line.startswith(name))


def book(text: str) -> PriceBook:
    return PriceBook.parse(text, name="test", where="mine.toml")


def found(text: str, model: str, at: datetime = NOVEMBER) -> str | None:
    line = book(text).find("acme", model, None, at)
    return str(line) if line else None


def test_an_exact_model_goes_before_a_pattern_and_a_long_pattern_before_a_short_one() -> None:
    text = entry("*") + entry("ear-1*") + entry("ear-1")
    assert found(text, "ear-1") == "2026-01-01 acme/ear-1"
    assert found(text, "ear-1-large") == "2026-01-01 acme/ear-1*"
    assert found(text, "nose") == "2026-01-01 acme/*"


@pytest.mark.parametrize(
    ("model", "covered"),
    [
        ("ear-1", True),
        ("ear-1-2026-02-28", True),
        ("ear-1-20260228", True),
        ("ear-1@20260228", True),
        ("ear-1-0228", True),
        ("ear-1-2602", True),
        ("ear-1-02-2026", True),
        ("ear-1-001", True),
        ("ear-1-v1:0", True),
        ("ear-1-20260228-v2:0", True),
        ("ear-1-nano", False),
        ("ear-1-nano-2026-02-28", False),
        ("ear-1-2026-02-28-nano", False),
        ("ear-1-2026-02-28:free", False),
        ("ear-1-2026-13-28", False),
        ("ear-1-preview", False),
        ("ear-1-latest", False),
        ("ear-1-v2", False),
        ("ear-1-5", False),
        ("ear-1.5", False),
        ("ear-1-8192", False),
        ("ear-12026-02-28", False),
        ("my/ear-1", False),
        ("ear", False),
    ],
)
def test_a_model_s_line_covers_its_releases_and_no_sibling(model: str, covered: bool) -> None:
    assert found(entry("ear-1"), model) == ("2026-01-01 acme/ear-1" if covered else None)


def test_a_release_s_own_line_goes_before_the_model_s() -> None:
    text = entry("ear-1") + entry("ear-1-2026-02-28")
    assert found(text, "ear-1-2026-02-28") == "2026-01-01 acme/ear-1-2026-02-28"


WORKDAYS = 'weekdays = ["mon", "tue", "wed", "thu", "fri"]'
PEAK = f'{WORKDAYS}\nhours = ["01:00-04:00", "22:00-00:30"]\nexcept_on = [2026-11-18]\n'


@pytest.mark.parametrize(
    ("at", "peak"),
    [
        ("2026-11-16T00:59:59", False),  # a Monday
        ("2026-11-16T01:00:00", True),
        ("2026-11-16T03:59:59", True),
        ("2026-11-16T04:00:00", False),
        ("2026-11-16T23:59:59", True),
        ("2026-11-17T00:29:59", True),
        ("2026-11-17T00:30:00", False),
        ("2026-11-18T02:00:00", False),
        ("2026-11-20T22:00:00", True),  # Friday's window goes on into Saturday
        ("2026-11-21T00:15:00", True),
        ("2026-11-21T02:00:00", False),
        ("2026-11-22T23:00:00", False),
        ("2026-11-23T00:15:00", False),
        ("2026-11-16T10:00:00+09:00", True),
        ("2026-11-16T13:00:00+09:00", False),
    ],
)
def test_a_line_with_times_goes_before_the_one_for_the_rest_of_the_time(
    at: str, peak: bool
) -> None:
    text = entry() + entry() + PEAK
    when = datetime.fromisoformat(at)
    line = book(text).find("acme", "ear-1", None, when if when.tzinfo else when.replace(tzinfo=UTC))
    assert line is not None
    assert (line.times is not None) is peak
    assert str(line).endswith("mon,tue,wed,thu,fri 01:00-04:00,22:00-00:30") is peak


def test_a_window_of_sunday_goes_on_into_monday() -> None:
    text = entry() + 'weekdays = ["sun"]\nhours = ["23:00-01:00"]\n'
    assert found(text, "ear-1", datetime(2026, 11, 16, 0, 59, tzinfo=UTC))
    assert not found(text, "ear-1", datetime(2026, 11, 15, 0, 59, tzinfo=UTC))


def test_a_later_line_ends_the_times_of_an_earlier_one() -> None:
    text = entry() + PEAK + entry(day="2026-06-01")
    at_peak = datetime(2026, 11, 16, 2, tzinfo=UTC)
    assert found(text, "ear-1", at_peak) == "2026-06-01 acme/ear-1"


def test_times_that_do_not_meet_may_stand_side_by_side() -> None:
    text = entry() + f"{WORKDAYS}\n" + entry() + 'weekdays = ["sat", "sun"]\n'
    assert (
        found(text, "ear-1", datetime(2026, 11, 21, tzinfo=UTC)) == "2026-01-01 acme/ear-1 sat,sun"
    )


def test_a_line_may_hold_several_measures_and_units() -> None:
    (line,) = book(
        entry()
        + 'per_million = { input_tokens = "2.50", output_tokens = 10 }\n'
        + 'per_hour = { call_seconds = "3" }\n'
        + 'per_unit = { characters = "0.00001" }\n'
    ).lines
    assert line.rates.by_unit == {
        "audio_seconds": Rate(Decimal("0.01"), 60),
        "input_tokens": Rate(Decimal("2.50"), 1_000_000),
        "output_tokens": Rate(Decimal(10), 1_000_000),
        "call_seconds": Rate(Decimal(3), 3600),
        "characters": Rate(Decimal("0.00001")),
    }


MULTIPLE = (
    without("per_minute")
    + '\nmultiples = { cache_write_tokens = { of = "input_tokens", factor = "1.25" } }\n'
)


def test_multiples_stand_beside_rates_and_are_found_for_every_tier() -> None:
    priced = book(entry() + MULTIPLE)
    for tier in (None, "flex"):
        (line,) = priced.find_multiples("Acme", "Ear-1", tier, NOVEMBER)
        assert line.multiples == {"cache_write_tokens": Multiple("input_tokens", Decimal("1.25"))}
        assert (priced.find("acme", "ear-1", tier, NOVEMBER) is not None) is (tier is None)


def test_case_does_not_matter() -> None:
    assert found(entry("Ear-1"), "EAR-1") == "2026-01-01 acme/ear-1"


def test_the_latest_price_in_force_is_found_and_none_before_the_first() -> None:
    text = entry(day="2026-11-16") + entry(day="2026-05-01") + entry(day="2026-11-15")
    assert found(text, "ear-1") == "2026-11-15 acme/ear-1"
    assert found(text, "ear-1", datetime(2026, 10, 1, tzinfo=UTC)) == "2026-05-01 acme/ear-1"
    assert found(text, "ear-1", datetime(2026, 4, 30, 23, tzinfo=UTC)) is None


def test_a_price_that_is_not_yet_in_force_leaves_the_pattern_s() -> None:
    assert found(entry("ear-1", "2027-01-01") + entry("*"), "ear-1") == "2026-01-01 acme/*"


def test_the_day_begins_at_midnight_utc_wherever_the_event_was() -> None:
    in_tokyo = datetime.fromisoformat("2026-01-01T08:59:59+09:00")
    assert found(entry(), "ear-1", in_tokyo) is None


@pytest.mark.parametrize("usd", ['"0.0048"', "0.0048"])
def test_prices_are_exact_whether_they_are_text_or_numbers(usd: str) -> None:
    (line,) = book(entry(usd=usd)).lines
    assert line.rates.by_unit == {"audio_seconds": Rate(Decimal("0.0048"), 60)}


@pytest.mark.parametrize("day", ["2026-01-01", '"2026-01-01"'])
def test_a_day_may_be_a_toml_date_or_text(day: str) -> None:
    (line,) = book(entry(day=day)).lines
    assert line.effective_from == date(2026, 1, 1)


MISTAKES = {
    "not TOML": ("[[price]", ["is not TOML", "line 1"]),
    "another table": ("[prices]\na = 1", ["only [[price]] entries"]),
    "price is no list": ("price = 3", ["only [[price]] entries"]),
    "entry is no table": ("price = [3]", ["entry 1: must be a table, not 3"]),
    "no vendor": (without("vendor"), ["vendor is missing"]),
    "no source": (without("source"), ["source is missing"]),
    "no day": (without("effective_from"), ["effective_from is missing"]),
    "no price": (without("per_minute"), ["one rate or more is needed in per_unit"]),
    "an empty table": (
        without("per_minute") + "\nper_million = {}",
        ["one rate or more is needed"],
    ),
    "rates and multiples": (
        entry() + 'multiples = { cache_write_tokens = { of = "input_tokens", factor = 2 } }',
        ["multiples in place of them"],
    ),
    "two rates of one unit": (
        entry() + 'per_hour = { audio_seconds = "1" }',
        ["audio_seconds has a second rate in per_hour"],
    ),
    "unknown unit": (
        entry() + 'per_million = { pages = "1" }',
        ["per_million.pages: is not a unit", "input_tokens, "],
    ),
    "time for what is no time": (
        without("per_minute") + '\nper_minute = { input_tokens = "1" }',
        ["per_minute.input_tokens is not a unit of time"],
    ),
    "hours for characters": (
        entry() + 'per_hour = { characters = "1" }',
        ["per_hour.characters is not a unit of time"],
    ),
    "a table as a number": (
        without("per_minute") + "\nper_million = 3",
        ["per_million: must be a table, not 3"],
    ),
    "a multiple as a number": (
        without("per_minute") + "\nmultiples = { cache_write_tokens = 2 }",
        ["multiples.cache_write_tokens: must be a table, not 2"],
    ),
    "a multiple of nothing known": (
        without("per_minute") + '\nmultiples = { cache_write_tokens = { of = "x", factor = 2 } }',
        ["multiples.cache_write_tokens.of: is not a unit: use input_tokens"],
    ),
    "a multiple of itself": (
        MULTIPLE.replace("input_tokens", "cache_write_tokens"),
        ["cache_write_tokens.of must be another unit"],
    ),
    "a negative factor": (
        MULTIPLE.replace('"1.25"', "-1"),
        ["multiples.cache_write_tokens.factor: must be greater than or equal to 0, not -1"],
    ),
    "unknown weekday": (entry() + 'weekdays = ["monday"]', ["'monday' is not one of mon, tue"]),
    "weekdays as text": (entry() + 'weekdays = "mon"', ["weekdays: must be a list"]),
    "no hours": (entry() + "hours = []", ["hours: must not be empty"]),
    "hours without minutes": (entry() + 'hours = ["1-4"]', ["'1-4' is not a window of hours"]),
    "hours past the day": (entry() + 'hours = ["20:00-25:00"]', ["is not a window"]),
    "hours as a number": (entry() + "hours = [1]", ["entry 1", "hours"]),
    "hours that meet": (entry() + 'hours = ["01:00-04:00", "03:00-05:00"]', ["meet others"]),
    "a window that meets tomorrow's": (
        entry() + 'hours = ["22:00-02:00", "01:00-04:00"]',
        ["meet others"],
    ),
    "an exception that is no day": (
        entry() + 'except_on = ["soon"]',
        ["except_on.0: must be a day such as 2026-11-01, not 'soon'"],
    ),
    "unknown field": (entry() + 'prize = "1"', ["prize is not known"]),
    "negative": (entry(usd='"-1"'), ["per_minute.audio_seconds", "'-1'"]),
    "not a number": (entry(usd='"cheap"'), ["per_minute.audio_seconds", "'cheap'"]),
    "not finite": (entry(usd='"Infinity"'), ["per_minute.audio_seconds: must be a finite number"]),
    "nan": (entry(usd="nan"), ["per_minute.audio_seconds: must be a finite number"]),
    "a boolean": (
        entry(usd="true"),
        ["per_minute.audio_seconds: must be a number from 0 on"],
    ),
    "not a day": (entry(day='"soon"'), ["effective_from", "soon"]),
    "a time": (entry(day="2026-01-01T10:00:00Z"), ["effective_from"]),
    "empty vendor": (entry().replace('"acme"', '" "'), ["vendor: must be text"]),
    "source is a number": (
        without("source") + "\nsource = 3",
        ["source: must be text"],
    ),
    "the same twice": (entry() + entry(), ["entry 2, acme/ear-1", "entry 1 already"]),
    "the same twice in another unit": (
        entry() + entry().replace("per_minute", "per_hour"),
        ["entry 2", "entry 1 already"],
    ),
    "the same times twice": (
        entry() + PEAK + entry() + f'{WORKDAYS}\nhours = ["03:59-05:00"]\n',
        ["entry 2", "entry 1 already", "at some of these times"],
    ),
    "a window that goes on into another's": (
        entry() + PEAK + entry() + 'weekdays = ["sat"]\nhours = ["00:00-01:00"]\n',
        ["entry 2", "at some of these times"],
    ),
    "the same multiples twice": (MULTIPLE + MULTIPLE, ["entry 2", "entry 1 already"]),
}


@pytest.mark.parametrize(("text", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_refused_with_file_and_entry(text: str, said: list[str]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        book(text)
    assert str(raised.value).startswith("mine.toml")
    assert all(part in str(raised.value) for part in said), str(raised.value)


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as raised:
        book(entry(usd='"x"') + entry("ear-2") + entry("ear-3", day='"y"'))
    first, second = str(raised.value).splitlines()
    assert first.startswith("mine.toml: entry 1, acme/ear-1: ")
    assert second.startswith("mine.toml: entry 3, acme/ear-3: ")


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read_is_a_configuration_error(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "mine.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"mine\.toml cannot be read"):
        PriceBook.load(file)


PAGES_ELSEWHERE = {"anthropic": "claude.com"}


def test_every_shipped_price_names_a_page_of_its_vendor() -> None:
    lines = PriceBook.shipped().lines
    assert {line.vendor for line in lines} >= {
        "openai", "deepgram", "cartesia", "elevenlabs", "deepseek",
    }  # fmt: skip
    for line in lines:
        page = urlsplit(line.source)
        assert page.scheme == "https"
        assert PAGES_ELSEWHERE.get(line.vendor, line.vendor) in (page.hostname or "")
        assert line.effective_from <= date(2026, 11, 30)
