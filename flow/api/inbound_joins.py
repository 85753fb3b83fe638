"""Joins by calling one of our numbers: on the number's key, and within its limits."""

from __future__ import annotations

from typing import Any

from flow.api.dependencies import Services
from flow.api.joins import admitted
from flow.db.database import Joined
from flow.db.telephony import PhoneNumber
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.media_stream import CarriedCall


async def join_caller(
    services: Services, number: PhoneNumber, transport: str, call: CarriedCall
) -> Joined:
    """The thread of a caller, the same one however often the carrier asks about the call.

    Raises:
        Refused: a limit of the key, or its team, is reached.
        InvalidInput: what the number rings cannot be run.
    """
    name = f"{transport}:{call.call_id}"
    return await admitted(services, number.key, _join(number, transport), name)


def _join(number: PhoneNumber, transport: str) -> JoinRequest:
    said: dict[str, Any] = {"transport": {"type": transport}}
    if number.product is not None:
        said["product"] = number.product
    return JoinRequest.model_validate(said)
