"""Price books: what is read, what is refused, and what is found."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from flow.domain.price_book import PriceBook
from flow.domain.rates import UnitRate
from flow.domain.usage import Kind
from flow.errors import ConfigurationError

NOVEMBER = datetime(2026, 11, 15, 12, tzinfo=UTC)
ENTRY = """
[[price]]
vendor = "acme"
model = "{model}"
effective_from = {day}
per_audio_minute = {usd}
source = "https://acme.example/pricing"
"""


def entry(model: str = "ear-1", day: str = "2026-01-01", usd: str = '"0.01"') -> str:
    return ENTRY.format(model=model, day=day, usd=usd)


def book(text: str) -> PriceBook:
    return PriceBook.parse(text, name="test", where="mine.toml")


def found(text: str, model: str, at: datetime = NOVEMBER) -> str | None:
    line = book(text).find(Kind.STT, "acme", model, None, at)
    return str(line) if line else None


def test_an_exact_model_goes_before_a_pattern_and_a_long_pattern_before_a_short_one() -> None:
    text = entry("*") + entry("ear-1*") + entry("ear-1")
    assert found(text, "ear-1") == "2026-01-01 acme/ear-1"
    assert found(text, "ear-1-large") == "2026-01-01 acme/ear-1*"
    assert found(text, "nose") == "2026-01-01 acme/*"


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
    assert line.rates == UnitRate(Decimal("0.0048"), "audio_seconds", 60)


@pytest.mark.parametrize("day", ["2026-01-01", '"2026-01-01"'])
def test_a_day_may_be_a_toml_date_or_text(day: str) -> None:
    (line,) = book(entry(day=day)).lines
    assert line.effective_from == date(2026, 1, 1)


def without(name: str) -> str:
    return "\n".join(line for line in entry().splitlines() if not line.startswith(name))


MISTAKES = {
    "not TOML": ("[[price]", ["is not TOML", "line 1"]),
    "another table": ("[prices]\na = 1", ["only [[price]] entries"]),
    "price is no list": ("price = 3", ["only [[price]] entries"]),
    "entry is no table": ("price = [3]", ["entry 1", "not a table"]),
    "no vendor": (without("vendor"), ["vendor is missing"]),
    "no source": (without("source"), ["source is missing"]),
    "no day": (without("effective_from"), ["effective_from is missing"]),
    "no price": (without("per_audio_minute"), ["exactly one of", "not none"]),
    "two prices": (
        entry() + 'per_million_characters = "1"',
        ["per_audio_minute and per_million_characters"],
    ),
    "unknown field": (entry() + 'prize = "1"', ["prize is not known"]),
    "negative": (entry(usd='"-1"'), ["per_audio_minute", "'-1'"]),
    "not a number": (entry(usd='"cheap"'), ["per_audio_minute", "'cheap'"]),
    "not finite": (entry(usd='"Infinity"'), ["per_audio_minute"]),
    "nan": (entry(usd="nan"), ["per_audio_minute"]),
    "a boolean": (entry(usd="true"), ["per_audio_minute", "True"]),
    "not a day": (entry(day='"soon"'), ["effective_from", "soon"]),
    "a time": (entry(day="2026-01-01T10:00:00Z"), ["effective_from"]),
    "empty vendor": (entry().replace('"acme"', '" "'), ["vendor must be text"]),
    "source is a number": (
        without("source") + "\nsource = 3",
        ["source must be text"],
    ),
    "tokens without output": (
        without("per_audio") + '\nper_million_tokens = { input = "1" }',
        ["per_million_tokens.output is missing"],
    ),
    "unknown token rate": (
        without("per_audio") + "\nper_million_tokens = { input = 1, output = 2, cached = 1 }",
        ["per_million_tokens.cached is not known"],
    ),
    "tokens as a number": (
        without("per_audio") + "\nper_million_tokens = 3",
        ["per_million_tokens must be a table"],
    ),
    "the same twice": (entry() + entry(), ["entry 2 (line 9)", "entry 1 already"]),
    "the same twice in another unit": (
        entry() + entry().replace("per_audio_minute", "per_audio_hour"),
        ["entry 2", "entry 1 already"],
    ),
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
    assert first.startswith("mine.toml: entry 1 (line 2), acme/ear-1: ")
    assert second.startswith("mine.toml: entry 3 (line 16), acme/ear-3: ")


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read_is_a_configuration_error(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "mine.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"mine\.toml cannot be read"):
        PriceBook.load(file)


def test_every_shipped_price_names_a_page_of_its_vendor() -> None:
    lines = PriceBook.shipped().lines
    assert {line.vendor for line in lines} == {"openai", "deepgram", "cartesia", "elevenlabs"}
    for line in lines:
        page = urlsplit(line.source)
        assert page.scheme == "https"
        assert line.vendor in (page.hostname or "")
        assert line.effective_from <= date(2026, 11, 30)
