"""The keys of numbers that ring: nobody presents one, so Unkey is asked for it by its id."""

from __future__ import annotations

import asyncio

import structlog
from cachetools import TTLCache

from flow.api.auth import WRITE_MAX_AGE_SECS
from flow.api.dependencies import Services
from flow.domain.limits.api_key import ApiKey
from flow.errors import FlowError, NotFound, Refused

log = structlog.get_logger(__name__)

MAX_KNOWN = 10_000
# Carriers give a webhook some seconds, and their caller hears it ring meanwhile.
ASK_SECS = 3.0


class NumberKeys:
    """Refuses the keys that Unkey would not let in.

    Args:
        known_secs: how long one that was good is not asked for again.
    """

    def __init__(self, known_secs: float = WRITE_MAX_AGE_SECS) -> None:
        self._good: TTLCache[str, bool] = TTLCache(MAX_KNOWN, known_secs)

    async def require_good(self, services: Services, key: ApiKey) -> None:
        """Raise `Refused` for a key that is disabled, expired or gone.

        While Unkey cannot say, what was set up goes on: the limits of the key are kept here.
        """
        if services.unkey is None or key.unkey_key_id in self._good:
            return
        try:
            async with asyncio.timeout(ASK_SECS):
                known = await services.unkey.get(key.unkey_key_id)
        except NotFound:
            raise Refused("invalid_api_key", "Unkey does not have the number's key.") from None
        except (FlowError, TimeoutError) as error:
            log.warning("number_key_not_checked", api_key_id=str(key.id), error=repr(error))
            return
        if not known.enabled:
            raise Refused("disabled_api_key", "The number's key is disabled.")
        if known.expires_at is not None and known.expires_at <= services.now():
            raise Refused("expired_api_key", "The number's key has expired.")
        self._good[key.unkey_key_id] = True
