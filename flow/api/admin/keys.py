"""Keys of all teams: listing, issuing, limiting and revoking them."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator
from starlette.requests import Request
from starlette.responses import Response

from flow.admin import json_forms
from flow.admin.keys import NewKey, describe, issue, revoke, set_limits
from flow.api.admin.operators import Cursor, OfTeam, Search, noted
from flow.api.auth import require_permission
from flow.api.dependencies import Services, services_of
from flow.api.exact_json import ExactJSONResponse
from flow.api.list_parameters import Limit
from flow.api.problems import documented
from flow.api.request_bodies import read, takes
from flow.db.database import Database
from flow.domain.limits.budget import Tier
from flow.domain.products.save_mode import SaveMode
from flow.domain.webhooks.public_url import problem_of
from flow.errors import FieldProblem, InvalidInput, Refused
from flow.vendors.unkey_admin import UnkeyAdmin

router = APIRouter(prefix="/keys")

_Usd = Annotated[
    Decimal,
    Field(gt=0, lt=10**12, max_digits=30, decimal_places=18, allow_inf_nan=False),
]


class KeyBudget(BaseModel):
    """What a key spent this month (UTC) and may spend, in USD; without a cap the tier is null.

    ``remaining_usd`` is the cap less what is spent; running calls hold ``reserved_usd`` of that.
    """

    tier: Tier | None = Field(examples=["ok"], description="How much of the budget is spent.")
    cap_usd: str | None = Field(examples=["50"], description="The budget of the month.")
    spent_usd: str = Field(examples=["8.8"], description="What is spent this month.")
    reserved_usd: str = Field(
        examples=["0.1"], description="What running calls hold beyond what they have spent."
    )
    remaining_usd: str | None = Field(examples=["41.2"], description="The cap less what is spent.")
    resets_at: datetime = Field(description="When the next month begins (UTC).")


class Key(BaseModel):
    """A key with its limits. A revoked one keeps its row and its ledger."""

    api_key_id: UUID = Field(description="The key's id here.")
    unkey_key_id: str = Field(description="The key's id at Unkey.")
    team_id: str = Field(examples=["acme"], description="The team of the key.")
    name: str | None = Field(examples=["Ada"], description="What people call it.")
    created_at: datetime = Field(description="When it was made.")
    revoked_at: datetime | None = Field(description="When it was revoked; null: it was not.")
    budget: KeyBudget = Field(description="What it may spend, and has spent.")
    override_until: datetime | None = Field(description="Until then the budget refuses nothing.")
    save_mode: SaveMode | None = Field(description="null: as the product says.")
    running_calls: int = Field(description="Those that wait for their caller too.")
    rates: dict[str, int] = Field(
        description="The key's own limits of requests to the gateway, by resource."
    )


class KeyAtUnkey(BaseModel):
    """A key as Unkey keeps it; ``start`` is how its secret begins."""

    enabled: bool = Field(description="Whether Unkey lets it in.")
    start: str = Field(description="How its secret begins.")
    name: str | None = Field(description="What people call it.")
    team_id: str = Field(description="The external id of its identity, which is the team.")
    permissions: list[str] = Field(description="What it may do.")
    created_at: datetime = Field(description="When it was made.")
    expires_at: datetime | None = Field(description="When it ends; null: never.")
    last_used_at: datetime | None = Field(description="When it was last verified; null: never.")


class KeyDetails(Key):
    """A key, and what Unkey says of it. ``unkey_note`` says why that is missing."""

    webhook_url: str | None = Field(description="Where the key's budget events go.")
    unkey: KeyAtUnkey | None = Field(description="What Unkey says of it; null: see the note.")
    unkey_note: str | None = Field(description="Why Unkey's part is missing.")


class IssuedKey(Key):
    """A key just made. Its ``secret`` is shown this once and stored nowhere."""

    secret: str = Field(description="What its requests are made with.")


class RevokedKey(Key):
    """A key that is over."""

    revoked_at_unkey: bool = Field(description="False: Unkey had it no longer.")


class KeyPage(BaseModel):
    """Keys, newest first. Give ``next_cursor`` back as ``cursor`` for the following page."""

    keys: list[Key] = Field(description="The keys of the page.")
    next_cursor: str | None = Field(description="Where the next page begins; null on the last.")


class KeyRequest(BaseModel):
    """A key to be made at Unkey."""

    model_config = ConfigDict(extra="forbid")

    team_id: str = Field(min_length=1, max_length=255, description="The team it belongs to.")
    name: str = Field(
        min_length=1, max_length=255, pattern=r"\S", description="What people call it."
    )
    prefix: str | None = Field(default="flow", max_length=16, description="How its secret begins.")
    expires_at: AwareDatetime | None = Field(
        default=None, description="When it ends; left out: never."
    )
    permissions: list[str] = Field(
        default=[], max_length=100, description="What else it may do, by Unkey's names."
    )
    budget_usd: _Usd | None = Field(default=None, description="USD a month (UTC).")
    save_mode: SaveMode | None = Field(
        default=None, description="When its calls are made cheaper; null: as the product says."
    )


class KeyChange(BaseModel):
    """What to change of a key. What is left out stays; null lifts it."""

    model_config = ConfigDict(extra="forbid")

    budget_usd: _Usd | None = Field(default=None, description="USD a month (UTC); null: no cap.")
    override_until: AwareDatetime | None = Field(
        default=None, description="Until then the budget refuses nothing."
    )
    save_mode: SaveMode | None = Field(default=None, description="null: as the product says.")
    webhook_url: str | None = Field(
        default=None,
        max_length=2048,
        description="Where the key's budget events go; null: to the call that spent it.",
    )

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError(f"name one of {', '.join(type(self).model_fields)}")
        return self


@router.get("", response_model=KeyPage, responses=documented(422))
async def list_keys(
    request: Request,
    limit: Limit = 50,
    cursor: Cursor = None,
    team_id: OfTeam = None,
    search: Annotated[Search, Query(description="A part of the name, or an id.")] = None,
    tier: Annotated[Tier | None, Query(description="Of the budget, this month.")] = None,
    revoked: Annotated[
        bool | None, Query(description="Only those that are revoked, or are not.")
    ] = None,
) -> Response:
    """Every key that was ever seen, with what it spent this month (UTC)."""
    page = await services_of(request).database.operating.list_api_keys(
        team_id=team_id, search=search, tier=tier, revoked=revoked, limit=limit, cursor=cursor
    )
    keys = [Key(**json_forms.account(one)) for one in page.items]
    return ExactJSONResponse(KeyPage(keys=keys, next_cursor=page.next_cursor))


@router.post(
    "",
    status_code=201,
    response_model=IssuedKey,
    responses=documented(413, 415, 422, 501),
    openapi_extra=takes(KeyRequest),
)
async def create_key(request: Request) -> Response:
    """Make a key at Unkey and its row here. It can be given no permission that yours lacks."""
    services = services_of(request)
    asked = await read(request, KeyRequest)
    for permission in asked.permissions:
        require_permission(request, permission)
    if asked.expires_at is not None:
        _require_future(services, "expires_at", asked.expires_at)
    new = NewKey(
        team_id=asked.team_id,
        name=asked.name,
        prefix=asked.prefix,
        expires_at=asked.expires_at,
        permissions=asked.permissions,
        cap_usd=asked.budget_usd,
        save_mode=asked.save_mode,
    )
    unkey = _unkey(services)
    with noted(request, "key_created", team_id=new.team_id, key_name=new.name):
        made = await issue(services.database, unkey, new)
    told = IssuedKey(**json_forms.account(made.account), secret=made.secret)
    return ExactJSONResponse(told, status_code=201)


@router.get("/{api_key_id:uuid}", response_model=KeyDetails, responses=documented(404))
async def get_key(request: Request, api_key_id: UUID) -> Response:
    """A key: its limits here, and what Unkey says of it."""
    return ExactJSONResponse(await _details(services_of(request), api_key_id))


@router.patch(
    "/{api_key_id:uuid}",
    response_model=KeyDetails,
    responses=documented(404, 413, 415, 422),
    openapi_extra=takes(KeyChange),
)
async def change_key(request: Request, api_key_id: UUID) -> Response:
    """Set a key's budget, lift it for a time, or set its save mode or the URL of its webhooks."""
    services = services_of(request)
    change = await read(request, KeyChange)
    _check(services, change)
    given = sorted(change.model_fields_set)
    with noted(request, "key_changed", changed_key=str(api_key_id), fields=given):
        await _change(services.database, api_key_id, change)
    return ExactJSONResponse(await _details(services, api_key_id))


@router.post("/{api_key_id:uuid}/revoke", response_model=RevokedKey, responses=documented(404, 501))
async def revoke_key(request: Request, api_key_id: UUID) -> Response:
    """Revoke a key for good: no new calls from within a minute on; its usage stays."""
    services = services_of(request)
    account = await services.database.operating.get_api_key(str(api_key_id))
    unkey = _unkey(services)
    with noted(request, "key_revoked", changed_key=str(api_key_id)):
        done = await revoke(services.database, unkey, account)
    told = RevokedKey(**json_forms.account(done.account), revoked_at_unkey=done.at_unkey)
    return ExactJSONResponse(told)


async def _change(database: Database, api_key_id: UUID, change: KeyChange) -> None:
    given = change.model_fields_set
    await set_limits(
        database,
        api_key_id,
        cap_usd=change.budget_usd,
        lift_cap="budget_usd" in given and change.budget_usd is None,
        override_until=change.override_until,
        end_override="override_until" in given and change.override_until is None,
    )
    if "save_mode" in given:
        await database.operating.set_save_mode(api_key_id, change.save_mode)
    if "webhook_url" in given:
        await database.webhooks.set_url(api_key_id, change.webhook_url)


async def _details(services: Services, api_key_id: UUID) -> KeyDetails:
    found = await describe(services.database, services.unkey, str(api_key_id))
    told: dict[str, Any] = json_forms.account(found.account)
    return KeyDetails(
        **told,
        webhook_url=await services.database.webhooks.url(api_key_id),
        unkey=None if found.details is None else KeyAtUnkey(**json_forms.details(found.details)),
        unkey_note=found.note,
    )


def _check(services: Services, change: KeyChange) -> None:
    if change.override_until is not None:
        _require_future(services, "override_until", change.override_until)
    if change.webhook_url is not None:
        private = services.allow_private_webhooks
        if (problem := problem_of(change.webhook_url, allow_private=private)) is not None:
            raise _invalid("webhook_url", problem)


def _require_future(services: Services, field: str, moment: datetime) -> None:
    if moment <= services.now():
        raise _invalid(field, "must be in the future")


def _invalid(field: str, message: str) -> InvalidInput:
    return InvalidInput("The request is not valid.", [FieldProblem(field, message)])


def _unkey(services: Services) -> UnkeyAdmin:
    if services.unkey is None:
        raise Refused(
            "unkey_not_set_up",
            "Keys are made and revoked at Unkey, which this server is not set up with: it runs in"
            " debug mode with one local key.",
        )
    return services.unkey
