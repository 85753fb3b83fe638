"""Joins by calling one of our numbers: on the number's key, and within its limits."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from flow.api.agents import agent_of
from flow.api.dependencies import Services
from flow.api.joins import admitted
from flow.db.database import Joined
from flow.db.telephony import PhoneNumber
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.media_stream import CarriedCall
from flow.errors import FlowError

LANGUAGE_SECS = 1.0


async def join_caller(
    services: Services, number: PhoneNumber, transport: str, call: CarriedCall
) -> Joined:
    """The thread of a caller, the same one however often the carrier asks about the call.

    Raises:
        Refused: a limit of the key, or its team, is reached.
        InvalidInput: what the number rings cannot be run.
    """
    name = f"{transport}:{call.call_id}"
    join = _join(number, transport)
    return await admitted(services, number.key, join, name, caller=call.caller, called=call.called)


async def language_of(services: Services, number: PhoneNumber) -> str | None:
    """The language of the bot that a number rings, as far as its agent says it, and soon."""
    with suppress(FlowError, TimeoutError):
        async with asyncio.timeout(LANGUAGE_SECS):
            agent = await agent_of(services, number.key, _join(number, ""))
        language = None if agent is None else (agent.definition.get("bot") or {}).get("language")
        return language if isinstance(language, str) else None
    return None


def _join(number: PhoneNumber, transport: str) -> JoinRequest:
    said: dict[str, Any] = {"transport": {"type": transport}}
    if number.agent is not None:
        said["agent"] = number.agent
    if number.product is not None:
        said["product"] = number.product
    return JoinRequest.model_validate(said)
