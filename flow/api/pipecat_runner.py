"""The routes of Pipecat's own runner, for clients that know no others.

``POST /start`` is a join in the runner's words: every check of a join applies, and RTVI is spoken
unless the body says otherwise. Who follows the runner's convention finds the offers of a WebRTC
call at ``/sessions/{id}/api/offer``, with the key that ``/start`` was asked with.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from flow.api.call_connections import (
    Candidates,
    Offer,
    SdpAnswer,
    answer_offer,
    not_connectable,
    take_candidates,
)
from flow.api.dependencies import services_of
from flow.api.joins import begin, join_context, joined_answer
from flow.api.problems import documented
from flow.api.request_bodies import invalid, read, takes
from flow.domain.calls.join_request import JoinRequest
from flow.errors import FieldProblem, InvalidInput

router = APIRouter(tags=["calls"])

_EXAMPLES = {
    "usual": {
        "summary": "What startBotAndConnect() sends",
        "value": {"transport": "webrtc", "body": {"bot": {"greeting": "Good evening!"}}},
    }
}


class StartRequest(BaseModel):
    """What clients send to Pipecat's runner. ``body`` is a join: see ``POST /api/bot/join``.

    In ``body``, ``transport`` may say the rest of the transport, such as
    ``{"rtvi": {"allow": ["text"]}}``. ``createDailyRoom`` is another way to ask for ``daily``, and
    ``enableDefaultIceServers`` is taken and changes nothing.
    """

    model_config = ConfigDict(extra="forbid")

    transport: str | None = Field(default=None, description="webrtc, unless it is said here.")
    create_daily_room: StrictBool = Field(
        default=False, alias="createDailyRoom", description="Another way to ask for `daily`."
    )
    enable_default_ice_servers: StrictBool = Field(
        default=False, alias="enableDefaultIceServers", description="Changes nothing."
    )
    body: dict[str, Any] = Field(default_factory=dict, description="A join.")

    def join(self, context: dict[str, Any]) -> JoinRequest:
        """The join; its fields are named as they stand in the body of the request.

        Raises:
            InvalidInput: it is not valid.
        """
        try:
            return JoinRequest.model_validate(
                self.body | {"transport": self._transport()}, context=context
            )
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
            raise invalid({**each, "loc": ("body", *each["loc"])} for each in found) from None

    def _transport(self) -> Any:
        said = self.body.get("transport", {})
        if not isinstance(said, dict):
            return said
        asked = self.transport or ("daily" if self.create_daily_room else None)
        inside = said.get("type", asked)
        if asked is not None and inside != asked:
            said = f"is {inside!r}, but 'transport' asks for {asked!r}: leave one of them out"
            problem = FieldProblem("body.transport.type", said)
            raise InvalidInput("The request is not valid.", [problem])
        return {"rtvi": True} | said | {"type": inside or "webrtc"}


class StartAnswer(BaseModel):
    """What ``connect()`` of Pipecat's clients takes as it is.

    Of a WebSocket it is ``wsUrl`` alone, since its client refuses whatever else there is.
    """

    model_config = ConfigDict(extra="allow")

    sessionId: UUID | None = Field(default=None, description="The thread's id.")  # noqa: N815
    wsUrl: str | None = Field(  # noqa: N815
        default=None, description="Where to connect by WebSocket."
    )
    webrtcRequestParams: dict[str, Any] | None = Field(  # noqa: N815
        default=None, description="Where to send a WebRTC offer."
    )
    url: str | None = Field(default=None, description="Of a room, with a ``token``.")


@router.post(
    "/start",
    status_code=201,
    response_model=StartAnswer,
    responses={
        200: {"model": StartAnswer, "description": "This join was made before."},
        **documented(404, 409, 413, 415, 422),
    },
    openapi_extra=takes(StartRequest, _EXAMPLES, required=False),
)
async def start(request: Request) -> Response:
    """Make a thread, as a join does, and answer as Pipecat's runner."""
    services = services_of(request)
    is_empty = not await request.body()
    asked = StartRequest() if is_empty else await read(request, StartRequest)
    join = asked.join(join_context(services))
    joined, way = await begin(request, join)
    if way is None:
        raise not_connectable(joined.thread)
    made = services.transports.specs[join.transport.type].connect_params
    params = {"url": way["url"]} if made is None else made(way)
    if "wsUrl" not in params:
        params = {"sessionId": str(joined.thread.id)} | params
    return joined_answer(params, joined)


@router.post(
    "/sessions/{thread_id:uuid}/api/offer",
    response_model=SdpAnswer,
    responses=documented(404, 409, 413, 415, 422),
    openapi_extra=takes(Offer),
)
async def offer(request: Request, thread_id: UUID) -> Response:
    """The same as ``POST /api/bot/{thread_id}/offer``."""
    return await answer_offer(request, thread_id, None)


@router.patch(
    "/sessions/{thread_id:uuid}/api/offer",
    status_code=204,
    responses=documented(404, 409, 413, 415, 422),
    openapi_extra=takes(Candidates),
)
async def ice(request: Request, thread_id: UUID) -> Response:
    """The same as ``PATCH /api/bot/{thread_id}/offer``."""
    return await take_candidates(request, thread_id, None)
