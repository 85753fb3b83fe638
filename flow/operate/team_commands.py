"""The commands ``flow teams ...``: arguments, turned into one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flow.errors import InvalidInput
from flow.operate.command_context import database_of, run, say
from flow.operate.key_commands import AsJson

if TYPE_CHECKING:
    from flow.settings import Settings

teams = typer.Typer(name="teams", help="Limit what whole teams may spend.", no_args_is_help=True)


@teams.command()
def budget(
    team: Annotated[str, typer.Argument(help="The team.")],
    cap: Annotated[str | None, typer.Option(help="USD a month (UTC), of all its keys.")] = None,
    no_cap: Annotated[bool, typer.Option("--no-cap", help="Lift the cap for good.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a team's budget, or set its cap. A key's own budget holds beside it."""
    from flow.domain.limits.quota import BUDGET, Terms
    from flow.operate import arguments, tables
    from flow.operate.quota_admin import standing

    if cap is not None and no_cap:
        raise InvalidInput("--cap and --no-cap exclude each other.")
    cap_usd = arguments.cap(cap) if cap is not None else None

    async def work(settings: Settings) -> None:
        async with database_of(settings) as database:
            if cap_usd is not None or no_cap:
                await database.operating.set_team_quota(team, BUDGET, cap_usd)
            found = await standing(database, Terms(), team, BUDGET)
        told = [{"team_id": team_id, **state.to_json()} for team_id, state in found]
        say({"budgets": told}, as_json, lambda: tables.quotas(found))

    run(work)


@teams.callback()
def _group() -> None:
    """A group stays one with a single command in it."""
