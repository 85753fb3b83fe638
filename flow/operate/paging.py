"""Lists that are longer than a page."""

from __future__ import annotations

from typing import Protocol, TypeVar

from flow.db.pages import MAX_PAGE, Page

T = TypeVar("T")


class ListPage(Protocol[T]):
    """Gets one page of a list."""

    async def __call__(self, *, limit: int, cursor: str | None) -> Page[T]:
        """The page that begins at ``cursor``."""
        ...


async def first(list_page: ListPage[T], limit: int) -> Page[T]:
    """The first ``limit`` items of a list, as one page, however many pages they come in."""
    items: list[T] = []
    cursor = None
    while True:
        page = await list_page(limit=min(MAX_PAGE, limit - len(items)), cursor=cursor)
        items += page.items
        cursor = page.next_cursor
        if cursor is None or len(items) >= limit:
            return Page(tuple(items), cursor)
