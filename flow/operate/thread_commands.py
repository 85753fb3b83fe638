"""The commands ``flow threads ...``: arguments, turned into calls.

Each command imports what it needs when it runs, so that ``flow --help`` answers at once.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from flow.domain.calls.thread_status import Status
from flow.errors import InvalidInput
from flow.operate.command_context import database_of, run, say
from flow.operate.key_commands import AsJson

if TYPE_CHECKING:
    from flow.settings import Settings

threads = typer.Typer(
    name="threads", help="See the calls of all keys, and end them.", no_args_is_help=True
)

Thread = Annotated[str, typer.Argument(help="Its id, as in the answer to a join.")]
MOST = 10_000


@threads.command("list")
def list_(
    running: Annotated[bool, typer.Option("--running", help="Only those under way.")] = False,
    key: Annotated[str | None, typer.Option(help="Only this key's.")] = None,
    team: Annotated[str | None, typer.Option(help="Only this team's.")] = None,
    product: Annotated[str | None, typer.Option(help="Only of this product.")] = None,
    status: Annotated[Status | None, typer.Option(help="Only those in this state.")] = None,
    host: Annotated[str | None, typer.Option(help="Only those under way in this process.")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="First day (UTC).")] = None,
    to: Annotated[str | None, typer.Option(help="Last day (UTC), included.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST, help="How many, the newest first.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List calls of all keys, with the process that holds each."""
    from flow.admin import json_forms
    from flow.domain.calls.thread_overview import ThreadFilter
    from flow.operate import arguments, thread_tables
    from flow.operate.paging import first

    from_day = arguments.day(from_, "--from") if from_ else None
    to_day = arguments.day(to, "--to") if to else None
    if from_day and to_day and from_day > to_day:
        raise InvalidInput(f"--from {from_day} is after --to {to_day}.")

    async def work(settings: Settings) -> None:
        async with database_of(settings) as database:
            of_key = None if key is None else (await database.operating.get_api_key(key)).key.id
            which = ThreadFilter(
                api_key_id=of_key,
                team_id=team,
                product=product,
                status=status,
                running=running,
                host=host,
                first=from_day,
                last=to_day,
            )
            page = await first(partial(database.operating.list_threads, which), limit)
        found = page.items
        told = {"threads": [json_forms.thread(one) for one in found]}
        say(told, as_json, lambda: thread_tables.threads(found, datetime.now(UTC)))

    run(work)


@threads.command()
def show(
    thread: Thread,
    content: Annotated[
        bool,
        typer.Option(
            "--content", help="Also what was said, asked for, done with tools and extracted."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show a call: whose it is, where it runs, and what it cost."""
    from flow.admin import json_forms
    from flow.operate import arguments, thread_tables

    asked = arguments.identifier(thread, "a thread")

    async def work(settings: Settings) -> None:
        async with database_of(settings) as database:
            found = await database.operating.get_thread_overview(asked)
            whole = await database.get_workflow_thread_data(asked) if content else None
        told = json_forms.thread(found)
        if whole is not None:
            told |= json_forms.content(whole)
        say(told, as_json, lambda: thread_tables.thread(found, whole))

    run(work)


@threads.command()
def end(thread: Thread, as_json: AsJson = False) -> None:
    """Hang up, in whichever process the call runs; cancel one that nobody has connected to."""
    from flow.admin import json_forms
    from flow.operate import arguments, thread_tables

    asked = arguments.identifier(thread, "a thread")

    async def work(settings: Settings) -> None:
        async with database_of(settings) as database:
            await database.end_thread(asked)
            found = await database.operating.get_thread_overview(asked)
        say(json_forms.thread(found), as_json, lambda: thread_tables.ended(found))

    run(work)
