"""The account of the gateway's demo, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from flow.api.exact_json import dumps
from flow.demo.gateway import GatewayAccount
from flow.demo.tables import (
    Row,
    money,
    quantity,
    reconciliation,
    reconciliation_json,
    table,
    verdict,
)


def told(what: str, rows: Sequence[Row]) -> str:
    """A request on one line, with an attempt's outcome, usage and cost each."""
    attempts = (
        f"{_model(row)} {_outcome(row)}, {quantity([row]) or 'nothing used'}, ${money([row])}"
        for row in rows
    )
    return f"{what}: {'; then '.join(attempts)}"


def show(account: GatewayAccount, console: Console) -> None:
    """Print the requests, and whether it all agrees."""
    console.print()
    console.rule("[bold]The account[/bold]")
    console.print(_requests(account.ledger))
    console.print(reconciliation(account.comparisons, account.checks))
    console.print(verdict(account.reconciled, "these requests"))


def one_line(account: GatewayAccount) -> str:
    """The account as one JSON object on one line; its numbers keep every digit."""
    return dumps(
        {
            "ledger": account.ledger,
            "vendor_bills": account.vendor_bills,
            "reconciled": account.reconciled,
            "reconciliation": reconciliation_json(account.comparisons, account.checks),
            "posthog_events": account.posthog_events,
        }
    )


def _requests(ledger: Sequence[Row]) -> object:
    made = table("Requests", "kind", "model", "outcome", "known", "quantity", "cost (USD)")
    for row in ledger:
        made.add_row(
            row["kind"],
            _model(row),
            _outcome(row),
            row["provenance"],
            quantity([row]),
            money([row]),
        )
    made.add_section()
    made.add_row("total", "", "", "", "", money(ledger))
    return made


def _model(row: Row) -> str:
    """The model that served, and the one that was asked for where it is another."""
    served = f"{row['provider']}/{row['model']}"
    return f"{served} for {row['requested_model']}" if row["sent_model"] else served


def _outcome(row: Row) -> str:
    status = (row["failure"] or {}).get("http_status")
    return f"{row['outcome']} {status}" if status else str(row["outcome"])
