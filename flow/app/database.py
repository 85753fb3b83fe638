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


@asynccontextmanager
async def embedded(data_dir: Path) -> AsyncIterator[str]:
    """The URL of the embedded Postgres of a data folder; the folder is logged for the operator."""
    from flow.db.embedded import embedded_postgres

    logger.info("embedded_database", folder=str(data_dir))
    async with embedded_postgres(data_dir / "postgres") as url:
        yield url


async def apply_migrations(url: str) -> list[str]:
    """Bring the database at ``url`` up to date; the versions applied."""
    from flow.db.migrations import migrate

    return await migrate(url)


async def migrate(settings: Settings) -> list[str]:
    """Bring the database the settings name up to date; the versions applied.

    Raises:
        ConfigurationError: Supabase is named, but no URL of its Postgres.
    """
    if settings.database_url is not None:
        return await apply_migrations(settings.database_url.get_secret_value())
    if settings.supabase_url is not None:
        raise ConfigurationError(
            "Migrations need DATABASE_URL, the direct connection string of the Supabase project;"
            " or apply them with `supabase db push`."
        )
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
    """
    url = None
    async with AsyncExitStack() as stack:
        if settings.database_url is not None:
            url = settings.database_url.get_secret_value()
            transport: Transport = await _postgres(url)
        elif settings.supabase_url and settings.supabase_service_role_key:
            from flow.db.supabase_transport import SupabaseTransport

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
