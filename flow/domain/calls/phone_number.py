"""Telephone numbers: what one is, and which of them may be dialled."""

from __future__ import annotations

import re
from collections.abc import Sequence

# ITU-T E.164: a country code that does not begin with 0, and 15 digits at most.
_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
_FORMATTING = re.compile(r"[\s().\-/]")


def is_number(text: str) -> bool:
    """Whether this is a number as E.164 writes it: ``+`` and 7 to 15 digits."""
    return _E164.fullmatch(text) is not None


def number_problem(text: str) -> str | None:
    """What is wrong with a number, and how it is to be written; ``None``: nothing."""
    if is_number(text):
        return None
    bare = _FORMATTING.sub("", text)
    if is_number(bare):
        return f"must be written without spaces and signs: {bare}"
    if bare.startswith("00") and is_number(f"+{bare[2:]}"):
        return f"must begin with +, not with 00: +{bare[2:]}"
    if bare.isdigit():
        return "must begin with + and the country code, such as +4930123456"
    return "must be a number such as +4930123456: +, the country code, and 7 to 15 digits in all"


def may_be_dialled(number: str, prefixes: Sequence[str]) -> bool:
    """Whether a number begins as the operator allows.

    Calls to far countries and to premium numbers are what stolen keys are used for, so nothing may
    be dialled that was not allowed. A SIP address has no country, and is nobody's to allow.
    """
    return is_number(number) and number.startswith(tuple(prefixes))
