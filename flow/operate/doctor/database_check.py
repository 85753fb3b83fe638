"""The database: reachable, recent enough, up to date, and closed to everybody but the service."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from flow.app import database as store
from flow.db.inspection import Inspection, inspect
from flow.domain.webhooks.webhook import Delivery
from flow.errors import ConfigurationError, FlowError
from flow.operate.doctor.answers import ClockReading
from flow.operate.doctor.finding import Finding, ok, problem, warning
from flow.settings import Settings

NAME = "database"
OLDEST = 15
WEBHOOKS = 200


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found, and what other checks need of the database.

    Attributes:
        clock: the server's; ``None`` if it could not be asked.
        known_key: Unkey's id of some key that is in force.
        deliveries: the latest webhooks; ``None`` if they could not be read.
    """

    findings: list[Finding]
    clock: ClockReading | None = None
    known_key: str | None = None
    deliveries: list[Delivery] | None = None


async def look_at_database(settings: Settings) -> Looked:
    """Look at the database that the settings name. Makes and changes nothing."""
    try:
        store.require_existing(settings)
        place = store.place_of(settings)
    except ConfigurationError as error:
        return Looked([warning(NAME, *str(error).split(": ", 1))])
    try:
        if settings.database_url is not None:
            return await _looked(settings, place, settings.database_url.get_secret_value())
        if settings.supabase_url is not None:
            return await _read(settings, Looked([]), place)
        async with store.embedded(settings.data_dir) as url:
            return await _looked(settings, place, url)
    except FlowError as error:
        return Looked([problem(NAME, f"{place}: {error}", error.hint or _SEE)])


_SEE = "See that the address is right, the server runs, and lets this machine in."


async def _looked(settings: Settings, place: str, url: str) -> Looked:
    asked_at = datetime.now(UTC)
    seen = await inspect(url)
    took = (datetime.now(UTC) - asked_at).total_seconds()
    ahead = (seen.clock - asked_at).total_seconds() - took / 2
    looked = Looked(list(_judged(seen, place)), ClockReading("the database", ahead, took / 2))
    # An embedded database would be migrated by opening it, and any other not be of use.
    return looked if seen.pending or seen.barred else await _read(settings, looked, place)


async def _read(settings: Settings, looked: Looked, place: str) -> Looked:
    async with store.database_of(settings) as database:
        keys = (await database.operating.list_api_keys(revoked=False, limit=1)).items
        deliveries = [*(await database.webhooks.list(limit=WEBHOOKS)).items]
    known = next((one.key.unkey_key_id for one in keys), None)
    said = [] if looked.clock else [ok(NAME, f"{place} answers, and takes the service role key")]
    return Looked([*looked.findings, *said], looked.clock, known, deliveries)


def _judged(seen: Inspection, place: str) -> Iterator[Finding]:
    if int(seen.version.split(".")[0]) < OLDEST:
        cure = f"Use Postgres {OLDEST} or newer."
        yield problem(NAME, f"{place} is Postgres {seen.version}", cure)
    else:
        yield ok(NAME, f"{place} is Postgres {seen.version}")
    yield _migrations(seen)
    yield from _rights(seen)


def _migrations(seen: Inspection) -> Finding:
    name = "migrations"
    if seen.pending:
        said = f"{len(seen.pending)} are not applied, from {seen.pending[0]} on"
        return problem(name, said, "Apply them with `flow migrate`.")
    if seen.newer:
        said = f"a newer Flow has applied {', '.join(seen.newer)}"
        return warning(name, said, "Run the Flow that did, or a newer one.")
    return ok(name, "all applied")


def _rights(seen: Inspection) -> Iterator[Finding]:
    name = "database rights"
    if seen.open_tables:
        said = f"row-level security does not hold for {', '.join(seen.open_tables)}"
        cure = "Enable it, and revoke what anon and authenticated were granted on them."
        yield problem(name, said, cure)
    if seen.barred:
        said = f"{' and '.join(seen.barred)} may not call Flow's functions"
        yield problem(name, said, "Connect as the owner of the tables, or as service_role.")
    if not (seen.open_tables or seen.barred or seen.pending):
        role = "service_role" if seen.has_service_role else "the owner"
        yield ok(name, f"nobody but {role} reads Flow's tables")
