"""What a call can be sold as."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from flow.api.auth import caller_of
from flow.api.dependencies import Services, services_of
from flow.api.exact_json import ExactJSONResponse
from flow.api.problems import documented

router = APIRouter(prefix="/api/products", tags=["limits"])

_PRODUCT = {"name": "voice_bot", "billable": True, "max_duration_secs": 1800}


class ProductList(BaseModel):
    """The operator's products, as the products file has them."""

    products: list[dict[str, Any]] = Field(
        examples=[[_PRODUCT]], description="Every product, in the order of the file."
    )
    recording: bool = Field(description="Whether calls can be recorded here, as joins ask for it.")
    dials: list[str] = Field(
        examples=[["twilio"]], description="The transports by which calls can be placed here."
    )


@router.get("", response_model=ProductList, responses=documented())
async def list_products(request: Request) -> Response:
    """Every product: whether it is billed, which models it allows, and how far a call may go."""
    caller_of(request)
    services = services_of(request)
    products = [product.to_json() for product in services.products]
    return ExactJSONResponse(
        ProductList(
            products=products, recording=services.recordings is not None, dials=_dials(services)
        )
    )


def _dials(services: Services) -> list[str]:
    streams = services.transports.streams.values()
    if not services.dial_prefixes:
        return []
    return [calls.name for calls in streams if calls.dialler is not None]
