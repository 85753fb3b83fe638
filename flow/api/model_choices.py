"""What a join can choose: vendors and models for each part of a bot."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from flow.api.auth import caller_of
from flow.api.dependencies import Services, services_of
from flow.api.exact_json import ExactJSONResponse
from flow.api.problems import documented
from flow.domain.calls.bot_part import BotPart
from flow.domain.calls.join_request import Bot, JoinRequest, Realtime
from flow.errors import InvalidInput, Refused

router = APIRouter(prefix="/api/models", tags=["limits"])


class DefaultModel(BaseModel):
    """What is used where a join names nothing for a part."""

    provider: str = Field(examples=["openai"], description="The vendor.")
    model: str = Field(examples=["gpt-4.1"], description="The vendor's model.")
    voice: str | None = Field(default=None, description="Of a part that speaks.")


class VendorModels(BaseModel):
    """A vendor that can be named for a part."""

    provider: str = Field(examples=["openai"], description="The vendor.")
    models: list[str] = Field(
        examples=[["gpt-4.1", "gpt-4.1-mini"]],
        description="Those whose price is known; the vendor may have others.",
    )
    voices: list[str] | None = Field(description="All that it has, where that is known.")


class PartModels(BaseModel):
    """What can be named for one part of a bot."""

    default: DefaultModel | None = Field(
        description="What a join gets that says nothing of the part; without it there is none."
    )
    vendors: list[VendorModels] = Field(description="Those that are set up, by name.")


class ModelList(BaseModel):
    """What a join can name for each part of its ``bot``."""

    product: str = Field(examples=["voice_bot"], description="The product of the join.")
    parts: dict[BotPart, PartModels] = Field(description="By the part of the bot.")


@router.get("", response_model=ModelList, responses=documented(403, 422))
async def list_models(
    request: Request,
    product: Annotated[str, Query(max_length=128, description="A product that has calls.")] = (
        "voice_bot"
    ),
) -> Response:
    """The vendors that are set up here, with their models and voices, and what is used unless
    a join says otherwise."""
    caller_of(request)
    services = services_of(request)
    found = services.products.for_call(product)
    parts = {
        part: PartModels(
            default=_default(services, found.name, part),
            vendors=[
                VendorModels(
                    provider=one.name,
                    models=list(one.models),
                    voices=None if one.voices is None else list(one.voices),
                )
                for one in services.models.of(found, part)
            ],
        )
        for part in BotPart
    }
    return ExactJSONResponse(ModelList(product=found.name, parts=parts))


def _default(services: Services, product: str, part: BotPart) -> DefaultModel | None:
    """What a join that says nothing of the part gets, if there is something."""
    bot = Bot(realtime=Realtime()) if part is BotPart.REALTIME else Bot()
    try:
        resolved = services.calls.check(JoinRequest(product=product, bot=bot)).bot
    except (Refused, InvalidInput):
        return None
    chosen = getattr(resolved, part)
    return DefaultModel(
        provider=chosen.provider, model=chosen.model, voice=getattr(chosen, "voice", None)
    )
