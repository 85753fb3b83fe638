"""`flow usage`: over all keys, exact, and the same as the ledger."""

from __future__ import annotations

import csv
import io
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from rich.console import Console

from flow.admin.usage import Report
from flow.domain.usage.events import Cost, Kind
from flow.domain.usage.reports import MEASURES, UsageTable
from flow.domain.usage.units import UNITS, Measure, component_of
from flow.operate import tables as show
from tests.db.making import a_thread, an_event
from tests.operate.conftest import Terminal

DAYS = ("--from", "2026-03-01", "--to", "2026-03-31")
COSTS = {"Ada": ["0.1", "0.2000000000000000000000000000001"], "Bob": ["0.4", None]}


@pytest.fixture
async def used(terminal: Terminal) -> Terminal:
    """Two keys of two teams, each with two events of a model of its own."""
    for name, costs in COSTS.items():
        key = await terminal.database.resolve_api_key(f"key_{name}", f"team_{name}", name)
        thread = await a_thread(terminal.database, key)
        await terminal.database.record_usage(
            [
                an_event(
                    thread,
                    model=f"model-{name}",
                    cost=cost and Cost(output_tokens=Decimal(cost)),
                    price_version=cost and "1",
                    occurred_at=datetime(2026, 3, day, tzinfo=UTC),
                )
                for day, cost in enumerate(costs, start=1)
            ]
        )
    return terminal


async def report(terminal: Terminal, *args: str) -> Any:
    return (await terminal.flow("usage", *DAYS, *args, "--json")).json


async def test_usage_is_reported_by_key_and_model_with_its_exact_total(used: Terminal) -> None:
    told = await report(used)
    assert (told["from"], told["to"]) == ("2026-03-01", "2026-03-31")
    assert told["group_by"] == ["key", "model"]
    costs = {(row["key_name"], row["model"]): row["total_cost_usd"] for row in told["rows"]}
    assert costs == {
        ("Ada", "model-Ada"): "0.3000000000000000000000000000001",
        ("Bob", "model-Bob"): "0.4",
    }
    assert told["total"]["total_cost_usd"] == "0.7000000000000000000000000000001"
    assert (told["total"]["events"], told["total"]["unpriced_events"]) == (4, 1)
    assert told["total"].keys() == set(MEASURES)


@pytest.mark.parametrize(
    ("args", "rows"),
    [
        (["--by", ""], [{}]),
        (["--by", "team"], [{"team_id": "team_Ada"}, {"team_id": "team_Bob"}]),
        (["--by", "day", "--key", "Bob"], [{"day": "2026-03-01"}, {"day": "2026-03-02"}]),
        (["--by", "model", "--key", "key_Ada"], [{"model": "model-Ada"}]),
        (["--by", "model", "--team", "team_Bob"], [{"model": "model-Bob"}]),
        (["--by", "model", "--team", "nobody"], []),
        (["--by", "model", "--to", "2026-03-01", "--team", "team_Bob"], [{"model": "model-Bob"}]),
    ],
)
async def test_usage_is_grouped_and_narrowed(
    used: Terminal, args: list[str], rows: list[dict[str, str]]
) -> None:
    told = await report(used, *args)
    named = [{n: v for n, v in row.items() if n not in MEASURES} for row in told["rows"]]
    assert sorted(named, key=str) == rows


async def test_the_table_has_a_total_and_says_what_has_no_price(used: Terminal) -> None:
    table = (await used.flow("usage", *DAYS)).out
    lines = table.splitlines()
    assert all(len(line) <= 100 for line in lines)
    (total,) = [number for number, line in enumerate(lines) if line.split()[:1] == ["total"]]
    assert "0.700000" in lines[total]
    assert "+ 1 unpriced" in lines[total + 1]
    assert "Ada" in table


def test_the_table_shows_every_unit_that_adds_up() -> None:
    amounts = {
        unit.name: Decimal("60.25") if unit.measure is Measure.SECONDS else 1_200
        for unit in UNITS.values()
        if unit.part_of is None
    }
    kinds = {"audio_seconds": [Kind.TTS, Kind.STT], "call_seconds": [Kind.CALL]}
    lines = [
        {"kind": kind, "unit": unit, "component": component_of(kind, unit), "part_of": None,
         "quantity": str(amount), "cost_usd": None}
        for unit, amount in amounts.items() for kind in kinds.get(unit, [Kind.LLM])
    ]  # fmt: skip
    counts = dict.fromkeys((name for name in MEASURES if name.endswith("_events")), 0)
    costs = {"total_cost_usd": "0.5", "billable_cost_usd": "0.5"}
    row = {"model": "a", "events": 9, "llm_calls": 9, "total_tokens": 4_800, **counts, **costs}
    table = UsageTable.of([{**row, "lines": lines}])
    terminal = Console(file=io.StringIO(), width=100)
    terminal.print(show.usage(Report(date(2026, 3, 1), date(2026, 3, 31), ["model"], table)))
    shown = terminal.file.getvalue()  # type: ignore[attr-defined]
    for said in ("4,800 tokens", "1,200 characters", "60.2 s audio (tts)", "60.2 s audio (stt)"):
        assert said in shown
    for unit in UNITS.values():
        if unit.part_of is None and unit.measure is not Measure.TOKENS:
            assert unit.label in shown


async def test_without_usage_it_says_so(used: Terminal) -> None:
    done = await used.flow("usage", "--from", "2025-01-01", "--to", "2025-01-31")
    assert done.out == "Usage from 2025-01-01 to 2025-01-31 (UTC): none.\n"
    told = await report(used, "--key", "Ada", "--from", "2026-03-03")
    assert told["rows"] == []
    assert (told["total"]["events"], told["total"]["total_cost_usd"]) == (0, "0")


async def test_the_spreadsheet_has_the_same_rows(used: Terminal) -> None:
    done = await used.flow("usage", *DAYS, "--by", "key,team,day", "--csv")
    assert (done.code, done.err) == (0, "")
    read = list(csv.DictReader(io.StringIO(done.out, newline="")))
    told = await report(used, "--by", "key,team,day")
    as_text = [{n: "" if v is None else str(v) for n, v in row.items()} for row in told["rows"]]
    assert read == as_text
    assert list(read[0])[:4] == ["api_key_id", "key_name", "team_id", "day"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--by", "colour"], "--by: 'colour' is not one of key, team, day"),
        (["--from", "March"], "--from must be a day"),
        (["--to", "2026-02-30"], "--to must be a day"),
        (["--from", "2026-03-02", "--to", "2026-03-01"], "2026-03-02 is after 2026-03-01"),
        (["--key", "nobody"], "no API key nobody"),
        (["--json", "--csv"], "exclude each other"),
    ],
)
async def test_a_wrong_question_is_named(terminal: Terminal, args: list[str], said: str) -> None:
    assert said in (await terminal.flow("usage", *args)).failure
