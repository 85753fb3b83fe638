"""What reaches the log: events with fields, and not a word that was said."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import logging, sys
from flow.telemetry import logs as log
log.set_up("debug", "json", content=sys.argv[1] == "content")
from loguru import logger
logger.debug("Generating TTS [my card number is 1234]")
logger.warning("not speaking [my card number is 1234]")
logging.getLogger("some.library").warning("a library says")
import structlog
structlog.get_logger().info("call_ended", reason="caller_hung_up")
def secretive():
    password = "hunter" + "2"
    raise ValueError("it failed")
try:
    secretive()
except ValueError:
    structlog.get_logger().exception("work_failed")
"""


TOGETHER = """
import logging, threading
from flow.telemetry import logs as log
log.set_up("info", "json", content=False)
import structlog

def ours():
    for n in range(500):
        structlog.get_logger().info("ours", n=n)

def a_librarys():
    for n in range(500):
        logging.getLogger("library").info("theirs")

threads = [threading.Thread(target=work) for work in (ours, a_librarys, ours, a_librarys)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


UNREAD = """
import sys
from flow.telemetry import logs as log
log.set_up("info", "json", content=False)
import structlog
sys.stderr.close()
structlog.get_logger().info("call_ended")
print("still here")
"""


def lines(form: str) -> list[dict[str, object]]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, form], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    assert "hunter2" not in done.stderr
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_pipecats_texts_stay_out_unless_content_is_switched_on() -> None:
    logged = lines("private")
    assert "1234" not in json.dumps(logged)
    assert [line["level"] for line in logged if line["event"] == "pipecat"] == ["warning"]


def test_pipecats_texts_are_there_when_content_is_switched_on() -> None:
    texts = [line.get("text") for line in lines("content") if line["event"] == "pipecat"]
    assert texts == [
        "Generating TTS [my card number is 1234]",
        "not speaking [my card number is 1234]",
    ]


@pytest.mark.parametrize("event", ["a library says", "call_ended", "work_failed"])
def test_every_source_ends_in_one_stream_of_events(event: str) -> None:
    (line,) = [line for line in lines("private") if line["event"] == event]
    assert line["timestamp"]
    assert line["level"]


def test_each_line_is_one_event_whoever_logs_at_the_same_time() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TOGETHER], capture_output=True, text=True, check=True
    )
    logged = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert (logged.count("ours"), logged.count("theirs")) == (1000, 1000)


def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNREAD], capture_output=True, text=True, check=True
    )
    assert done.stdout == "still here\n"
