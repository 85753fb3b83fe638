"""A place that logs again and again is heard once, with a count; a line has its length."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.telemetry.log_limits import ALL, EACH, MAX_LINE, WINDOW_SECS, RateLimit, bounded

PLACE = ("frame_failed",)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_a_place_is_heard_so_often_a_window_and_the_rest_is_counted() -> None:
    clock = Clock()
    limit = RateLimit(clock=clock)
    assert sum(limit.admits(PLACE) for _ in range(10_000)) == EACH
    assert limit.admits(("another",))
    assert limit.take_suppressed() == {}
    clock.now += WINDOW_SECS
    assert limit.take_suppressed() == {PLACE: 10_000 - EACH}
    assert limit.take_suppressed() == {}
    assert limit.admits(PLACE)


def test_each_call_is_heard_but_all_together_not_without_end() -> None:
    limit = RateLimit(clock=Clock())
    heard = [limit.admits(PLACE, f"call {n % 1_000}") for n in range(5_000)]
    assert sum(heard) == ALL
    one = RateLimit(clock=Clock())
    assert sum(one.admits(PLACE, "call 1") for _ in range(50)) == EACH
    assert one.admits(PLACE, "call 2")


def test_what_is_suppressed_when_a_window_begins_anew_is_not_forgotten() -> None:
    clock = Clock()
    limit = RateLimit(clock=clock)
    for _ in range(EACH + 7):
        limit.admits(PLACE)
    clock.now += WINDOW_SECS
    assert limit.admits(PLACE)
    assert limit.take_suppressed() == {PLACE: 7}


def test_at_the_end_windows_that_are_not_over_are_told_too() -> None:
    limit = RateLimit(clock=Clock())
    for _ in range(EACH + 1):
        limit.admits(PLACE)
    assert limit.take_suppressed(now=True) == {PLACE: 1}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20_000),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=9), VALUES, max_size=60))
def test_no_line_is_longer_than_it_may_be(event: dict[str, Any]) -> None:
    line = bounded(json.dumps, {"event": "e" * 10_000} | event)
    assert len(line) <= MAX_LINE
    assert json.loads(line)["event"]


def test_a_short_line_is_left_as_it_is() -> None:
    event = {"event": "call_ended", "n": 1, "text": "x" * 1_000, "list": [1, {"a": None}]}
    assert json.loads(bounded(json.dumps, event)) == event


def test_of_a_long_value_the_beginning_and_the_end_are_kept_and_the_cut_is_said() -> None:
    trace = "Traceback" + "x" * 205_000 + "ValueError: in the end"
    line = json.loads(bounded(json.dumps, {"event": "failed", "exception": trace}))
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: in the end")
    assert "characters left out" in line["exception"]


FLOOD = """
import logging, sys
from flow.telemetry import logs as log
log.set_up("info", sys.argv[1], content=False)
import structlog
from loguru import logger
for n in range(1_000):
    structlog.get_logger().error("frame_failed", n=n)
    logging.getLogger("library").warning(f"a library says {n}")
    logger.error(f"pipecat says {n}")
    structlog.get_logger().info("request", n=n)
try:
    raise ValueError("x" * 205_000)
except ValueError:
    structlog.get_logger().exception("request_failed")
    logging.getLogger("library").exception("library_failed")
"""


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_flood_is_a_few_lines_and_a_count_whoever_logs(form: str) -> None:
    done = subprocess.run([sys.executable, "-c", FLOOD, form], capture_output=True, check=True)
    text = done.stderr.decode()
    for said in ("frame_failed", "a library says", '"pipecat"' if form == "json" else "pipecat "):
        assert EACH <= text.count(said) <= EACH + 2, said
    assert text.count("log_lines_suppressed") == 3
    assert text.count("990") >= 3
    assert max(map(len, text.splitlines())) <= MAX_LINE
    assert len(text) < 1_000 * 200 + 4 * MAX_LINE
    # What is no trouble is no flood: a line a request.
    assert text.count("request ") + text.count('"request"') >= 1_000
