"""The demo call: runs the service and the stand-ins, makes the call, and gathers its account."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx

from flow.app.service import Service
from flow.demo.narration import Narration
from flow.demo.savings import Saved, saved
from flow.demo.service import NO_DATABASE, data_folder, environment_of, get, served, within
from flow.demo.stacks import Stack
from flow.domain.calls.thread_status import Status
from flow.domain.pricing.pricer import Pricer
from flow.errors import ConfigurationError
from flow.kit.tls import trusted
from flow.sandbox.all_vendors import Vendors, vendors
from flow.sandbox.callers.caller import Internet, call
from flow.sandbox.callers.pipecat_phone import RtviPhone
from flow.sandbox.callers.script import SUPPORT_CALL, Script
from flow.sandbox.openai.chat import Pace
from flow.sandbox.reconcile import Comparison, reconcile_all
from flow.sandbox.server import Served
from flow.sandbox.speech.synthesis import recordings
from flow.sandbox.webhooks import Received, WebhookReceiver
from flow.settings import Settings
from flow.vendors.posthog_flags import COST_CONTROLS
from flow.vendors.webhook_signing import new_secret

SETTLE_SECS = 60.0
GOES_ON = {
    "in_call": "the call ends",
    "ended": "the last usage goes to the ledger",
    "extracting": "a model extracts insights from the transcript",
}
"""What happens to a thread in each state after its caller has left."""
OVER = {"thread.completed", "thread.failed"}


@dataclass(frozen=True, slots=True)
class Account:
    """The account of a call: what the service, the vendors and PostHog recorded of it.

    ``vendor_bills`` are those of the stand-ins, by vendor; there are none of real vendors.
    ``budget`` is the key's after the call, ``saved`` what save mode saved, and ``next_join`` the
    answer to one more join. ``checks`` say, by name, whether the ledger agrees with whatever
    repeats it.
    """

    thread: dict[str, Any]
    ledger: list[dict[str, Any]]
    budget: dict[str, Any]
    saved: Saved
    next_join: dict[str, Any]
    comparisons: list[Comparison]
    checks: Mapping[str, bool]
    vendor_bills: dict[str, Any]
    posthog_events: list[dict[str, Any]]

    @property
    def reconciled(self) -> bool:
        """Whether every number agrees and the call is settled."""
        return (
            self.thread["status"] == "completed"
            and all(self.checks.values())
            and all(comparison.agrees for comparison in self.comparisons)
        )


async def account_for_a_call(stack: Stack, *, live: bool, narration: Narration) -> Account:
    """Start everything, make the call, and gather its account.

    Raises:
        ConfigurationError: ``live`` without the key of a vendor of the stack.
        FlowError: the call could not be made.
    """
    script = SUPPORT_CALL
    async with AsyncExitStack() as running:
        folder = running.enter_context(data_folder())
        others = [] if live else [*stack.vendors]
        narration.doing(
            f"starting the stand-ins for {', '.join(['openai', *others, 'unkey'])} and posthog"
        )
        stood_in = await running.enter_async_context(_stand_ins(script, others))
        receiver = WebhookReceiver()
        receiver_url = await running.enter_async_context(Served(receiver))
        narration.doing("starting Postgres, applying the migrations, starting the service")
        settings = running.enter_context(_settings(stood_in, stack, folder, live=live))
        async with served(settings) as (url, service):
            secret = await _give_budget(service, stack.cap_usd, stood_in.api_key, url)
            receiver.trust(secret)
            narration.step(f"calling {url}, on a budget of ${stack.cap_usd} for the month")
            join = _join(script, stack) | {"webhook_url": f"{receiver_url}/calls"}
            async with httpx.AsyncClient(
                base_url=url, headers={"Authorization": f"Bearer {stood_in.api_key}"}, timeout=10
            ) as http:
                report = await call(
                    url,
                    stood_in.api_key,
                    script,
                    join=join,
                    on_progress=narration.heard,
                    carrier=Internet(phone_class=RtviPhone),
                )
                thread = await _settled(http, str(report.workflow_thread_id), narration)
                narration.doing("waiting for the webhook that tells the customer")
                told = await _told(receiver, str(report.workflow_thread_id))
                narration.step(f"the webhook {told.type} has come, rightly signed")
                narration.doing("holding the ledger against whatever repeats it")
                ledger = (await get(http, f"/api/threads/{report.workflow_thread_id}/usage"))[
                    "events"
                ]
                report_rows = (await get(http, "/api/usage?group_by=day,model,kind"))["rows"]
                budget = (await get(http, "/api/limits"))["budget"]
                next_join = (await http.post("/api/bot/join", json={})).json()
        billed = {} if live else await stood_in.billed()
        return Account(
            thread=thread,
            ledger=ledger,
            budget=budget,
            saved=saved(ledger, (await asyncio.to_thread(Pricer.read)).price),
            next_join=next_join,
            comparisons=[] if live else reconcile_all(ledger, billed),
            checks=_checks(thread["usage_stats"], ledger, report_rows),
            vendor_bills={name: stood_in.models[name].bill.to_json() for name in billed},
            posthog_events=[event.to_json() for event in stood_in.posthog.unique_events],
        )


@asynccontextmanager
async def _stand_ins(script: Script, others: Sequence[str]) -> AsyncIterator[Vendors]:
    heard = await asyncio.to_thread(
        recordings, [line.text for line in script.lines], voice=script.voice
    )

    def reply(messages: Sequence[Mapping[str, Any]]) -> str:
        """The script's words on the call; afterwards, what there was to find in them."""
        if script.system_prompt not in str(messages[0].get("content")):
            return json.dumps(dict(script.insights.expected))
        said = [str(m.get("content")) for m in messages if m.get("role") == "user"]
        return script.reply_to(said[-1] if said else "")

    pace = Pace(first_token_secs=0.25, token_secs=script.token_secs)
    async with vendors(reply, utterances=heard, pace=pace, models=others) as running:
        running.posthog.flags[COST_CONTROLS] = True
        yield running


def _join(script: Script, stack: Stack) -> dict[str, Any]:
    """The fields of the join that are not the script's own."""
    bot = script.join_request()["bot"]
    return {"transport": {"type": "websocket", "rtvi": True}, "bot": {**bot, **stack.bot}}


@contextmanager
def _settings(stood_in: Vendors, stack: Stack, folder: Path, *, live: bool) -> Iterator[Settings]:
    """The service's settings: a database of its own, and the stand-ins for every vendor. Their
    keys and addresses are in the environment for as long as the block lasts."""
    environment = dict(stood_in.environment)
    if live:
        _require_keys(stack)
        environment = {name: v for name, v in environment.items() if not name.startswith("OPENAI_")}
    own: dict[str, Any] = {
        **NO_DATABASE,
        # The receiver of its webhooks is on this machine.
        "debug": True,
        "webhooks_allow_private": True,
    }
    with environment_of(environment):
        yield Settings(**own, data_dir=folder)


def _require_keys(stack: Stack) -> None:
    from flow.bot.vendors import VENDORS

    missing = [
        VENDORS[name].key
        for name in stack.vendors or ["openai"]
        if not os.environ.get(VENDORS[name].key)
        and not os.environ.get(VENDORS[name].base_url_variable)
    ]
    if missing:
        raise ConfigurationError(f"flow demo --live needs a key: set {', '.join(missing)}.")


async def _give_budget(service: Service, cap_usd: Decimal, api_key: str, url: str) -> str:
    """A budget that the call uses up: what an operator does with ``flow keys budget``. Returns the
    secret that signs the key's webhooks."""
    async with httpx.AsyncClient(
        base_url=url, headers={"X-API-Key": api_key}, verify=trusted()
    ) as http:
        (await http.get("/api/limits")).raise_for_status()
    account = await service.database.operating.get_api_key("sandbox")
    await service.database.operating.set_budget(account.key.id, cap_usd)
    return (await service.database.webhooks.secrets(account.key.id, new_secret())).current


async def _told(receiver: WebhookReceiver, thread_id: str) -> Received:
    """The webhook that says that the call is over.

    Raises:
        Unavailable: it does not come.
    """
    async with within(SETTLE_SECS, "the webhook has not come"):
        while True:
            for received in receiver.received:
                if received.data.get("workflow_thread_id") == thread_id and received.type in OVER:
                    return received
            await asyncio.sleep(0.1)


async def _settled(http: httpx.AsyncClient, thread_id: str, narration: Narration) -> dict[str, Any]:
    """The thread once nothing more happens to it; tells what does until then.

    Raises:
        Unavailable: it goes on for too long.
    """
    last = None
    async with within(SETTLE_SECS, "the call has not settled"):
        while True:
            thread = await get(http, f"/api/threads/{thread_id}")
            if (status := thread["status"]) != last and status in GOES_ON:
                narration.doing(GOES_ON[status])
            last = status
            if Status(status).is_final:
                narration.step(f"the call is {status}")
                return thread
            await asyncio.sleep(0.2)


def _checks(
    stats: dict[str, Any], ledger: Sequence[Mapping[str, Any]], report: Sequence[Mapping[str, Any]]
) -> dict[str, bool]:
    """Whether the account is the same wherever it is kept."""
    total = sum((Decimal(row["total_cost_usd"] or 0) for row in ledger), Decimal(0))
    daily = sum((Decimal(row["total_cost_usd"] or 0) for row in report), Decimal(0))
    parts = sum((Decimal(part) for part in stats["cost_breakdown_usd"].values()), Decimal(0))
    lines = [line for row in ledger for line in row["lines"]]
    tokens = sum(
        int(line["quantity"])
        for line in lines
        if line["unit"].endswith("_tokens") and line["part_of"] is None
    )
    costs = sum((Decimal(line["cost_usd"] or 0) for line in lines), Decimal(0))
    return {
        "usage_stats total = sum of the ledger": Decimal(stats["total_cost_usd"]) == total,
        "usage_stats total = sum of its components": Decimal(stats["total_cost_usd"]) == parts,
        "daily report = sum of the ledger": daily == total,
        "sum of the ledger = sum of its lines": costs == total,
        "usage_stats tokens = sum of the ledger": stats["total_tokens"] == tokens,
        "no event twice": len({row["id"] for row in ledger}) == len(ledger),
    }
