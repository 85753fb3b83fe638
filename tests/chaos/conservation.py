"""The check that every experiment ends with: nothing is lost, nothing is there twice.

For every thread of the database the ledger's rows, its own ``usage_stats``, the daily rollup and
the vendor's bill must agree: to the last digit, but for what the ledger itself calls estimated,
whose tolerance `flow.sandbox.reconcile` states. What is still on its way is waited for.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from flow.db.database import Database
from flow.domain.calls.thread import Status
from flow.domain.usage.events import UsageEvent
from flow.sandbox.all_vendors import Vendors
from flow.sandbox.bill import Line
from flow.sandbox.reconcile import Comparison, reconcile, reconcile_all
from tests.chaos.experiment import Findings
from tests.chaos.postgres import Postgres
from tests.db.making import account_of
from tests.db.test_conservation import ROLLUP, SUMS

SETTLE_SECS = 90.0
LOOK_SECS = 0.25
NAMES_THREADS = "openai"
"""The vendor whose requests carry their thread, for it is reached as a gateway. What others bill is
compared for all threads together."""
THREAD_HEADER = "x-posthog-property-workflow_thread_id"
FINAL = tuple(status.value for status in Status if status.is_final)

_HELD = """
select resource, held from (
  select l.resource,
    sum(l.reserved + case l.resource when 'concurrent_calls' then l.used else 0 end) as held
  from api_keys k, flow.limit_states(k, '{}', true, now()) l
  group by 1
) as sums where held > 0
"""


async def conserved(
    found: Findings,
    postgres: Postgres,
    standing: Vendors,
    folders: Iterable[Path],
    *,
    settle_secs: float = SETTLE_SECS,
) -> None:
    """Wait for every thread's end, and note whether all accounts of each agree.

    Args:
        folders: data folders of every host and worker there has been.
        settle_secs: how long to wait for what is still on its way.
    """
    folders = list(folders)
    deadline = asyncio.get_running_loop().time() + settle_secs
    async with postgres.database() as database:
        while True:
            wrong = await _wrong(postgres, database, standing, folders)
            if not any(wrong.values()) or asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(LOOK_SECS)
    for what, seen in wrong.items():
        found.none(what, seen)


async def _wrong(
    postgres: Postgres, database: Database, standing: Vendors, folders: Collection[Path]
) -> dict[str, list[str]]:
    """By what must not be: what there is of it."""
    unfinished = await postgres.rows(
        "select id, status from workflow_threads where not status = any(%(final)s)",
        final=list(FINAL),
    )
    wrong = {
        "threads that are in no final state": [f"{id_} {status}" for id_, status in unfinished]
    }
    if unfinished:
        # The rest takes longer to look at, and cannot agree yet.
        return wrong
    lines, nobodys = await _bills(standing)
    accounts: list[str] = []
    bills: list[str] = list(nobodys)
    others = {name: model for name, model in standing.models.items() if name != NAMES_THREADS}
    elsewhere: list[Any] = []
    for (thread_id,) in await postgres.rows("select id from workflow_threads order by created_at"):
        rows = await database.get_thread_usage(thread_id)
        thread = await database.get_workflow_thread_data(thread_id)
        expected = account_of(thread_id, [UsageEvent.from_json(row) for row in rows])
        accounts += _differences(str(thread_id), expected, thread.usage_stats)
        elsewhere += [row for row in rows if row["provider"] in others]
        rows = [row for row in rows if row["provider"] not in others]
        bills += _disagreements(str(thread_id), rows, lines.pop(str(thread_id), []))
    bills += [f"{thread_id} is billed and no thread" for thread_id in lines]
    billed = {name: await model.bill.settled() for name, model in others.items()}
    bills += disagreements(reconcile_all(elsewhere, billed))
    return wrong | {
        "threads whose usage_stats are not the ledger's sum": accounts,
        "keys whose rollup is not the ledger's sum": await rollups(postgres),
        "threads whose ledger is not the vendor's bill": bills,
        "events put aside": await put_aside(postgres, folders),
        "reservations held": [f"{name} {held}" for name, held in await postgres.rows(_HELD)],
        "lines left in a spool": [left for folder in folders for left in spooled(folder)],
    }


def spooled(folder: Path) -> list[str]:
    """What the spools of a data folder still hold; that of a process that runs is empty at rest."""
    return [
        f"{file.parent.parent.name}/{file.name}: {file.stat().st_size} bytes"
        for file in sorted((folder / "spool").glob("*.jsonl"))
        if file.stat().st_size
    ]


async def _bills(standing: Vendors) -> tuple[dict[str, list[Line]], list[str]]:
    """The vendor's bill by thread, and those of its lines that name none."""
    async with asyncio.timeout(SETTLE_SECS):
        lines = await standing.openai.bill.settled()
    of: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        of[line.headers.get(THREAD_HEADER, "")].append(line)
    nobodys = [f"{line.kind} {line.request_id} names no thread" for line in of.pop("", [])]
    return of, nobodys


def _differences(name: str, expected: dict[str, Any], seen: dict[str, Any]) -> list[str]:
    return [
        f"{name} {part}: {seen.get(part)} instead of {expected.get(part)}"
        for part in {**expected, **seen}
        if expected.get(part) != seen.get(part)
    ]


def _disagreements(name: str, rows: Sequence[Any], lines: Sequence[Line]) -> list[str]:
    ids = [row["id"] for row in rows]
    twice = [f"{name} has an event twice"] if len(set(ids)) < len(ids) else []
    calls = sum(row["kind"] == "call" for row in rows)
    twice += [f"{name} has {calls} calls in the ledger"] if calls > 1 else []
    return twice + [f"{name} {wrong}" for wrong in disagreements(reconcile(rows, lines))]


def disagreements(compared: Iterable[Comparison]) -> list[str]:
    """What the ledger and a vendor's bill do not agree on."""
    return [
        f"{one.model} {one.quantity}: {one.ledger} instead of {one.vendor} ±{one.tolerance}"
        for one in compared
        if not one.agrees
    ]


async def rollups(postgres: Postgres) -> list[str]:
    """The keys whose daily sums are not those of the ledger."""
    wrong = []
    for (key,) in await postgres.rows("select id from api_keys"):
        ledger = sorted(await postgres.rows(SUMS, key=key))
        if ledger != sorted(await postgres.rows(ROLLUP, key=key)):
            wrong.append(str(key))
    return wrong


async def put_aside(postgres: Postgres, folders: Iterable[Path]) -> list[str]:
    """Why events were refused by the database, or by the spool of one of these data folders."""
    rejected = await postgres.rows("select reason from rejected_usage_events")
    files = (folder / "spool" / "quarantine.ndjson" for folder in folders)
    return [str(reason) for (reason,) in rejected] + [
        f"{file.parent.parent.name}: {line}"
        for file in files
        if file.exists()
        for line in file.read_text().splitlines()
    ]
