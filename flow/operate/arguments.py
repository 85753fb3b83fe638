"""Parsing of amounts, times, days and ids on the command line."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from uuid import UUID

from flow.errors import InvalidInput

# The database's bound on every amount.
_TOO_MUCH = Decimal(10) ** 12
_DIGITS = re.compile(r"\+?[0-9]{1,13}(\.[0-9]{0,18})?|\+?\.[0-9]{1,18}", re.ASCII)
_MAY_BE_SECRET = re.compile(r"[A-Za-z0-9]{16,}")
_SPAN = re.compile(r"([0-9]{1,6})([mhd])", re.ASCII)
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def amount(text: str, what: str) -> Decimal:
    """A plain decimal amount, 0 or more.

    Raises:
        InvalidInput: it is anything else: negative, an exponent, NaN, infinite, or too large.
    """
    try:
        value = Decimal(text.strip()) if _DIGITS.fullmatch(text.strip()) else None
    except InvalidOperation:
        value = None
    if value is None or value >= _TOO_MUCH:
        raise InvalidInput(
            f"{what} must be a plain amount from 0 up, such as 50 or 12.50, not {text!r}."
        )
    return value


def cap(text: str) -> Decimal:
    """A budget's cap in USD, above 0.

    Raises:
        InvalidInput: it is no amount; or it is 0, which in a budget means that there is no cap
            and might be meant as the opposite.
    """
    value = amount(text, "A budget's cap in USD")
    if value == 0:
        raise InvalidInput(
            "A budget of 0 would mean no cap at all: say --no-cap, or to let nothing through"
            " `flow keys quota TEAM concurrent_calls 0`."
        )
    return value


def day(text: str, what: str) -> date:
    """A day such as 2026-11-21.

    Raises:
        InvalidInput: there is no such day.
    """
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        raise InvalidInput(f"{what} must be a day such as 2026-11-21, not {text!r}.") from None


def later(text: str, what: str, now: datetime) -> datetime:
    """A time after ``now``, in UTC: a day is its first moment, no offset means UTC.

    Raises:
        InvalidInput: there is no such time, or it is over.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"{what} must be a time such as 2026-11-30T00:00:00Z, not {text!r}."
        ) from None
    if moment <= now:
        raise InvalidInput(f"{what} must be in the future: {text!r} is over.")
    return moment


def span(text: str, what: str) -> timedelta:
    """A length of time: minutes, hours or days, as in 90m, 24h, 7d.

    Raises:
        InvalidInput: it is none, or nothing.
    """
    found = _SPAN.fullmatch(text.strip())
    length = timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else timedelta(0)
    if not length:
        raise InvalidInput(f"{what} must be a length such as 90m, 24h or 7d, not {text!r}.")
    return length


def identifier(text: str, of: str) -> UUID:
    """The id of a thread or a webhook; ``of`` says which.

    Raises:
        InvalidInput: no id looks like that.
    """
    try:
        return UUID(text)
    except ValueError:
        # A key's secret, given by mistake, must not be repeated: it has a part as long.
        what = "That" if _MAY_BE_SECRET.search(text) else repr(text)
        raise InvalidInput(f"{what} is no id of {of}: it looks like a UUID.") from None
