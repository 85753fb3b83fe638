"""Opening and migrating the database that the settings name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import structlog

from flow.db.database import Database
from flow.db.transport import Transport
from flow.errors import ConfigurationError
from flow.settings import Settings

logger = structlog.get_logger(__name__)

SUPABASE_PAIR = "SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY go together: set both or neither."


def place_of(settings: Settings) -> str:
    """Which database the settings name, in words and without a password.

    Raises:
        ConfigurationError: ``DATABASE_URL`` is no connection string.
    """
    from flow.db.connection_url import shown

    if settings.database_url is not None:
        return f"{shown(settings.database_url.get_secret_value())} (DATABASE_URL)"
    if settings.supabase_url is not None:
        return f"{settings.supabase_url} (SUPABASE_URL)"
    return f"the embedded one in {_folder(settings.data_dir)}"


def require_existing(settings: Settings) -> None:
    """Refuse to make an embedded database where there is none: it would be empty.

    Raises:
        ConfigurationError: says which one was looked for, and what to do.
    """
    if settings.database_url or settings.supabase_url or settings.supabase_service_role_key:
        return
    folder = _folder(settings.data_dir)
    if not _is_database(folder):
        raise ConfigurationError(
            "There is no database: DATABASE_URL and SUPABASE_URL are not set, and no embedded one"
            f" is in {folder}. Set DATABASE_URL to your database, or FLOW_DATA_DIR to the folder"
            " that a service has run in; `flow serve` and `flow dev` make a new one."
        )


def _is_database(folder: Path) -> bool:
    """Whether initdb has been here: every server looks for this file."""
    return (folder / "PG_VERSION").exists()


def _folder(data_dir: Path) -> Path:
    return data_dir.expanduser().resolve() / "postgres"


@asynccontextmanager
async def embedded(data_dir: Path) -> AsyncIterator[str]:
    """The URL of the embedded Postgres of a data folder; the folder is logged for the operator."""
    from flow.db.embedded import embedded_postgres

    folder = _folder(data_dir)
    logger.info("embedded_database", folder=str(data_dir), new=not _is_database(folder))
    async with embedded_postgres(folder) as url:
        yield url


async def apply_migrations(url: str) -> list[str]:
    """Bring the database at ``url`` up to date; the versions applied."""
    from flow.db.migrations import migrate

    return await migrate(url)


async def migrate(settings: Settings) -> list[str]:
    """Bring the database the settings name up to date; the versions applied.

    Raises:
        ConfigurationError: Supabase is named, but no URL of its Postgres; or nothing is named, and
            there is no embedded database.
    """
    if settings.database_url is not None:
        return await apply_migrations(settings.database_url.get_secret_value())
    if settings.supabase_url is not None:
        raise ConfigurationError(
            "Migrations need DATABASE_URL, the direct connection string of the Supabase project;"
            " or apply them with `supabase db push`."
        )
    require_existing(settings)
    async with embedded(settings.data_dir) as url:
        return await apply_migrations(url)


async def _postgres(url: str) -> Transport:
    from flow.db.postgres_transport import PostgresTransport

    return await PostgresTransport.open(url)


@asynccontextmanager
async def database_of(settings: Settings) -> AsyncIterator[Database]:
    """The database the settings name: Postgres, Supabase, or one embedded in the data folder.

    The embedded one is brought up to date; the others' migrations are the operator's to apply.
    """
    async with database_and_url(settings) as (database, _):
        yield database


@asynccontextmanager
async def database_and_url(
    settings: Settings, wrap: Callable[[Transport], Transport] = lambda transport: transport
) -> AsyncIterator[tuple[Database, str | None]]:
    """`database_of`, and the URL of its Postgres; ``None`` if only Supabase's API is known.

    ``wrap`` may put another transport around that to the database.

    Raises:
        ConfigurationError: half of what Supabase needs is set.
        DatabaseUnavailable: it does not answer.
    """
    url = None
    async with AsyncExitStack() as stack:
        if settings.database_url is not None:
            url = settings.database_url.get_secret_value()
            transport: Transport = await _postgres(url)
        elif settings.supabase_url or settings.supabase_service_role_key:
            from flow.db.supabase_transport import SupabaseTransport

            if settings.supabase_url is None or settings.supabase_service_role_key is None:
                raise ConfigurationError(SUPABASE_PAIR)
            key = settings.supabase_service_role_key.get_secret_value()
            transport = await SupabaseTransport.open(settings.supabase_url, key)
        else:
            url = await stack.enter_async_context(embedded(settings.data_dir))
            await apply_migrations(url)
            transport = await _postgres(url)
        database = Database(wrap(transport))
        stack.push_async_callback(database.close)
        await database.ping()
        yield database, url
