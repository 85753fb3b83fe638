"""The waits of a call in three numbers."""

from __future__ import annotations

import pytest

from flow.domain.calls.latency import CallLatency, TurnLatency


def waits(*secs: float) -> list[TurnLatency]:
    return [TurnLatency(llm_secs=one) for one in secs]


@pytest.mark.parametrize(
    ("turns", "summary"),
    [
        (waits(), None),
        (waits(0.7), CallLatency(0.7, 0.7, 0.7)),
        (waits(3.0, 1.0, 2.0), CallLatency(2.0, 3.0, 3.0)),
        (waits(*range(1, 101)), CallLatency(50, 95, 100)),
    ],
)
def test_percentiles_are_waits_that_occurred(
    turns: list[TurnLatency], summary: CallLatency | None
) -> None:
    assert CallLatency.of(turns) == summary


def test_a_wait_is_the_sum_of_its_parts_and_comes_back_from_its_json() -> None:
    latency = TurnLatency(0.1, 0.2, 0.3, 0.05, 0.2, 0.01)
    assert latency.total_secs == 0.86
    assert TurnLatency.from_json(latency.to_json()) == latency
