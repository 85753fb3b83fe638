"""What all operator commands share: settings, outside services, and the output of one result."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from flow.errors import ConfigurationError, DatabaseUnavailable, InvalidInput

if TYPE_CHECKING:
    from rich.console import RenderableType

    from flow.db.database import Database
    from flow.settings import Settings
    from flow.vendors.posthog_api import PosthogProject
    from flow.vendors.unkey_admin import UnkeyAdmin


T = TypeVar("T")


def run(work: Callable[[Settings], Awaitable[None]]) -> None:
    """Do the work with this process's settings.

    Raises:
        FlowError: whatever the work raises; a wrong environment too.
    """
    from flow.settings import Settings

    async def with_settings() -> None:
        await work(Settings.read())

    work_quietly(with_settings())


def work_quietly(work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, whose log is of errors alone."""
    # Slow to import, and of no use to `flow --help`.
    import asyncio

    from flow.telemetry import logs as log

    # A terminal is for answers; what went wrong is told once, by the error that ends the command.
    log.set_up("error", "console", content=False)
    # psycopg has a level of its own, and would tell of each attempt to connect.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    return asyncio.run(work)


@asynccontextmanager
async def database_of(settings: Settings) -> AsyncIterator[Database]:
    """The database the settings name; an embedded one may be in use by a running service.

    Raises:
        ConfigurationError: there is none; it is not made.
        DatabaseUnavailable: it does not answer; says which one was asked.
    """
    from flow.app import database as store

    store.require_existing(settings)
    try:
        async with store.database_of(settings) as database:
            yield database
    except DatabaseUnavailable as error:
        where = f"It was looked for at {store.place_of(settings)}."
        raise DatabaseUnavailable(f"{error} {where}", hint=error.hint) from error


@asynccontextmanager
async def unkey_of(settings: Settings) -> AsyncIterator[UnkeyAdmin]:
    """Unkey, to manage keys with.

    Raises:
        ConfigurationError: there is no root key.
    """
    from flow.vendors.unkey_admin import UnkeyAdmin

    if settings.unkey_root_key is None:
        raise ConfigurationError(
            "UNKEY_ROOT_KEY is missing: make a root key in Unkey's dashboard, under Settings,"
            " Root Keys."
        )
    root_key = settings.unkey_root_key.get_secret_value()
    unkey = UnkeyAdmin(root_key, settings.unkey_api_id, settings.unkey_base_url)
    try:
        yield unkey
    finally:
        await unkey.aclose()


@asynccontextmanager
async def posthog_of(settings: Settings) -> AsyncIterator[PosthogProject]:
    """PostHog's project, to make dashboards in.

    Raises:
        ConfigurationError: the personal key or the project is not set.
    """
    from flow.vendors.posthog_api import PosthogProject, api_host

    if settings.posthog_personal_api_key is None:
        raise ConfigurationError(
            "POSTHOG_PERSONAL_API_KEY is missing: make a personal API key in PostHog under"
            " Settings, Personal API keys, with the scopes dashboard:write and insight:write."
        )
    if settings.posthog_project_id is None:
        raise ConfigurationError(
            "POSTHOG_PROJECT_ID is missing: it is the number in the address of the project's pages"
            " at PostHog."
        )
    project = PosthogProject(
        settings.posthog_personal_api_key.get_secret_value(),
        settings.posthog_project_id,
        api_host(settings.posthog_host),
    )
    try:
        yield project
    finally:
        await project.aclose()


def say(
    told: Any, as_json: bool, shown: Callable[[], RenderableType], *, value: str | None = None
) -> None:
    """Answer on standard output: as one JSON document, or as shown to a person.

    ``value``: what alone goes to anything but a terminal, such as ``$(flow webhooks secret KEY)``.
    """
    from flow.operate import json_output, tables

    if as_json:
        sys.stdout.write(json_output.document(told) + "\n")
    elif value is not None and not sys.stdout.isatty():
        sys.stdout.write(value + "\n")
    else:
        tables.console().print(shown())


def confirm(question: str) -> None:
    """Go on if the operator says yes.

    Raises:
        Abort: they say no.
        InvalidInput: nobody is at the terminal.
    """
    if not sys.stdin.isatty():
        raise InvalidInput("Nobody is there to ask: say --yes to revoke the key.")
    typer.confirm(question, abort=True, err=True)
