"""The gateway's demo: runs the service and the stand-ins, makes requests of each protocol, and
gathers what is on record of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import openai

from flow.demo.narration import Narration
from flow.demo.requests import FALLBACK, STEPS, Clients
from flow.demo.service import NO_DATABASE, data_folder, environment_of, get, served, within
from flow.kit.tls import trusted
from flow.sandbox.all_vendors import vendors
from flow.sandbox.openai.chat import Pace
from flow.sandbox.reconcile import Comparison, reconcile_all
from flow.settings import Settings
from flow.vendors.posthog_flags import COST_CONTROLS

SETTLE_SECS = 30.0
OTHERS = ("anthropic", "google")
PACE = Pace(first_token_secs=0.05, token_secs=0.005)
BACKED = "demo_backed"

Row = dict[str, Any]
Tell = Callable[[str, Sequence[Row]], str]
"""Says what a request was and its rows, one for each attempt."""


@dataclass(frozen=True, slots=True)
class GatewayAccount:
    """What is on record of the demo's requests.

    ``checks`` say, by name, whether the ledger agrees with whatever repeats it.
    """

    ledger: list[Row]
    comparisons: list[Comparison]
    checks: Mapping[str, bool]
    vendor_bills: dict[str, Any]
    posthog_events: list[Row]

    @property
    def reconciled(self) -> bool:
        """Whether every number agrees."""
        return all(self.checks.values()) and all(one.agrees for one in self.comparisons)


async def account_for_requests(narration: Narration, tell: Tell) -> GatewayAccount:
    """Start everything, make the requests, and gather their account.

    Raises:
        ConfigurationError: the SDK of a vendor is not installed.
        FlowError: the service did not start, or a request is not in its ledger.
    """
    from flow.bot.vendors import VENDORS

    VENDORS["anthropic"].require_extra()
    async with AsyncExitStack() as running:
        folder = running.enter_context(data_folder())
        others = ", ".join(["openai", *OTHERS, "unkey"])
        narration.doing(f"starting the stand-ins for {others} and posthog")
        stood_in = await running.enter_async_context(vendors(pace=PACE, models=OTHERS))
        stood_in.posthog.flags[COST_CONTROLS] = True
        narration.doing("starting Postgres, applying the migrations, starting the service")
        running.enter_context(environment_of(stood_in.environment))
        settings = Settings(**NO_DATABASE, data_dir=folder, products_file=_products(folder))
        async with (
            served(settings) as (url, _),
            _customer(url, stood_in.api_key) as (http, clients),
        ):
            narration.step(f"asking {url}")
            ledger: list[Row] = []
            for step in STEPS:
                if step.upset is not None:
                    step.upset(stood_in)
                await step.send(clients)
                rows = await _rows(http, len(ledger) + step.rows)
                narration.step(tell(step.what, rows[len(ledger) :]))
                ledger = rows
            report = (await get(http, "/api/usage?group_by=source"))["rows"]
        billed = await stood_in.billed()
        events = [event.to_json() for event in stood_in.posthog.unique_events]
        return GatewayAccount(
            ledger=ledger,
            comparisons=reconcile_all(ledger, billed),
            checks=_checks(ledger, report, events),
            vendor_bills={name: stood_in.models[name].bill.to_json() for name in billed},
            posthog_events=events,
        )


def _products(folder: Path) -> Path:
    """The products that Flow ships, and one that has a model to fall back to."""
    shipped = resources.files("flow.domain.products").joinpath("products.toml").read_text("utf-8")
    backed = (
        f'[{BACKED}]\nbillable = true\ncalls = false\ngateway = true\nfallbacks = ["{FALLBACK}"]'
    )
    file = folder / "products.toml"
    file.write_text(f"{shipped}\n{backed}\n", "utf-8")
    return file


@asynccontextmanager
async def _customer(url: str, key: str) -> AsyncIterator[tuple[httpx.AsyncClient, Clients]]:
    import anthropic

    headers = {"X-API-Key": key}
    async with (
        httpx.AsyncClient(base_url=url, headers=headers, verify=trusted(), timeout=10) as http,
        openai.AsyncOpenAI(api_key=key, base_url=f"{url}/v1", max_retries=0) as by_openai,
        anthropic.AsyncAnthropic(api_key=key, base_url=url, max_retries=0) as by_anthropic,
        by_openai.with_options(base_url=f"{url}/{BACKED}/v1") as backed,
    ):
        yield http, Clients(by_openai, by_anthropic, backed)


async def _rows(http: httpx.AsyncClient, count: int) -> list[Row]:
    """The key's requests, oldest first, once there are so many.

    Raises:
        Unavailable: some of them do not come to the ledger.
    """
    async with within(SETTLE_SECS, "a request is not in the ledger"):
        while True:
            found: list[Row] = (await get(http, "/api/requests?limit=100"))["requests"]
            if len(found) >= count:
                return found[::-1]
            await asyncio.sleep(0.05)


def _checks(ledger: Sequence[Row], report: Sequence[Row], events: Sequence[Row]) -> dict[str, bool]:
    """Whether the account is the same wherever it is kept."""
    total = sum((Decimal(row["total_cost_usd"]) for row in ledger), Decimal(0))
    lines = [line for row in ledger for line in row["lines"]]
    told = {event["uuid"]: event["properties"].get("$ai_total_cost_usd") for event in events}
    return {
        "attempts = rows of the ledger": len(ledger) == sum(step.rows for step in STEPS),
        "sum of the ledger = sum of its lines": total
        == sum((Decimal(line["cost_usd"] or 0) for line in lines), Decimal(0)),
        "usage by source = sum of the ledger": {
            one["source"]: Decimal(one["total_cost_usd"]) for one in report
        }
        == {"gateway": total},
        "PostHog was told each cost": all(
            told.get(row["id"]) == float(row["total_cost_usd"]) for row in ledger
        ),
        "no event twice": len({row["id"] for row in ledger}) == len(ledger),
    }
