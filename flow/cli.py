"""The command line: ``flow demo | dev | serve | worker | migrate | doctor | keys | ...``.

Each command imports what it needs when it runs, so that ``flow --help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Annotated, NoReturn

import typer

from flow.errors import FlowError, InvalidInput
from flow.kit.installed import requirement, version
from flow.operate import (
    agent_commands,
    doctor_command,
    posthog_commands,
    team_commands,
    thread_commands,
    webhook_commands,
)
from flow.operate import key_commands as commands

cli = typer.Typer(
    name="flow",
    help="A Pipecat voice-bot service whose account of every call can be invoiced.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Boxes and colours would take twice as long as all else about `flow --help`.
    rich_markup_mode=None,
    add_completion=False,
)

Workers = Annotated[int, typer.Option(min=1, max=64, help="How many processes serve calls.")]


def main() -> None:
    """Run a command; a `FlowError` ends it with its sentence and exit code 2."""
    try:
        cli()
    except InvalidInput as error:
        problems = [f"{one.field}: {one.message}." for one in error.problems]
        _fail(" ".join([str(error), *problems, error.hint or ""]).rstrip())
    except FlowError as error:
        _fail(error.for_operator)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"flow {version()}")
        raise typer.Exit


@cli.callback()
def everywhere(
    _: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version."),
    ] = False,
) -> None:
    """Hold what goes before any command."""


@cli.command()
def demo(
    stack: Annotated[
        str | None,
        typer.Option(help="Vendors of STT, LLM and TTS, or one of speech-to-speech: see the docs."),
    ] = None,
    live: Annotated[
        bool, typer.Option(help="Use the vendors themselves, by the keys in the environment.")
    ] = False,
    gateway: Annotated[
        bool, typer.Option(help="Make requests to the LLM gateway in place of a call.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="End with the account as one JSON object on one line.")
    ] = False,
) -> None:
    """Make one real call on this machine, and account for it."""
    if gateway and (live or stack is not None):
        _fail("--gateway goes with neither --stack nor --live: its vendors are stand-ins.")
    with _extra_sandbox("demo"):
        from flow.demo import run, run_gateway

    if gateway:
        raise typer.Exit(run_gateway(as_json=as_json))
    raise typer.Exit(run(stack=stack, live=live, as_json=as_json))


@cli.command()
def dev(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where to listen; 0 takes a free port.")
    ] = 8000,
    reload: Annotated[bool, typer.Option(help="Start anew when the code changes.")] = True,
) -> None:
    """Serve on this machine, with stand-ins for the vendors and a key."""
    with _extra_sandbox("dev"):
        from flow.dev import run

    run(port=port, reload=reload)


@cli.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Default: FLOW_HOST or 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Default: 8000.")] = None,
    workers: Workers = 1,
) -> None:
    """Serve in production; refuses to start on missing or contradictory settings."""
    from flow.app import garbage_collection as garbage

    garbage.leave_alone()
    from flow.app.asgi import SERVER_OPTIONS, check
    from flow.app.run_server import serve as run
    from flow.settings import Settings
    from flow.telemetry import logs as log
    from flow.telemetry.prometheus_exposition import shared_between_processes

    settings = Settings.read()
    check(settings)
    if workers > 1 and not (settings.database_url or settings.supabase_url):
        _fail("--workers needs DATABASE_URL or SUPABASE_URL: an embedded database serves one.")
    if workers > 1:
        # Each worker does so for itself; this is for what supervises them.
        log.set_up(settings.log_level, settings.log_format, content=False)
    with shared_between_processes() if workers > 1 else nullcontext():
        status = run(
            "flow.app.asgi:application",
            host=host or settings.host,
            port=settings.port if port is None else port,
            workers=workers,
            options=SERVER_OPTIONS,
        )
    raise typer.Exit(status)


@cli.command()
def worker(
    host: Annotated[str | None, typer.Option(help="Default: FLOW_HOST or 127.0.0.1.")] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Answer /healthz, /readyz and /metrics here; default: nowhere."
        ),
    ] = None,
) -> None:
    """Do what follows calls, and serve no customers; SIGTERM ends it."""
    from flow.app import garbage_collection as garbage

    garbage.leave_alone()
    from flow.app import workflow_worker
    from flow.app.asgi import check
    from flow.settings import Settings

    settings = Settings.read()
    check(settings)
    raise typer.Exit(workflow_worker.run(settings, host=host or settings.host, port=port))


@cli.command()
def migrate() -> None:
    """Bring the database up to date. The history kept is the Supabase CLI's own."""
    import asyncio

    from flow.app import database as store
    from flow.settings import Settings

    applied = asyncio.run(store.migrate(Settings.read()))
    for migration in applied:
        typer.echo(f"applied {migration}")
    if not applied:
        typer.echo("The database is up to date.")


cli.add_typer(commands.keys)
cli.add_typer(agent_commands.agents)
cli.add_typer(team_commands.teams)
cli.add_typer(thread_commands.threads)
cli.add_typer(webhook_commands.webhooks)
cli.add_typer(posthog_commands.posthog)
cli.command()(commands.usage)
cli.command()(doctor_command.doctor)


@contextmanager
def _extra_sandbox(command: str) -> Iterator[None]:
    """Say what to install where an import fails for want of the extra ``sandbox``."""
    try:
        yield
    except ModuleNotFoundError as error:
        _fail(
            f"`flow {command}` needs the extra `sandbox`, of which {error.name} is missing here:"
            f" pip install {requirement('sandbox')}, or, in a checkout, `make {command}`."
        )


def _fail(sentence: str) -> NoReturn:
    typer.echo(f"flow: {sentence}", err=True)
    sys.exit(2)
