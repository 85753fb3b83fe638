"""Who may use ``/api/admin/``, what they may see there, and the record of what they changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated
from uuid import UUID

from fastapi import Query
from starlette.requests import Request

from flow.api.auth import require_permission
from flow.api.request_context import context_of, log_of
from flow.domain.limits.permissions import ADMIN, CONTENT

Cursor = Annotated[
    str | None, Query(max_length=1024, description="`next_cursor` of the page before.")
]
OfKey = Annotated[UUID | None, Query(alias="api_key_id", description="Only this key's.")]
OfTeam = Annotated[
    str | None, Query(alias="team_id", max_length=255, description="Only this team's.")
]
Search = Annotated[str | None, Query(min_length=1, max_length=255)]


async def require_operator(request: Request) -> None:
    """Raise `Refused`, ``insufficient_permissions``, unless the key is an operator's."""
    require_permission(request, ADMIN)


def may_see_content(request: Request) -> bool:
    """Whether the key may see what was said in the calls of others."""
    return CONTENT in context_of(request.scope).permissions


@contextmanager
def noted(request: Request, what: str, **about: object) -> Iterator[None]:
    """Log the change that an operator makes in the block, before it is made: none goes unlogged,
    whatever becomes of the process. One that fails is logged again.

    The key that makes it is in every line of a request.
    """
    log = log_of(request.scope)
    log.info("operator_change", change=what, **about)
    try:
        yield
    except BaseException as error:
        kind = type(error).__name__
        log.warning("operator_change_failed", change=what, error_type=kind, **about)
        raise
