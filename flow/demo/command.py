"""The ``flow demo`` command, for a call or for the LLM gateway."""

from __future__ import annotations

import asyncio
import sys

from rich.console import Console

from flow.demo.call import account_for_a_call
from flow.demo.call_statement import one_line, show
from flow.demo.narration import Narration
from flow.demo.stacks import parse_stack
from flow.telemetry import logs as log


def run(*, stack: str | None, live: bool, as_json: bool) -> int:
    """Make the call and show its account; 0 if everything agrees, else 1.

    Raises:
        ConfigurationError: ``stack`` is none (see `parse_stack`).
        FlowError: the call could not be made.
    """
    chosen = parse_stack(stack)
    console = Console(stderr=as_json)
    # A service that runs for a minute on stand-ins needs none of its warnings.
    log.set_up("error", "console", content=False)
    with Narration(console) as narration:
        account = asyncio.run(account_for_a_call(chosen, live=live, narration=narration))
    show(account, console)
    if as_json:
        sys.stdout.write(one_line(account) + "\n")
    return 0 if account.reconciled else 1


def run_gateway(*, as_json: bool) -> int:
    """Make requests to the LLM gateway and show their account; 0 if everything agrees, else 1.

    Raises:
        FlowError: the service could not be started, or a package is missing.
    """
    from flow.demo import gateway_statement
    from flow.demo.gateway import account_for_requests

    console = Console(stderr=as_json)
    log.set_up("error", "console", content=False)
    with Narration(console) as narration:
        account = asyncio.run(account_for_requests(narration, gateway_statement.told))
    gateway_statement.show(account, console)
    if as_json:
        sys.stdout.write(gateway_statement.one_line(account) + "\n")
    return 0 if account.reconciled else 1
