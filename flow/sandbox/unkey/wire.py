"""Unkey's requests and errors as they go over the wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from starlette.responses import JSONResponse, Response

_TITLES = {
    400: ("Bad Request", "application/invalid_input"),
    401: ("Unauthorized", "authentication/key_not_found"),
    403: ("Forbidden", "authorization/insufficient_permissions"),
    404: ("Not Found", "data/key_not_found"),
    429: ("Too Many Requests", "application/rate_limit_exceeded"),
    503: ("Service Unavailable", "application/service_unavailable"),
}
_UNEXPECTED = ("Internal Server Error", "application/unexpected_error")


class _Wire(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", strict=True)


class Cost(_Wire):
    """What a verification costs."""

    cost: Annotated[int, Field(ge=0)]


class LimitAsked(_Wire):
    """A rate limit to check."""

    name: str
    cost: int | None = None
    limit: int | None = None
    duration: int | None = None


class VerifyKey(_Wire):
    """Body of ``keys.verifyKey``."""

    key: Annotated[str, Field(min_length=1, max_length=512)]
    tags: list[str] | None = None
    permissions: str | None = None
    credits: Cost | None = None
    keyspaces: list[str] | None = None
    ratelimits: list[LimitAsked] | None = None
    migration_id: str | None = None


class Credits(_Wire):
    """How many verifications a key has left; ``None`` is no limit."""

    remaining: Annotated[int, Field(ge=0)] | None
    refill: dict[str, Any] | None = None


class LimitGiven(_Wire):
    """A rate limit to attach to a key; ``duration`` in milliseconds."""

    name: str
    limit: Annotated[int, Field(ge=1)]
    duration: Annotated[int, Field(ge=1000)]
    auto_apply: bool = False


class CreateKey(_Wire):
    """Body of ``keys.createKey``, with the bounds that Unkey's OpenAPI description names."""

    api_id: str
    prefix: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_]{1,16}$")] | None = None
    name: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    byte_length: Annotated[int, Field(ge=16, le=255)] = 16
    external_id: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,255}$")] | None = None
    meta: dict[str, Any] | None = None
    roles: list[str] = Field(default_factory=list)
    permissions: list[str] = Field(default_factory=list)
    expires: Annotated[int, Field(ge=0, le=4_102_444_800_000)] | None = None
    credits: Credits | None = None
    ratelimits: list[LimitGiven] = Field(default_factory=list)
    enabled: bool = True
    recoverable: bool = False


class NamedKey(_Wire):
    """Body of ``keys.getKey`` and ``keys.deleteKey``."""

    key_id: str
    decrypt: bool = False
    permanent: bool = False


class UpdateKey(_Wire):
    """Body of ``keys.updateKey``: what is left out stays, what is null is removed."""

    key_id: str
    name: str | None = None
    external_id: str | None = None
    meta: dict[str, Any] | None = None
    expires: int | None = None
    credits: Credits | None = None
    ratelimits: list[LimitGiven] | None = None
    enabled: bool = True
    roles: list[str] = Field(default_factory=list)
    permissions: list[str] = Field(default_factory=list)


def problem(
    status: int, detail: str, request_id: str, errors: Sequence[dict[str, str]] = ()
) -> Response:
    """An error in Unkey's envelope; its SDK expects 429 alone as ``application/problem+json``."""
    title, name = _TITLES.get(status, _UNEXPECTED)
    error: dict[str, Any] = {
        "detail": detail,
        "status": status,
        "title": title,
        "type": f"https://unkey.com/docs/errors/unkey/{name}",
    }
    if status == 400:
        error["errors"] = list(errors)
    return JSONResponse(
        {"meta": {"requestId": request_id}, "error": error},
        status,
        media_type="application/problem+json" if status == 429 else "application/json",
    )


def details(error: ValidationError) -> list[dict[str, str]]:
    """Each thing wrong with a request body."""
    return [
        {"location": ".".join(["body", *map(str, one["loc"])]), "message": one["msg"]}
        for one in error.errors(include_url=False, include_input=False)
    ]
