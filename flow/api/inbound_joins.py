"""Joins by calling one of our numbers: on the number's key, and within its limits."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import structlog

from flow.api.agents import agent_of
from flow.api.dependencies import Services
from flow.api.joins import admitted
from flow.db.database import Joined
from flow.db.telephony import PhoneNumber
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.media_stream import CarriedCall
from flow.domain.limits.api_key import ApiKey
from flow.errors import FlowError, NotFound, Refused

log = structlog.get_logger(__name__)

ASK_SECS = 3.0
"""A carrier gives its webhook some seconds, and the caller hears it ring meanwhile."""


async def join_caller(
    services: Services, number: PhoneNumber, transport: str, call: CarriedCall
) -> Joined:
    """The thread of a caller, the same one however often the carrier asks about the call.

    Raises:
        Refused: the key is not good any more, or a limit of it, or its team, is reached.
        InvalidInput: what the number rings cannot be run.
    """
    await _require_good(services, number.key)
    name = f"{transport}:{call.call_id}"
    join = _join(number, transport)
    return await admitted(services, number.key, join, name, caller=call.caller, called=call.called)


async def language_of(services: Services, number: PhoneNumber) -> str | None:
    """The language of the bot that a number rings, as far as its agent says it."""
    with suppress(FlowError):
        agent = await agent_of(services, number.key, _join(number, ""))
        language = None if agent is None else (agent.definition.get("bot") or {}).get("language")
        return language if isinstance(language, str) else None
    return None


async def _require_good(services: Services, key: ApiKey) -> None:
    """Raise `Refused` for a key that Unkey would not let in: nobody presents it who could be told.

    While Unkey cannot say, what was set up goes on: the limits of the key are kept here.
    """
    if services.unkey is None:
        return
    try:
        async with asyncio.timeout(ASK_SECS):
            known = await services.unkey.get(key.unkey_key_id)
    except NotFound:
        raise Refused("invalid_api_key", "Unkey does not have the number's key any more.") from None
    except (FlowError, TimeoutError) as error:
        log.warning("number_key_not_checked", api_key_id=str(key.id), error=repr(error))
        return
    if not known.enabled:
        raise Refused("disabled_api_key", "The number's key is disabled.")
    if known.expires_at is not None and known.expires_at <= services.now():
        raise Refused("expired_api_key", "The number's key has expired.")


def _join(number: PhoneNumber, transport: str) -> JoinRequest:
    said: dict[str, Any] = {"transport": {"type": transport}}
    if number.agent is not None:
        said["agent"] = number.agent
    if number.product is not None:
        said["product"] = number.product
    return JoinRequest.model_validate(said)
