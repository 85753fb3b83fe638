"""The command ``flow doctor``."""

from __future__ import annotations

import typer

from flow.operate.command_context import say, work_quietly
from flow.operate.key_commands import AsJson


def doctor(as_json: AsJson = False) -> None:
    """Try what a service needs: settings, database, keys, clock, disk. 1 if something is wrong."""
    from rich.console import Console

    from flow.operate.doctor import report
    from flow.operate.doctor.examination import examine
    from flow.operate.doctor.finding import is_well

    waiting = Console(stderr=True)
    with waiting.status("looking at the settings") as status:
        found = work_quietly(examine(lambda what: status.update(f"looking at {what}")))
    say(report.to_json(found), as_json, lambda: report.shown(found))
    raise typer.Exit(0 if is_well(found) else 1)
