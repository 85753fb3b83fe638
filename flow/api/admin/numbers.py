"""Telephone numbers: what they ring, and on whose budget."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from flow.admin.numbers import number_form, put_number
from flow.api.admin.operators import noted
from flow.api.dependencies import services_of
from flow.api.exact_json import ExactJSONResponse
from flow.api.problems import documented
from flow.api.request_bodies import read, takes
from flow.errors import NotFound

router = APIRouter(prefix="/numbers")

_Text = Annotated[str, Field(min_length=1, max_length=128)]


class NumberChange(BaseModel):
    """What a number rings, and on whose budget. With neither agent nor product it only calls."""

    model_config = ConfigDict(extra="forbid")

    key: _Text = Field(description="A key, by its name or an id.")
    agent: _Text | None = Field(default=None, description="An agent of the key's team.")
    product: _Text | None = Field(default=None, description="Or a product, with its own bot.")


class Number(BaseModel):
    """A telephone number of the operator's."""

    number: str = Field(examples=["+4930123456"], description="As E.164 writes it.")
    agent: UUID | None = Field(description="The agent that it rings.")
    agent_name: str | None = Field(description="Its name.")
    product: str | None = Field(description="Or the product whose bot it rings.")
    api_key_id: UUID = Field(description="The key whose budget its calls are on.")
    key_name: str | None = Field(description="Its name.")
    team_id: str = Field(description="Its team, whose keys may call from the number.")
    created_at: datetime = Field(description="When it was added.")


class Numbers(BaseModel):
    """Numbers, in their order."""

    numbers: list[Number] = Field(description="The numbers.")


@router.get("", response_model=Numbers, responses=documented(422))
async def list_numbers(
    request: Request,
    team_id: Annotated[str | None, Query(max_length=255, description="Only this team's.")] = None,
) -> Response:
    """Every number."""
    found = await services_of(request).database.telephony.list_numbers(team_id)
    return ExactJSONResponse(Numbers(numbers=[Number(**number_form(one)) for one in found]))


@router.get("/{number}", response_model=Number, responses=documented(404))
async def get_number(request: Request, number: str) -> Response:
    """One number."""
    found = await services_of(request).database.telephony.find_number(number)
    if found is None:
        raise NotFound("This number is not known here.")
    return ExactJSONResponse(Number(**number_form(found)))


@router.put(
    "/{number}",
    response_model=Number,
    responses=documented(404, 409, 413, 415, 422),
    openapi_extra=takes(NumberChange),
)
async def change_number(request: Request, number: str) -> Response:
    """Add a number, or change what it rings."""
    change = await read(request, NumberChange)
    database = services_of(request).database
    key = str((await database.operating.get_api_key(change.key)).key.id)
    with noted(request, "number_changed", number=number, changed_key=key):
        added = await put_number(database, number, key, agent=change.agent, product=change.product)
    return ExactJSONResponse(Number(**number_form(added)))


@router.delete("/{number}", status_code=204, responses=documented(404))
async def remove_number(request: Request, number: str) -> Response:
    """Forget a number: whoever calls it is told that it is not in service."""
    with noted(request, "number_removed", number=number):
        if not await services_of(request).database.telephony.remove_number(number):
            raise NotFound("This number is not known here.")
    return Response(status_code=204)
