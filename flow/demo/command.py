"""The ``flow demo`` command, for a call or for the LLM gateway."""

from __future__ import annotations

import asyncio
import sys
import time

from rich.console import Console

from flow.demo.call import account_for_a_call
from flow.demo.call_statement import one_line, show
from flow.demo.service import Progress
from flow.demo.stacks import parse_stack
from flow.sandbox.callers.conversation import CallerEvent, EventKind
from flow.telemetry import logs as log

SAID = {
    EventKind.JOINED: "joined",
    EventKind.CONNECTED: "connected",
    EventKind.BOT_STARTED: "the bot speaks",
    EventKind.LINE_STARTED: "the caller says:",
    EventKind.HUNG_UP: "the caller hangs up",
}


def run_gateway(*, as_json: bool) -> int:
    """Make requests to the LLM gateway and show their account; 0 if everything agrees, else 1.

    Raises:
        FlowError: the service could not be started, or a package is missing.
    """
    from flow.demo import gateway_statement
    from flow.demo.gateway import account_for_requests

    console = Console(stderr=as_json)
    say = _speaker(console)
    log.set_up("error", "console", content=False)
    account = asyncio.run(
        account_for_requests(
            say=say, told=lambda what, rows: say(gateway_statement.told(what, rows))
        )
    )
    gateway_statement.show(account, console)
    if as_json:
        sys.stdout.write(gateway_statement.one_line(account) + "\n")
    return 0 if account.reconciled else 1


def run(*, stack: str | None, live: bool, as_json: bool) -> int:
    """Make the call and show its account; 0 if everything agrees, else 1.

    Raises:
        ConfigurationError: ``stack`` is none (see `parse_stack`).
        FlowError: the call could not be made.
    """
    chosen = parse_stack(stack)
    console = Console(stderr=as_json)
    say = _speaker(console)
    speaking = False

    def heard(event: CallerEvent) -> None:
        nonlocal speaking
        said = SAID.get(event.kind)
        if speaking and event.kind is EventKind.LINE_STARTED:
            said = "the caller interrupts:"
        if event.kind in (EventKind.BOT_STARTED, EventKind.BOT_STOPPED):
            speaking = event.kind is EventKind.BOT_STARTED
        if said:
            say(f"[cyan]{said}[/cyan] {event.detail}".rstrip())

    log.set_up("warning", "console", content=False)
    account = asyncio.run(account_for_a_call(chosen, live=live, say=say, heard=heard))
    show(account, console)
    if as_json:
        sys.stdout.write(one_line(account) + "\n")
    return 0 if account.reconciled else 1


def _speaker(console: Console) -> Progress:
    """What says, with the time that has passed, what is happening."""
    started = time.monotonic()

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - started:5.1f} s[/dim]  {text}", highlight=False)

    return say
