"""Reading what a key asked the gateway for, and what that cost."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from flow.api.auth import caller_of
from flow.api.dependencies import services_of
from flow.api.exact_json import ExactJSONResponse
from flow.api.list_parameters import Cursor, Limit, OfProduct
from flow.api.problems import documented
from flow.api.threads import LEDGER_ROW

router = APIRouter(prefix="/api/requests", tags=["gateway"])

_REQUEST = {**LEDGER_ROW, "source": "gateway", "request_id": "5f0c7b0e9d5c4f0f8a54d4f4a5a7c6de"}


class RequestPage(BaseModel):
    """Rows of the ledger, newest first, as in a thread's usage. Give ``next_cursor`` back as
    ``cursor`` for the following page.

    A request that was tried several times has a row for each attempt, with the same
    ``request_id``: the ``X-Request-Id`` of its answer, whose ``X-Flow-Event-Id`` is the ``id``.
    """

    requests: list[dict[str, Any]] = Field(
        examples=[[_REQUEST]], description="The rows of the page."
    )
    next_cursor: str | None = Field(description="Where the next page begins; null on the last.")


@router.get("", response_model=RequestPage, responses=documented(422))
async def list_requests(
    request: Request,
    limit: Limit = 50,
    cursor: Cursor = None,
    product: OfProduct = None,
) -> Response:
    """The key's requests to the gateway, newest first, each with what it used and cost."""
    page = await services_of(request).database.list_requests(
        caller_of(request).id, limit=limit, cursor=cursor, product=product
    )
    return ExactJSONResponse(RequestPage(requests=list(page.items), next_cursor=page.next_cursor))
