"""Unkey: whether it knows the root key, and what that may do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from flow.errors import AuthUnavailable, FlowError, NotFound, Refused
from flow.operate.doctor.answers import LIMIT_SECS
from flow.operate.doctor.finding import Finding, ok, problem, skipped, warning
from flow.settings import Settings
from flow.vendors.unkey_admin import UnkeyAdmin
from flow.vendors.unkey_client import Failure, UnkeyClient

NAME = "unkey"
# No secret of anybody's: nothing is found for it.
NO_KEY = "flow_doctor_there_is_no_such_key"
ROOT_KEYS = "Unkey's dashboard, under Settings, Root Keys"


async def unkey_findings(settings: Settings, known_key: str | None) -> list[Finding]:
    """What the root key may do, found out without making or changing a key.

    Args:
        known_key: Unkey's id of any key, to try to read.
    """
    if settings.unkey_root_key is None:
        local = "not used: one local key, for debugging, lets everybody in"
        return [skipped(NAME, local if settings.debug else "UNKEY_ROOT_KEY is not set")]
    root_key = settings.unkey_root_key.get_secret_value()
    may_verify = await _may_verify(root_key, settings.unkey_base_url)
    if may_verify.check == NAME:
        return [may_verify]
    async with _admin(settings, root_key) as unkey:
        others = await asyncio.gather(
            _may_create(unkey, settings.unkey_api_id), _may_read(unkey, known_key)
        )
    return [may_verify, *others]


@asynccontextmanager
async def _admin(settings: Settings, root_key: str) -> AsyncIterator[UnkeyAdmin]:
    unkey = UnkeyAdmin(
        root_key, settings.unkey_api_id, settings.unkey_base_url, time_limit_secs=LIMIT_SECS
    )
    try:
        yield unkey
    finally:
        await unkey.aclose()


async def _may_verify(root_key: str, base_url: str | None) -> Finding:
    """Whether it may verify keys; a finding about `NAME` itself leaves nothing else to ask."""
    client = UnkeyClient(root_key, base_url, clock=time.monotonic, wall_clock=time.time)
    try:
        async with asyncio.timeout(LIMIT_SECS):
            answer = await client.ask(NO_KEY)
    except TimeoutError:
        answer = Failure(f"no answer within {LIMIT_SECS:g} s")
    finally:
        await client.aclose()
    if not isinstance(answer, Failure):
        return ok(f"{NAME} verify", "the root key may verify keys")
    match answer.reason:
        case "http 401":
            cure = f"Set UNKEY_ROOT_KEY to a root key from {ROOT_KEYS}."
            return problem(NAME, "Unkey does not know the root key", cure)
        case "http 403":
            cure = f"Add api.*.verify_key to the key in UNKEY_ROOT_KEY: {ROOT_KEYS}."
            return problem(f"{NAME} verify", "the root key may not verify keys", cure)
    cure = "See UNKEY_BASE_URL and this machine's way out."
    return problem(NAME, f"Unkey gives no answer that is of use ({answer.reason})", cure)


async def _may_create(unkey: UnkeyAdmin, api_id: str | None) -> Finding:
    check = f"{NAME} create"
    if not api_id:
        cure = "Set UNKEY_API_ID to the id of the API (api_...) in Unkey's dashboard."
        return warning(check, "`flow keys create` has no API to make keys in", cure)
    try:
        await unkey.require_create()
    except Refused:
        said = "the root key may not create keys in every API"
        cure = f"It needs api.*.create_key, or api.{api_id}.create_key, for `flow keys create`."
        return warning(check, said, cure)
    except FlowError as error:
        return warning(check, str(error))
    return ok(check, "the root key may create keys")


async def _may_read(unkey: UnkeyAdmin, known_key: str | None) -> Finding:
    check = f"{NAME} read"
    if known_key is None:
        return skipped(check, "there is no key yet to read")
    try:
        await unkey.get(known_key)
    except NotFound:
        return skipped(check, "the key that was to be read is gone at Unkey")
    except Refused as error:
        return warning(check, "the root key may not read keys", str(error))
    except AuthUnavailable as error:
        return warning(check, str(error))
    return ok(check, "the root key may read keys")
