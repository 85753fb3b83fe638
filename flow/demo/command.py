"""The ``flow demo`` command."""

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
