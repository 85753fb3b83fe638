"""The usage report: the right days, the right rows, exact, and safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from flow.api.usage import UsageReport
from flow.domain.usage.reports import GROUPS, MEASURES
from tests.api.conftest import Api, spend


async def test_a_report_sums_what_the_key_used(api: Api) -> None:
    thread_id = (await api.join())["workflow_thread_id"]
    for model, cost in (("a", "0.1"), ("b", "0.2000000000000000001"), ("b", "0.1")):
        await spend(api, thread_id, cost, model=model)
    report = (await api.client.get("/api/usage?group_by=model,provider")).json()
    assert report.keys() == {"from", "to", "group_by", "rows"}
    UsageReport.model_validate(report)
    assert report["group_by"] == ["model", "provider"]
    costs = {row["model"]: row["total_cost_usd"] for row in report["rows"]}
    assert costs == {"a": "0.1", "b": "0.3000000000000000001"}
    (whole,) = (await api.client.get("/api/usage")).json()["rows"]
    assert Decimal(whole["total_cost_usd"]) == Decimal("0.4000000000000000001")
    assert whole["events"] == 3


async def test_every_column_of_the_report_is_in_the_spreadsheet(api: Api) -> None:
    thread_id = (await api.join())["workflow_thread_id"]
    await spend(api, thread_id, "0.1")
    everything = ",".join(GROUPS)
    (row,) = (await api.client.get(f"/api/usage?group_by={everything}")).json()["rows"]
    assert row.keys() == {*GROUPS, *MEASURES}
    response = await api.client.get(
        f"/api/usage?group_by={everything}", headers={"Accept": "text/csv"}
    )
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.headers["vary"] == "Accept"
    assert "attachment" in response.headers["content-disposition"]
    (cells,) = csv.DictReader(io.StringIO(response.text, newline=""))
    assert cells == {name: "" if value is None else str(value) for name, value in row.items()}


async def test_what_had_no_price_has_no_cost(api: Api) -> None:
    thread_id = (await api.join())["workflow_thread_id"]
    await spend(api, thread_id, None)
    (row,) = (await api.client.get("/api/usage")).json()["rows"]
    assert row["total_cost_usd"] is None
    assert row["unpriced_events"] == 1
    csv_text = (await api.client.get("/api/usage", headers={"Accept": "text/csv"})).text
    (cells,) = csv.DictReader(io.StringIO(csv_text, newline=""))
    assert cells["total_cost_usd"] == ""


async def test_a_model_named_like_a_formula_is_harmless(api: Api) -> None:
    thread_id = (await api.join())["workflow_thread_id"]
    await spend(api, thread_id, "0.1", model='=HYPERLINK("http://evil.example";"x")')
    response = await api.client.get("/api/usage?group_by=model", headers={"Accept": "text/csv"})
    (cells,) = csv.DictReader(io.StringIO(response.text, newline=""))
    assert cells["model"].startswith("'=")


async def test_without_usage_there_are_no_rows_but_a_header(api: Api) -> None:
    assert (await api.client.get("/api/usage?group_by=day")).json()["rows"] == []
    response = await api.client.get("/api/usage?group_by=day", headers={"Accept": "text/csv"})
    assert response.text == ",".join(["day", *MEASURES]) + "\r\n"


async def test_usage_counts_on_the_day_it_occurred(api: Api) -> None:
    thread_id = (await api.join())["workflow_thread_id"]
    late = datetime(2026, 3, 31, 23, 59, 59, tzinfo=UTC)
    await spend(api, thread_id, "0.1", occurred_at=late)
    march = (await api.client.get("/api/usage?from=2026-03-01&group_by=day")).json()
    assert (march["from"], march["to"]) == ("2026-03-01", "2026-03-31")
    assert [row["day"] for row in march["rows"]] == ["2026-03-31"]
    assert (await api.client.get("/api/usage?from=2026-04-01")).json()["rows"] == []


async def test_another_keys_usage_is_not_in_the_report(api: Api) -> None:
    thread_id = (await api.join())["workflow_thread_id"]
    await spend(api, thread_id, "0.1")
    assert (await api.other.get("/api/usage")).json()["rows"] == []


WRONG_QUERIES = [
    ("from=2026-02-30", "from"),
    ("from=yesterday", "from"),
    ("to=99999-01-01", "to"),
    ("from=2026-02-02&to=2026-02-01", "from"),
    ("group_by=colour", "group_by"),
    ("group_by=day;drop table", "group_by"),
    ("group_by=" + "day," * 100, "group_by"),
    ("group_by=%00", "group_by"),
]


async def test_a_wrong_query_is_named(api: Api, subtests: pytest.Subtests) -> None:
    for query, field in WRONG_QUERIES:
        with subtests.test(query[:40]):
            response = await api.client.get(f"/api/usage?{query}")
            assert response.status_code == 422
            assert [error["field"] for error in response.json()["errors"]] == [field]


@pytest.mark.parametrize("query", ["from=0001-01-01&to=9999-12-31", "group_by=,day,,day,", ""])
async def test_an_odd_query_that_makes_sense_is_answered(api: Api, query: str) -> None:
    assert (await api.client.get(f"/api/usage?{query}")).status_code == 200


@pytest.mark.parametrize("day", ["0", "1763700000", "20261121", "2026-11-21T00:00:00", "%D9%A1"])
async def test_a_day_is_written_in_one_way(api: Api, day: str) -> None:
    response = await api.client.get(f"/api/usage?to={day}")
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    (problem,) = response.json()["errors"]
    assert problem["message"] == "must be a day as in 2026-11-21"


async def test_a_form_there_is_not_is_refused(api: Api) -> None:
    response = await api.client.get("/api/usage", headers={"Accept": "application/pdf"})
    assert (response.status_code, response.json()["code"]) == (406, "not_acceptable")
