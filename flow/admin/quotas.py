"""Setting of teams' quotas."""

from __future__ import annotations

from decimal import Decimal

from flow.db.database import Database
from flow.domain.limits.quota import BUDGET, CALL_SECONDS, CONCURRENT_CALLS, Terms
from flow.errors import InvalidInput


async def set_quota(
    database: Database, terms: Terms, team_id: str, resource: str, limit: Decimal | None
) -> None:
    """Set what a team may use of a resource; ``None`` lifts the limit.

    Raises:
        InvalidInput: nothing is ever counted against that resource, so that it would limit nobody.
    """
    known = (*terms.buckets, BUDGET, CALL_SECONDS, CONCURRENT_CALLS)
    # A limit left over from a product that is gone can still be lifted.
    if limit is not None and resource not in known:
        raise InvalidInput(
            f"There is nothing to limit called {resource!r}: use {', '.join(known)}."
        )
    await database.operating.set_team_quota(team_id, resource, limit)
