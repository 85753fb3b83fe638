"""What ``make bench`` measures with, and what it refuses."""

from __future__ import annotations

import pytest

from tests.bench.__main__ import main
from tests.bench.capacity import EVENTS_A_MINUTE, IN_USE, MINUTES, TURNS_A_MINUTE, Costs
from tests.bench.measure import at_least, at_most, percentile


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
