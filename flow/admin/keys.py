"""Creating, changing and revoking keys, at Unkey and in the database together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from flow.db.database import Database
from flow.db.rows import KeyAccount
from flow.domain.products.save_mode import SaveMode
from flow.errors import FlowError, NotFound, Unavailable
from flow.vendors.unkey_admin import CreatedKey, KeyDetails, UnkeyAdmin


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to be created for ``team_id``, with its limits in the database."""

    team_id: str
    name: str
    prefix: str | None = "flow"
    expires_at: datetime | None = None
    permissions: Sequence[str] = ()
    cap_usd: Decimal | None = None
    save_mode: SaveMode | None = None


@dataclass(frozen=True, slots=True)
class Issued:
    """A key just made; its secret is nowhere else."""

    account: KeyAccount
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Described:
    """A key as the database and as Unkey know it; ``note`` says why Unkey's part is missing."""

    account: KeyAccount
    details: KeyDetails | None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Revoked:
    """A key that is over; ``at_unkey`` is false if Unkey had it no longer."""

    account: KeyAccount
    at_unkey: bool


async def issue(database: Database, unkey: UnkeyAdmin, asked: NewKey) -> Issued:
    """Make the key at Unkey and its row here: both, or neither.

    Raises:
        DatabaseUnavailable: the database does not answer; nothing was made.
        Unavailable: the row could not be written; says what became of the key.
        FlowError: what `UnkeyAdmin.create` raises; nothing was made, unless it says so.
    """
    await database.ping()
    made = await unkey.create(
        team_id=asked.team_id,
        name=asked.name,
        prefix=asked.prefix,
        expires_at=asked.expires_at,
        permissions=asked.permissions,
    )
    try:
        return Issued(await _written(database, made, asked), made.secret)
    # An operator who interrupts must not leave a key behind either.
    except BaseException as error:
        said = await _taken_back(database, unkey, made)
        why = str(error) if isinstance(error, FlowError) else type(error).__name__
        raise Unavailable(f"The key's row could not be written: {why} {said}") from error


async def _written(database: Database, made: CreatedKey, asked: NewKey) -> KeyAccount:
    key = await database.resolve_api_key(made.unkey_key_id, asked.team_id, asked.name)
    if asked.cap_usd is not None:
        await database.operating.set_budget(key.id, asked.cap_usd)
    if asked.save_mode is not None:
        await database.operating.set_save_mode(key.id, asked.save_mode)
    return await database.operating.get_api_key(str(key.id))


async def _taken_back(database: Database, unkey: UnkeyAdmin, made: CreatedKey) -> str:
    """Undo what was made of a key, and say what became of it."""
    key_id = made.unkey_key_id
    try:
        await unkey.revoke(key_id)
    except FlowError as error:
        return (
            f"Its key {key_id} at Unkey could not be revoked again ({error}) Nobody has its"
            " secret: delete it in Unkey's dashboard."
        )
    try:
        account = await database.operating.get_api_key(key_id)
        await database.operating.revoke_api_key(account.key.id)
    except NotFound:
        pass
    except FlowError:
        return (
            f"The key {key_id} was revoked again at Unkey; if `flow keys list` shows it, do"
            f" `flow keys revoke {key_id}`. Then try again."
        )
    return f"The key {key_id} was revoked again at Unkey: try again."


async def describe(database: Database, unkey: UnkeyAdmin | None, reference: str) -> Described:
    """A key in the database and at Unkey; Unkey being away, or not set up, is noted and no error.

    Raises:
        NotFound, Conflict: the reference is of no key, or of several.
    """
    account = await database.operating.get_api_key(reference)
    if unkey is None:
        return Described(account, None, "UNKEY_ROOT_KEY is not set: Unkey was not asked.")
    try:
        return Described(account, await unkey.get(account.key.unkey_key_id))
    except FlowError as error:
        return Described(account, None, str(error))


async def revoke(database: Database, unkey: UnkeyAdmin, account: KeyAccount) -> Revoked:
    """Revoke a key at Unkey and note it here; its usage stays, and its running calls go on.

    Raises:
        Unavailable: the key was revoked and the note is missing; says to do it again.
        FlowError: what `UnkeyAdmin.revoke` raises; nothing was changed, unless it says so.
    """
    # Unkey first: that is what keeps the key out.
    at_unkey = await unkey.revoke(account.key.unkey_key_id)
    try:
        return Revoked(await database.operating.revoke_api_key(account.key.id), at_unkey)
    except FlowError as error:
        raise Unavailable(
            f"Unkey refuses the key {account.key.unkey_key_id} from now on, but the database did"
            f" not take note: {error} Do it again."
        ) from error


async def set_limits(
    database: Database,
    api_key_id: UUID,
    *,
    cap_usd: Decimal | None,
    lift_cap: bool,
    override_until: datetime | None,
    end_override: bool,
) -> None:
    """Change the given fields of a key's budget, and keep the others."""
    if cap_usd is not None or lift_cap:
        await database.operating.set_budget(api_key_id, cap_usd)
    if override_until is not None or end_override:
        await database.operating.set_budget_override(api_key_id, override_until)
