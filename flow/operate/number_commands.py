"""The commands ``flow numbers ...``: arguments, turned into calls.

Each command imports what it needs when it runs, so that ``flow --help`` answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flow.errors import NotFound
from flow.operate.command_context import database_of, run, say
from flow.operate.key_commands import AsJson

if TYPE_CHECKING:
    from flow.settings import Settings

numbers = typer.Typer(
    name="numbers",
    help="Have telephone numbers ring agents, and be called from.",
    no_args_is_help=True,
)

Number = Annotated[str, typer.Argument(metavar="NUMBER", help="As in +4930123456.")]
Team = Annotated[str | None, typer.Option("--team", help="Only this team's.")]


@numbers.command()
def add(
    number: Number,
    key: Annotated[str, typer.Option("--key", help="Whose budget its calls are on: name or id.")],
    agent: Annotated[
        str | None, typer.Option("--agent", help="What it rings: an agent of the key's team.")
    ] = None,
    product: Annotated[
        str | None, typer.Option("--product", help="Or a product, with its own bot.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add a number, or change what it rings. With neither agent nor product it only calls."""
    from flow.admin.numbers import number_form, put_number
    from flow.operate import number_tables

    async def work(settings: Settings) -> None:
        async with database_of(settings) as database:
            added = await put_number(database, number, key, agent=agent, product=product)
        say(number_form(added), as_json, lambda: number_tables.number(added))

    run(work)


@numbers.command("list")
def list_(team: Team = None, as_json: AsJson = False) -> None:
    """List the numbers, and what they ring."""
    from flow.admin.numbers import number_form
    from flow.operate import number_tables

    async def work(settings: Settings) -> None:
        async with database_of(settings) as database:
            found = await database.telephony.list_numbers(team)
        told = {"numbers": [number_form(one) for one in found]}
        say(told, as_json, lambda: number_tables.numbers(found))

    run(work)


@numbers.command()
def show(number: Number, as_json: AsJson = False) -> None:
    """Show a number."""
    from flow.admin.numbers import number_form
    from flow.operate import number_tables

    async def work(settings: Settings) -> None:
        async with database_of(settings) as database:
            found = await database.telephony.find_number(number)
        if found is None:
            raise NotFound(f"The number {number} is not known here.")
        say(number_form(found), as_json, lambda: number_tables.number(found))

    run(work)


@numbers.command()
def remove(number: Number, as_json: AsJson = False) -> None:
    """Forget a number. Its carrier still has it, and is told that it is not in service."""
    from flow.operate import number_tables

    async def work(settings: Settings) -> None:
        async with database_of(settings) as database:
            if not await database.telephony.remove_number(number):
                raise NotFound(f"The number {number} is not known here.")
        say({"removed": number}, as_json, lambda: number_tables.removed(number))

    run(work)
