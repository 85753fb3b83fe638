"""``make bench`` works: its numbers are a machine's affair, their shape is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.__main__ import main
from tests.bench.capacity import EVENTS_A_MINUTE, IN_USE, MINUTES, TURNS_A_MINUTE, Costs
from tests.bench.measure import at_least, at_most, percentile

ROOT = Path(__file__).parent.parent


def test_a_quick_run_says_what_it_found_and_against_what_bar(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    command = [
        sys.executable,
        "-m",
        "tests.bench",
        "p2",
        "p4",
        "p5",
        "capacity",
        "--quick",
        "--json",
        file,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(file.read_text())
    assert report["quick"]
    assert report["failed"] == {}
    measures = [one for one in report["measures"] if one["id"].startswith("P")]
    carried = [one for one in report["measures"] if one not in measures]
    assert [one["id"] for one in measures] == ["P2", "P4", "P4", "P4", "P5", "P5"]
    assert len(carried) > 1
    assert all(one["value"] >= 0 for one in carried)
    for one in measures[1:]:
        assert one["value"] > 0
        assert one["passed"] in (True, False)
        assert one["what"] in done.stdout.replace("\n", " ") or one["id"] in done.stdout
    assert measures[0]["passed"] is None
    assert all(one["details"]["bare_insert_per_sec"] > 0 for one in measures[4:])
    assert all(one["details"]["events"] > 0 for one in measures[1:3])


def test_an_unknown_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["p99"])
    assert ended.value.code == 2
    assert "p99" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "most", "least"), [(1, True, False), (2, True, True), (3, False, True)]
)
def test_a_bar_is_met_where_it_is_reached(value: float, most: bool, least: bool) -> None:
    assert at_most("P0", "", value, 2, "x").passed is most
    assert at_least("P0", "", value, 2, "x").passed is least


def test_a_percentile_is_one_of_the_values() -> None:
    assert [percentile([3, 1, 2, 4], p) for p in (0, 50, 99, 100)] == [1, 3, 4, 4]
    assert percentile([], 50) == 0


def test_what_a_database_carries_is_the_sum_of_what_calls_cost_it() -> None:
    costs = Costs(join=2, connect=3, heartbeat=1, turn=2, event=1, finish=10)
    minute = 12 * 1 + TURNS_A_MINUTE * 2 + EVENTS_A_MINUTE * 1
    assert costs.running_minute == minute
    assert costs.call == 15 + MINUTES * minute
    # So many calls at once use exactly the share of the cores that is given to them.
    a_minute = costs.at_once(2) / MINUTES * costs.call
    assert a_minute == pytest.approx(2 * 60_000 * IN_USE)
    assert costs.a_day(1) == pytest.approx(costs.at_once(1) * 480)
