"""The commands ``flow webhooks ...`` and ``flow keys webhook``: arguments, turned into calls.

Each command imports what it needs when it runs, so that ``flow --help`` answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from flow.errors import InvalidInput
from flow.operate.command_context import database_of, run, say
from flow.operate.key_commands import AsJson, Key, keys

if TYPE_CHECKING:
    from flow.db.database import Database
    from flow.settings import Settings

webhooks = typer.Typer(
    name="webhooks",
    help="See what customers were told, and send it again.",
    no_args_is_help=True,
)

Dead = Annotated[bool, typer.Option("--dead", help="Only those that were given up.")]
OfKey = Annotated[str | None, typer.Option("--key", help="Only this key's.")]
MOST = 10_000


@webhooks.command("list")
def list_(
    dead: Dead = False,
    key: OfKey = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST, help="How many, the newest first.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List webhooks and how far each has got."""
    from flow.admin import json_forms
    from flow.operate import webhook_tables

    async def work(settings: Settings) -> None:
        async with database_of(settings) as database:
            page = await database.webhooks.list(
                api_key_id=await _id_of(database, key), dead=dead, limit=limit
            )
        found = page.items
        told = {"webhooks": [json_forms.delivery(one) for one in found]}
        say(told, as_json, lambda: webhook_tables.deliveries(found))

    run(work)


@webhooks.command()
def show(
    webhook: Annotated[str, typer.Argument(help="Its id, as in the header webhook-id.")],
    as_json: AsJson = False,
) -> None:
    """Show one webhook, with its payload and attempts."""
    from flow.admin import json_forms
    from flow.operate import arguments, webhook_tables

    asked = arguments.identifier(webhook, "a webhook")

    async def work(settings: Settings) -> None:
        async with database_of(settings) as database:
            found = await database.webhooks.get(asked)
        say(json_forms.delivery(found), as_json, lambda: webhook_tables.delivery(found))

    run(work)


@webhooks.command()
def replay(
    webhook: Annotated[
        str | None, typer.Argument(help="The id of a dead or delivered one.")
    ] = None,
    dead: Annotated[bool, typer.Option("--dead", help="All that were given up.")] = False,
    key: OfKey = None,
    as_json: AsJson = False,
) -> None:
    """Send again, under the same id: one webhook, or all that were given up."""
    from flow.admin import json_forms
    from flow.operate import arguments, webhook_tables

    if (webhook is None) != dead:
        raise InvalidInput("Say which webhook to send again: its id, or --dead for all dead ones.")
    if webhook is not None and key is not None:
        raise InvalidInput("--key goes with --dead.")
    asked = None if webhook is None else arguments.identifier(webhook, "a webhook")

    async def work(settings: Settings) -> None:
        async with database_of(settings) as database:
            if asked is not None:
                found = await database.webhooks.replay(asked)
                say(json_forms.delivery(found), as_json, lambda: webhook_tables.delivery(found))
                return
            count = await database.webhooks.replay_dead(await _id_of(database, key))
        say({"replayed": count}, as_json, lambda: webhook_tables.replayed(count))

    run(work)


@webhooks.command()
def secret(
    key: Key,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Make a new one; the old signs too for 24 hours.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what signs a key's webhooks; its receivers verify with it."""
    from flow.domain.webhooks.webhook import SECRET_OVERLAP
    from flow.operate import webhook_tables
    from flow.vendors.webhook_signing import new_secret

    async def work(settings: Settings) -> None:
        async with database_of(settings) as database:
            found = await database.operating.get_api_key(key)
            if rotate:
                held = await database.webhooks.rotate_secret(
                    found.key.id, new_secret(), SECRET_OVERLAP
                )
            else:
                held = await database.webhooks.secrets(found.key.id, new_secret())
        told = {
            "api_key_id": found.key.id,
            "secret": held.current,
            "previous_secret": held.previous,
            "previous_until": held.previous_until,
        }
        say(told, as_json, lambda: webhook_tables.secrets(held))

    run(work)


@keys.command("webhook")
def webhook_url(
    key: Key,
    url: Annotated[str | None, typer.Option(help="https:// at a public host.")] = None,
    none: Annotated[bool, typer.Option("--none", help="Take it away.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show or set where a key's budget events go; without a URL, to the call that spent it."""
    from flow.domain.webhooks.public_url import problem_of
    from flow.operate import webhook_tables

    if url is not None and none:
        raise InvalidInput("--url and --none exclude each other.")

    async def work(settings: Settings) -> None:
        private = settings.may_reach_private
        if url is not None and (said := problem_of(url, allow_private=private)) is not None:
            raise InvalidInput(f"--url {said}.")
        async with database_of(settings) as database:
            found = await database.operating.get_api_key(key)
            if url is not None or none:
                await database.webhooks.set_url(found.key.id, url)
            set_to = await database.webhooks.url(found.key.id)
        told = {"api_key_id": found.key.id, "webhook_url": set_to}
        say(told, as_json, lambda: webhook_tables.url(set_to))

    run(work)


async def _id_of(database: Database, key: str | None) -> UUID | None:
    return None if key is None else (await database.operating.get_api_key(key)).key.id
