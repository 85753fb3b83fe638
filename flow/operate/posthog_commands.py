"""The command ``flow posthog dashboards``: arguments, turned into one call.

It imports what it needs when it runs, so that ``flow --help`` answers at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from flow.operate.command_context import database_of, posthog_of, run, say
from flow.operate.key_commands import AsJson

if TYPE_CHECKING:
    from flow.domain.limits.api_key import ApiKey
    from flow.settings import Settings

posthog = typer.Typer(name="posthog", help="See usage and cost at PostHog.", no_args_is_help=True)


@posthog.callback()
def _group() -> None:
    """See usage and cost at PostHog."""


@posthog.command()
def dashboards(
    key: Annotated[
        list[str] | None,
        typer.Option("--key", help="This key's too: its name or id; may be repeated."),
    ] = None,
    all_keys: Annotated[
        bool, typer.Option("--all", help="One for every key that is not revoked, too.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be made or changed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make the dashboard over all keys at PostHog, and those of keys, or bring them up to date.

    What has been made is found again by the last line of its description.
    """
    from flow.operate import posthog_tables
    from flow.operate.posthog_dashboards import dashboard_of, dashboard_over_all_keys, provision

    async def work(settings: Settings) -> None:
        async with posthog_of(settings) as project:
            keys = await _keys(settings, key or (), all_keys=all_keys)
            wanted = [dashboard_over_all_keys(), *map(dashboard_of, keys)]
            done = await provision(project, wanted, dry_run=dry_run)
        told = {"dry_run": dry_run, "dashboards": [posthog_tables.form(one) for one in done]}
        say(told, as_json, lambda: posthog_tables.dashboards(done, dry_run=dry_run))

    run(work)


async def _keys(settings: Settings, references: Sequence[str], *, all_keys: bool) -> list[ApiKey]:
    if not references and not all_keys:
        return []
    async with database_of(settings) as database:
        found = [(await database.operating.get_api_key(one)).key for one in references]
        if all_keys:
            page = await database.operating.list_api_keys(revoked=False)
            found += [one.key for one in reversed(page.items)]
    return list({one.id: one for one in found}.values())
