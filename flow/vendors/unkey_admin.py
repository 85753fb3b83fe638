"""Administration of keys at Unkey: creating, reading and revoking them.

Nothing here is retried: ``keys.createKey`` has no idempotency key, so a request that was sent again
could create a second key.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from flow.errors import (
    AuthUnavailable,
    ConfigurationError,
    FieldProblem,
    FlowError,
    InvalidInput,
    NotFound,
    Refused,
)
from flow.kit.tls import trusted
from flow.vendors.unkey_client import unkey_sdk

if TYPE_CHECKING:
    from unkey.py.errors import UnkeyError
    from unkey.py.models import KeyResponseData

TIME_LIMIT_SECS = 15.0
NO_API = "api_flow_doctor_there_is_none"

# What Unkey takes as an identity's external id, and the database as a team's id.
_TEAM = re.compile(r"[A-Za-z0-9_.-]{1,255}")
# The database's bound on a key's id; no id has anything else in it.
_KEY_ID = re.compile(r"[\x21-\x7e]{1,255}")
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A key just created. Unkey returns its secret only now."""

    unkey_key_id: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyDetails:
    """A key as Unkey keeps it. ``start`` is how its secret begins; all times are UTC.

    ``team_id`` is the external id of the identity it belongs to, as the service reads it: a key
    of no identity is a team of its own.
    """

    unkey_key_id: str
    start: str
    name: str | None
    team_id: str
    enabled: bool
    permissions: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


class UnkeyAdmin:
    """Manages the keys of one API at Unkey. Close it with `aclose`.

    Args:
        root_key: Unkey's root key; it needs ``api.*.create_key``, ``api.*.read_key`` and
            ``api.*.delete_key``, each for what it is used for.
        api_id: the API that new keys belong to; only `create` needs it.
        base_url: where Unkey is, when it is not Unkey's own cloud.
        time_limit_secs: how long one request may take.

    Every method may raise:
        Refused: ``root_key_unknown``, or ``root_key_permission``, which names the permission.
        AuthUnavailable: Unkey cannot be reached, fails, or answers with nonsense.
    """

    def __init__(
        self,
        root_key: str,
        api_id: str | None,
        base_url: str | None,
        *,
        time_limit_secs: float = TIME_LIMIT_SECS,
    ) -> None:
        self._api_id = api_id
        self._time_limit_secs = time_limit_secs
        # No redirects: the root key goes to the host it is meant for.
        self._http = httpx.AsyncClient(verify=trusted(), follow_redirects=False)
        self._sdk = unkey_sdk(
            root_key, base_url, self._http, timeout_ms=round(time_limit_secs * 1000)
        )

    async def create(
        self,
        *,
        team_id: str,
        name: str,
        prefix: str | None = "flow",
        expires_at: datetime | None = None,
        permissions: Sequence[str] = (),
        meta: Mapping[str, Any] | None = None,
    ) -> CreatedKey:
        """Make a key that belongs to ``team_id``, its identity's external id.

        Raises:
            ConfigurationError: there is no API to make it in, or Unkey does not know that API.
            InvalidInput: Unkey cannot take it like that; says what is wrong.
        """
        api_id = self._required_api_id()
        _check_team(team_id)
        request = self._sdk.keys.create_key_async(
            api_id=api_id,
            external_id=team_id,
            name=name,
            prefix=prefix or None,
            expires=None if expires_at is None else round(expires_at.timestamp() * 1000),
            permissions=list(permissions) or None,
            meta=meta,
            # The secret is to be known to its owner alone.
            recoverable=False,
        )
        perhaps = (
            f" It may have made the key {name!r} all the same, with a secret that nobody has:"
            " look for it in Unkey's dashboard and delete it."
        )
        data = (await self._answer(request, "create_key", api_id=api_id, perhaps=perhaps)).data
        if not (_KEY_ID.fullmatch(data.key_id) and data.key):
            raise AuthUnavailable(f"Unkey's answer makes no sense.{perhaps}")
        return CreatedKey(data.key_id, data.key)

    async def require_create(self) -> None:
        """Return when the root key may create keys in every API, which makes none.

        Unkey looks at the permission before it looks for the API, and there is none of this id.
        A root key that may create keys in one API alone is refused.
        """
        request = self._sdk.keys.create_key_async(api_id=NO_API)
        with suppress(ConfigurationError):
            await self._answer(request, "create_key", api_id=NO_API)

    async def get(self, unkey_key_id: str) -> KeyDetails:
        """What Unkey knows of a key.

        Raises:
            NotFound: Unkey has no such key, or has it no longer.
        """
        answer = await self._answer(self._sdk.keys.get_key_async(key_id=unkey_key_id), "read_key")
        return _details(answer.data)

    async def revoke(self, unkey_key_id: str) -> bool:
        """Delete a key at Unkey; ``False`` if Unkey had no such key, or has it no longer.

        It is refused from then on, everywhere within a minute. Never deleted "permanently":
        Unkey's own analytics and audit log of the key stay.
        """
        request = self._sdk.keys.delete_key_async(key_id=unkey_key_id, permanent=False)
        try:
            await self._answer(
                request, "delete_key", perhaps=" The key may be revoked or not: do it again."
            )
        except NotFound:
            return False
        return True

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def _required_api_id(self) -> str:
        if not self._api_id:
            raise ConfigurationError(
                "UNKEY_API_ID is missing: set it to the id (api_...) that Unkey's dashboard shows"
                " for the API whose keys these are."
            )
        return self._api_id

    async def _answer(
        self, request: Awaitable[T], permission: str, *, api_id: str = "", perhaps: str = ""
    ) -> T:
        """The answer, or an error of ours. ``perhaps``: what may be so when none came."""
        from unkey.py.errors import UnkeyError

        try:
            async with asyncio.timeout(self._time_limit_secs):
                return await request
        except UnkeyError as error:
            raise _error_of(error, permission, api_id, perhaps) from None
        except _NOT_SENT as error:
            raise AuthUnavailable(f"Unkey cannot be reached ({type(error).__name__}).") from None
        except (httpx.HTTPError, TimeoutError) as error:
            why = type(error).__name__
            raise AuthUnavailable(f"Unkey did not answer ({why}).{perhaps}") from None
        except Exception as error:
            # The SDK's errors have no common base, and their texts may hold the answer.
            why = type(error).__name__
            raise AuthUnavailable(f"Unkey's answer makes no sense ({why}).{perhaps}") from None


def _error_of(error: UnkeyError, permission: str, api_id: str, perhaps: str) -> FlowError:
    """What an answer other than 200 means. Never the answer's own text, but for a 400's."""
    from unkey.py.errors import NotFoundErrorResponse

    status = error.status_code
    if status == 404 and not isinstance(error, NotFoundErrorResponse):
        # Whoever answered was not Unkey, so a key is not known to be gone.
        return AuthUnavailable("What answers at UNKEY_BASE_URL is not Unkey (HTTP 404).")
    if status == 400:
        return InvalidInput("Unkey cannot take that.", _problems(error))
    if status == 401:
        return Refused("root_key_unknown", "Unkey does not know the root key in UNKEY_ROOT_KEY.")
    if status == 403:
        return Refused(
            "root_key_permission",
            f"The root key in UNKEY_ROOT_KEY lacks the permission api.*.{permission}:"
            " add it in Unkey's dashboard, under Settings, Root Keys.",
        )
    if status in (404, 412) and api_id:
        wrong = "does not exist" if status == 404 else "is not set up for keys"
        return ConfigurationError(f"The API {api_id!r} in UNKEY_API_ID {wrong} at Unkey.")
    if status == 404:
        return NotFound("Unkey has no such key.")
    if status == 429:
        return AuthUnavailable("Unkey limits this workspace's requests: try again in a minute.")
    if status < 400:
        return AuthUnavailable(f"Unkey's answer makes no sense (HTTP {status}).{perhaps}")
    return AuthUnavailable(f"Unkey failed (HTTP {status}).{perhaps if status >= 500 else ''}")


def _problems(error: UnkeyError) -> list[FieldProblem]:
    from unkey.py.errors import BadRequestErrorResponse

    if not isinstance(error, BadRequestErrorResponse):
        return []
    told = error.data.error
    found = [FieldProblem(one.location.removeprefix("body."), one.message) for one in told.errors]
    return found or [FieldProblem("request", told.detail)]


def _check_team(team_id: str) -> None:
    if not _TEAM.fullmatch(team_id):
        rule = "must be 1 to 255 letters, digits, '_', '.' or '-', which is what Unkey takes"
        raise InvalidInput("The team cannot be named like that.", [FieldProblem("team", rule)])


def _details(data: KeyResponseData) -> KeyDetails:
    return KeyDetails(
        unkey_key_id=data.key_id,
        start=data.start,
        name=data.name,
        team_id=(data.identity and data.identity.external_id) or data.key_id,
        enabled=data.enabled,
        permissions=tuple(sorted(data.permissions or ())),
        created_at=_moment(data.created_at),
        expires_at=_moment(data.expires) if data.expires else None,
        last_used_at=_moment(data.last_used_at) if data.last_used_at else None,
    )


def _moment(unix_ms: int) -> datetime:
    try:
        return datetime.fromtimestamp(unix_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        raise AuthUnavailable("Unkey's answer makes no sense: a time is out of range.") from None
