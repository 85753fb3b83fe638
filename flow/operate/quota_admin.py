"""Teams' quotas: how far each is used, and what is counted against them."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from flow.db.database import Database
from flow.domain.limits.quota import LimitState, Terms
from flow.domain.products.product_file import read_products
from flow.operate import arguments

NO_LIMIT = "none"


def terms_of(products_file: Path | None) -> Terms:
    """Which products' costs count against which credits.

    Raises:
        ConfigurationError: the operator's product file has mistakes.
    """
    # Slow to import, and needed for this alone.
    from flow.bot.vendors import vendors_by_part

    return Terms(buckets=read_products(products_file, vendors_by_part()).buckets())


def read_limit(text: str) -> Decimal | None:
    """Parse a limit; ``none`` is ``None``.

    Raises:
        InvalidInput: it is no plain amount from 0 up.
    """
    if text.strip().lower() == NO_LIMIT:
        return None
    return arguments.amount(text, f"A quota (or {NO_LIMIT!r})")


async def standing(
    database: Database, terms: Terms, team_id: str, resource: str | None = None
) -> list[tuple[str, LimitState]]:
    """The team's quotas, or the one of ``resource``, and how far each is used."""
    found = await database.operating.list_team_quotas(team_id, terms)
    return [(team, state) for team, state in found if resource in (None, state.resource)]
