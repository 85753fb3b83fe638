"""`flow keys budget`, `quota` and `save-mode`: exact amounts, and no slip of the hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.domain.products.save_mode import SaveMode
from flow.errors import InvalidInput
from flow.operate import arguments as typed
from tests.db.making import a_thread, an_event
from tests.operate.conftest import Terminal

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
PRODUCTS = """
[voice_bot]
billable = true
credit_bucket = "voice_credits"
llm.allowed = ["open*/gpt-*"]
"""


async def test_a_budget_is_shown_set_and_lifted(terminal: Terminal) -> None:
    key = await terminal.database.resolve_api_key("key_1", "acme", "Ada")

    async def budget(*args: str) -> object:
        done = await terminal.flow("keys", "budget", "Ada", *args, "--json")
        return done.json["budget"]["cap_usd"]

    assert await budget() is None
    assert await budget("--cap", "12.345678901234567") == "12.345678901234567"
    assert await budget() == "12.345678901234567"
    assert (await terminal.database.operating.get_api_key(str(key.id))).budget.cap_usd == Decimal(
        "12.345678901234567"
    )
    assert await budget("--no-cap") is None


async def test_a_budget_is_overridden_for_a_time(terminal: Terminal) -> None:
    await terminal.database.resolve_api_key("key_1", "acme", "Ada")
    before = datetime.now(UTC)
    for args in (["--override-for", "24h", "--cap", "5"], ["--override-until", "2090-01-01"]):
        shown = (await terminal.flow("keys", "budget", "Ada", *args, "--json")).json
        assert shown["budget"]["tier"] == "override"
        assert shown["budget"]["cap_usd"] == "5"
        until = datetime.fromisoformat(shown["override_until"])
        assert until == datetime(2090, 1, 1, tzinfo=UTC) or (
            before + timedelta(hours=24) <= until <= datetime.now(UTC) + timedelta(hours=24)
        )
    assert "lifted until 2090-01-01" in (await terminal.flow("keys", "show", "Ada")).out
    shown = (await terminal.flow("keys", "budget", "Ada", "--no-override", "--json")).json
    assert (shown["override_until"], shown["budget"]["tier"]) == (None, "ok")


async def test_what_is_spent_is_shown_to_the_last_digit(terminal: Terminal) -> None:
    key = await terminal.database.resolve_api_key("key_1", "acme", "Ada")
    thread = await a_thread(terminal.database, key)
    event = an_event(thread, occurred_at=datetime.now(UTC))
    await terminal.database.record_usage([event])
    done = await terminal.flow("keys", "budget", "Ada", "--cap", "0.00044", "--json")
    assert done.json["budget"] | {"resets_at": None} == {
        "tier": "exceeded",
        "cap_usd": "0.00044",
        "spent_usd": "0.00044",
        "reserved_usd": "0",
        "remaining_usd": "0",
        "resets_at": None,
    }


WRONG_BUDGETS = [
    (["--cap", "-5"], "from 0 up"),
    (["--cap", "NaN"], "from 0 up"),
    (["--cap", "inf"], "from 0 up"),
    (["--cap", "1e3"], "from 0 up"),
    (["--cap", "1,000"], "from 0 up"),
    (["--cap", "0.00"], "no cap at all"),
    (["--cap", "1000000000000"], "from 0 up"),
    (["--cap", "5", "--no-cap"], "exclude each other"),
    (["--override-for", "24h", "--no-override"], "exclude each other"),
    (["--override-for", "1h", "--override-until", "2090-01-01"], "exclude each other"),
    (["--override-for", "soon"], "90m, 24h or 7d"),
    (["--override-for", "0h"], "90m, 24h or 7d"),
    (["--override-until", "2020-01-01"], "in the future"),
    (["--override-until", "tomorrow"], "2026-11-30T00:00:00Z"),
]


async def test_a_wrong_budget_is_refused_and_changes_nothing(
    terminal: Terminal, subtests: pytest.Subtests
) -> None:
    key = await terminal.database.resolve_api_key("key_1", "acme", "Ada")
    await terminal.database.operating.set_budget(key.id, Decimal(7))
    before = await terminal.database.operating.get_api_key("key_1")
    for args, said in WRONG_BUDGETS:
        with subtests.test(" ".join(args)):
            assert said in (await terminal.flow("keys", "budget", "Ada", *args)).failure
            assert await terminal.database.operating.get_api_key("key_1") == before


@given(st.text(max_size=20) | st.decimals().map(str) | st.floats().map(str))
def test_an_amount_is_exact_or_refused(text: str) -> None:
    try:
        value = typed.amount(text, "A cap")
    except InvalidInput:
        return
    assert value.is_finite()
    assert 0 <= value < 10**12
    assert value == Decimal(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-30", datetime(2026, 11, 30, tzinfo=UTC)),
        ("2026-11-30T00:00:00Z", datetime(2026, 11, 30, tzinfo=UTC)),
        ("2026-11-30 01:30+02:00", datetime(2026, 11, 29, 23, 30, tzinfo=UTC)),
    ],
)
def test_a_time_is_read_in_utc(text: str, moment: datetime) -> None:
    assert typed.later(text, "--expires", NOW) == moment


@pytest.mark.parametrize(
    "text", ["", "0001-01-01T00:00:00+10:00", "2026-11-21T12:00:00Z", "x" * 99]
)
def test_a_time_that_is_over_or_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="--expires must be"):
        typed.later(text, "--expires", NOW)


async def test_save_mode_is_set_and_left_to_the_product(terminal: Terminal) -> None:
    key = await terminal.database.resolve_api_key("key_1", "acme", "Ada")
    for typed_mode, stored in [("on", SaveMode.ON), ("default", None), ("off", SaveMode.OFF)]:
        done = await terminal.flow("keys", "save-mode", "Ada", typed_mode, "--json")
        assert done.json["save_mode"] == (stored and stored.value)
        assert (await terminal.database.operating.get_api_key(str(key.id))).save_mode is stored
    assert (await terminal.flow("keys", "save-mode", "Ada", "cheap")).code == 2


async def test_a_teams_quotas_are_set_listed_and_lifted(terminal: Terminal) -> None:
    async def quotas(*args: str) -> dict[str, str]:
        done = await terminal.flow("keys", "quota", "acme", *args, "--json")
        return {one["resource"]: one["limit"] for one in done.json["quotas"]}

    assert await quotas() == {}
    assert await quotas("ai_credits", "2500.5") == {"ai_credits": "2500.5"}
    assert await quotas("concurrent_calls", "0") == {"concurrent_calls": "0"}
    assert await quotas() == {"ai_credits": "2500.5", "concurrent_calls": "0"}
    assert await quotas("ai_credits") == {"ai_credits": "2500.5"}
    assert await quotas("ai_credits", "none") == {}
    assert await quotas() == {"concurrent_calls": "0"}
    assert "reached" in (await terminal.flow("keys", "quota", "acme")).out
    other = await terminal.flow("keys", "quota", "other", "--json")
    assert other.json == {"quotas": []}


async def test_credits_are_what_the_operators_products_count(
    terminal: Terminal, tmp_path: Path
) -> None:
    file = tmp_path / "products.toml"
    file.write_text(PRODUCTS)
    terminal.env["FLOW_PRODUCTS_FILE"] = str(file)
    key = await terminal.database.resolve_api_key("key_1", "acme", "Ada")
    thread = await a_thread(terminal.database, key)
    await terminal.database.record_usage([an_event(thread, occurred_at=datetime.now(UTC))])
    done = await terminal.flow("keys", "quota", "acme", "voice_credits", "10", "--json")
    (quota,) = done.json["quotas"]
    assert (quota["used"], quota["limit"], quota["limited"]) == ("0.044", "10", False)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["minutes", "5"], "use ai_credits"),
        (["ai_credits", "lots"], "from 0 up"),
        (["ai_credits", "-1"], "from 0 up"),
        (["ai_credits", "NaN"], "from 0 up"),
    ],
)
async def test_a_quota_that_would_limit_nobody_is_refused(
    terminal: Terminal, args: list[str], said: str
) -> None:
    assert said in (await terminal.flow("keys", "quota", "acme", "--", *args)).failure


async def test_a_teams_budget_is_shown_set_and_lifted(terminal: Terminal) -> None:
    async def budgets(*args: str) -> list[tuple[str, str]]:
        done = await terminal.flow("teams", "budget", "acme", *args, "--json")
        return [(one["team_id"], one["limit"]) for one in done.json["budgets"]]

    assert await budgets() == []
    assert await budgets("--cap", "12.5") == [("acme", "12.5")]
    assert await budgets() == [("acme", "12.5")]
    assert "12.5" in (await terminal.flow("teams", "budget", "acme")).out
    assert await budgets("--no-cap") == []


async def test_a_keys_rates_are_set_one_by_one_and_lifted_together(terminal: Terminal) -> None:
    await terminal.database.resolve_api_key("key_1", "acme", "Ada")

    async def rates(*args: str) -> object:
        return (await terminal.flow("keys", "rates", "Ada", *args, "--json")).json["rates"]

    assert await rates() == {}
    assert await rates("--requests-per-minute", "60") == {"requests_per_minute": 60}
    both = {"requests_per_minute": 60, "concurrent_requests": 4}
    assert await rates("--concurrent-requests", "4") == both
    assert "requests per minute" in (await terminal.flow("keys", "show", "Ada")).out
    assert await rates("--none") == {}
