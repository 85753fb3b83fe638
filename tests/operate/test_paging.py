"""Lists of the command line, which may be longer than a page."""

from __future__ import annotations

import pytest

from flow.db.pages import MAX_PAGE, Page, check_limit
from flow.operate.paging import first

ITEMS = range(2 * MAX_PAGE + 50)


async def list_page(*, limit: int, cursor: str | None) -> Page[int]:
    """Counts, a page at a time."""
    check_limit(limit)
    start = int(cursor or 0)
    end = start + limit
    return Page(tuple(ITEMS[start:end]), str(end) if end < len(ITEMS) else None)


@pytest.mark.parametrize("limit", [1, MAX_PAGE, MAX_PAGE + 1, len(ITEMS) - 1, len(ITEMS), 10_000])
async def test_so_many_are_listed_and_whether_there_are_more_is_known(limit: int) -> None:
    found = await first(list_page, limit)
    assert found.items == tuple(ITEMS[:limit])
    assert (found.next_cursor is not None) == (limit < len(ITEMS))
