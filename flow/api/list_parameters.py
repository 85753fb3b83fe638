"""The query parameters that lists have in common."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from flow.db.pages import MAX_PAGE

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="How many at most.")]
Cursor = Annotated[
    str | None, Query(max_length=512, description="`next_cursor` of the page before.")
]
OfProduct = Annotated[str | None, Query(max_length=128, description="Only this product's.")]
