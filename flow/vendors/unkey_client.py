"""A client of Unkey's key verification, over its SDK, whose answers are Flow's own types.

Every verdict on a key is an HTTP 200 (``valid`` and ``code`` tell); any other status is about
Unkey itself or our root key, and never lets a caller in.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import httpx

from flow.errors import Refused
from flow.kit.tls import trusted

if TYPE_CHECKING:
    from unkey.py import Unkey
    from unkey.py.models import V2KeysVerifyKeyResponseData

# The id columns of the database are bounded, and no id has control characters.
_PLAUSIBLE_ID = re.compile(r"[^\x00-\x1f\x7f]{1,256}")

# Unkey's codes (an open set) and what they are called here.
_REFUSALS: Mapping[str, tuple[str, str, int | None]] = {
    "NOT_FOUND": ("invalid_api_key", "The API key is not valid.", None),
    "EXPIRED": ("expired_api_key", "The API key has expired.", None),
    "DISABLED": ("disabled_api_key", "The API key is disabled.", None),
    "FORBIDDEN": ("insufficient_permissions", "The API key may not do this.", None),
    "INSUFFICIENT_PERMISSIONS": ("insufficient_permissions", "The API key may not do this.", None),
    "RATE_LIMITED": ("rate_limited", "The API key is over its rate limit.", 10),
    "USAGE_EXCEEDED": ("quota_exceeded", "The API key has no credits left.", 60),
}


@dataclass(frozen=True, slots=True)
class VerifiedKey:
    """A key Unkey called good at ``verified_at`` (seconds on the verifier's clock).

    ``team_id`` is the external id of the identity the key belongs to. A key of no identity is a
    team of its own: its ``team_id`` is its key id.
    """

    unkey_key_id: str
    team_id: str
    name: str | None
    permissions: frozenset[str]
    meta: Mapping[str, Any]
    verified_at: float


@dataclass(frozen=True, slots=True)
class Good:
    """The key is good, until ``expires_at`` (on the verifier's clock) at the latest."""

    key: VerifiedKey
    expires_at: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """Unkey refused the key."""

    code: str
    message: str
    retry_after_secs: int | None

    def error(self) -> Refused:
        """The refusal as an error of its own, to be raised to one caller."""
        return Refused(self.code, self.message, self.retry_after_secs)


@dataclass(frozen=True, slots=True)
class Failure:
    """Unkey gave no answer that can be relied on; ``transient`` if a retry may help."""

    reason: str
    transient: bool = False


Answer: TypeAlias = Good | Refusal | Failure


async def _require_boolean_verdict(response: httpx.Response) -> None:
    """Raise `ValueError` unless a good answer's verdict is true or false.

    The SDK would take "yes" and 1 for true; only what Unkey itself says lets somebody in.
    """
    if response.is_success:
        answer = json.loads(await response.aread())
        if not isinstance(answer["data"]["valid"], bool):
            raise ValueError("the verdict is neither true nor false")


def unkey_sdk(
    root_key: str, base_url: str | None, http: httpx.AsyncClient, *, timeout_ms: int
) -> Unkey:
    """Unkey's SDK over ``http``, which stays the caller's to close; it sends everything once."""
    # Slow to import, and of no use without a key source.
    from unkey.py import Unkey

    return Unkey(
        root_key=root_key,
        server_url=base_url,
        # Never used; the SDK would read every certificate authority once more for its own.
        client=httpx.Client(verify=trusted()),
        async_client=http,
        retry_config=None,
        timeout_ms=timeout_ms,
    )


class UnkeyClient:
    """Asks Unkey about one key at a time, without retries and without a time limit of its own.

    Args:
        root_key: Unkey's root key; it needs ``api.*.verify_key``.
        base_url: where Unkey is, when it is not Unkey's own cloud.
        clock: seconds that never go back.
        wall_clock: seconds since 1970; a key's own expiry is read against it.
    """

    def __init__(
        self,
        root_key: str,
        base_url: str | None,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        # No redirects: the root key goes to the host it is meant for. No retries of the SDK's
        # own: by default it makes 13 requests in 10 s.
        self._http = httpx.AsyncClient(
            verify=trusted(),
            follow_redirects=False,
            limits=httpx.Limits(max_connections=100, keepalive_expiry=30),
            event_hooks={"response": [_require_boolean_verdict]},
        )
        self._sdk = unkey_sdk(root_key, base_url, self._http, timeout_ms=10_000)

    async def ask(self, secret: str) -> Answer:
        """Verify the key at Unkey now. Takes none of the key's credits."""
        from unkey.py.errors import UnkeyError

        asked_at = self._clock()
        try:
            answer = await self._sdk.keys.verify_key_async(key=secret, credits={"cost": 0})
            return self._read(answer.data, asked_at)
        except UnkeyError as error:
            status = error.status_code
            return Failure(f"http {status}", transient=status >= 500)
        except httpx.TransportError as error:
            return Failure(type(error).__name__, transient=True)
        except Exception as error:
            # The SDK's errors have no common base. None of them may let a caller in.
            return Failure(type(error).__name__)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def _read(self, data: V2KeysVerifyKeyResponseData, asked_at: float) -> Answer:
        code = str(getattr(data.code, "value", data.code))
        if data.valid != (code == "VALID"):
            return Failure("contradictory answer")
        if not data.valid:
            return Refusal(
                *_REFUSALS.get(code, ("invalid_api_key", "The API key was refused.", None))
            )
        return self._read_good(data, asked_at)

    def _read_good(self, data: V2KeysVerifyKeyResponseData, asked_at: float) -> Answer:
        key_id = data.key_id or ""
        team_id = (data.identity and data.identity.external_id) or key_id
        if not all(_PLAUSIBLE_ID.fullmatch(text) for text in (key_id, team_id)):
            return Failure("implausible answer")
        left = math.inf if not data.expires else data.expires / 1000 - self._wall_clock()
        if left <= 0 or data.enabled is False:
            return Failure("contradictory answer")
        name = data.name if data.name and _PLAUSIBLE_ID.fullmatch(data.name) else None
        permissions = frozenset(data.permissions or ())
        key = VerifiedKey(key_id, team_id, name, permissions, data.meta or {}, asked_at)
        return Good(key, expires_at=asked_at + left)
