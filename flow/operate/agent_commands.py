"""The commands ``flow agents ...``: arguments, turned into calls.

Each command imports what it needs when it runs, so that ``flow --help`` answers at once.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flow.errors import InvalidInput
from flow.operate.command_context import database_of, run, say
from flow.operate.key_commands import AsJson

if TYPE_CHECKING:
    from flow.db.database import Database
    from flow.settings import Settings

agents = typer.Typer(
    name="agents", help="Store bots that joins name, version by version.", no_args_is_help=True
)

AgentName = Annotated[str, typer.Argument(metavar="AGENT", help="Its id, or its name in the team.")]
Team = Annotated[str | None, typer.Option(help="The team it belongs to.")]
OfKey = Annotated[str | None, typer.Option("--key", help="A key of that team, by name or id.")]
MOST = 10_000


@agents.command("list")
def list_(
    team: Annotated[str | None, typer.Option(help="Only this team's.")] = None,
    key: Annotated[str | None, typer.Option(help="Only those of this key's team.")] = None,
    archived: Annotated[bool, typer.Option("--archived", help="Archived ones as well.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=MOST, help="How many, the newest first.")] = 200,
    as_json: AsJson = False,
) -> None:
    """List stored agents in their newest versions."""
    from flow.operate import agent_tables
    from flow.operate.paging import first

    async def work(settings: Settings) -> None:
        async with database_of(settings) as database:
            of_team = await _team(database, team, key)
            list_page = partial(database.agents.list, of_team, archived=archived)
            page = await first(list_page, limit)
        told = {"agents": [agent_tables.form(one) for one in page.items]}
        say(told, as_json, lambda: agent_tables.agents(page))

    run(work)


@agents.command()
def show(
    agent: AgentName,
    version: Annotated[int | None, typer.Option(min=1, help="Not the newest but this.")] = None,
    secrets: Annotated[
        bool, typer.Option("--secrets", help="With the values of its tools' headers.")
    ] = False,
    team: Team = None,
    key: OfKey = None,
    as_json: AsJson = False,
) -> None:
    """Show an agent as YAML that can be pushed again."""
    from flow.operate import agent_tables, json_output

    async def work(settings: Settings) -> None:
        async with database_of(settings) as database:
            of_team = await _team(database, team, key)
            found = await database.agents.get(of_team, agent, version)
        # As it is: a line that is cut or folded to the terminal could not be pushed.
        if as_json:
            text = json_output.document(agent_tables.form(found, secrets=secrets))
        else:
            text = agent_tables.agent(found, secrets=secrets)
        typer.echo(text.rstrip())

    run(work)


@agents.command()
def push(
    file: Annotated[Path, typer.Argument(help="YAML or JSON: the fields of POST /api/agents.")],
    team: Team = None,
    key: OfKey = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make the team's agent of the file's name, or its next version if anything in it changed."""
    from flow.operate import agent_files, agent_push, agent_tables

    if team is None and key is None:
        raise InvalidInput("Say whose agent it is: --team TEAM, or --key KEY for that key's team.")
    said = agent_files.read(file)

    async def work(settings: Settings) -> None:
        # Pipecat says what it is while it is imported: by now to a log.
        from flow.operate import agent_checks

        definition = agent_checks.checked(settings, said)
        async with database_of(settings) as database:
            of_team = await _team(database, team, key)
            assert of_team is not None, "there is a team or a key"
            done = await agent_push.push(database, of_team, definition, dry_run=dry_run)
        name = definition.name
        told = agent_tables.pushed_form(done, name)
        say(told, as_json, lambda: agent_tables.pushed(done, name, dry_run=dry_run))

    run(work)


@agents.command()
def archive(
    agent: AgentName, team: Team = None, key: OfKey = None, as_json: AsJson = False
) -> None:
    """Let no new call name an agent. Running and past calls keep theirs, and its name is free."""
    from flow.operate import agent_tables

    async def work(settings: Settings) -> None:
        async with database_of(settings) as database:
            found = await database.agents.archive(await _team(database, team, key), agent)
        say(agent_tables.form(found), as_json, lambda: agent_tables.archived(found))

    run(work)


async def _team(database: Database, team: str | None, key: str | None) -> str | None:
    """The team of ``--team`` or ``--key``; ``None``: every team's."""
    if team is not None and key is not None:
        raise InvalidInput("--team and --key exclude each other.")
    return team if key is None else (await database.operating.get_api_key(key)).key.team_id
