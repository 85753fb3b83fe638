"""Days in a query."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any

from pydantic import BeforeValidator

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _is_a_day(text: Any) -> Any:
    # A number would be taken for seconds since 1970.
    if isinstance(text, str) and not _DAY.fullmatch(text):
        raise ValueError("must be a day as in 2026-11-21")
    return text


Day = Annotated[date, BeforeValidator(_is_a_day)]
"""A day as in ``2026-11-21``, of UTC."""
