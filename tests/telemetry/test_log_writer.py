"""A log that is read slowly, or not at all, keeps nobody waiting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from flow.telemetry.log_writer import LogWriter

LINE = "x" * 99 + "\n"
MAX_BYTES = 10_000
PIPE_BYTES = 65_536


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


def writer_to(fd: int) -> LogWriter:
    return LogWriter(fd, dropped_line=lambda lines: f"dropped {lines}\n", max_bytes=MAX_BYTES)


def read_to(fd: int, end: str) -> list[str]:
    text = ""
    while end not in text:
        text += os.read(fd, 1 << 16).decode()
    return text.splitlines()


def test_lines_that_do_not_fit_are_dropped_and_counted_once_there_is_room(
    pipe: tuple[int, int],
) -> None:
    reading, writing = pipe
    os.write(writing, b"." * (PIPE_BYTES - 1) + b"\n")
    writer, many = writer_to(writing), 1_000
    began = time.monotonic()
    for _ in range(many):
        writer.write(LINE)
    assert time.monotonic() - began < 5
    assert not writer.drain(0.1)
    dropped = writer.take_dropped()
    assert dropped >= many - MAX_BYTES // len(LINE) - 1
    assert writer.take_dropped() == 0
    lines = read_to(reading, "dropped")
    assert lines[-1] == f"dropped {dropped}"
    assert len(lines) == 1 + many - dropped + 1
    writer.write("again\n")
    assert read_to(reading, "again") == ["again"]
    assert writer.drain(5)


def test_lines_of_many_threads_come_whole_and_each_once(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    writer = writer_to(writing)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.extend(read_to(reading, "the end")))
    reader.start()

    def write(name: int) -> None:
        for n in range(200):
            writer.write(f"{name} {n}\n")
            while not writer.drain(5):
                pass

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.write("the end\n")
    reader.join(10)
    assert sorted(read[:-1]) == sorted(f"{name} {n}" for name in range(4) for n in range(200))


def test_where_nobody_will_ever_read_nothing_fails() -> None:
    reading, writing = os.pipe()
    writer = writer_to(writing)
    os.close(reading)
    for _ in range(10):
        writer.write(LINE)
    assert writer.drain(5)
    os.close(writing)


FORKED = """
import os, sys
from flow.telemetry import logs as log
log.set_up("info", "json", content=False)
import structlog
structlog.get_logger().info("parent", n=1)
if os.fork() == 0:
    structlog.get_logger().info("child")
    log._current.writer.drain(5)
    os._exit(0)
os.wait()
structlog.get_logger().info("parent", n=2)
"""


def test_a_forked_process_logs_its_own_lines_and_not_its_parents() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, check=True)
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert sorted(events) == ["child", "parent", "parent"]


UNREAD = """
import logging, sys, threading, time, warnings
from flow.telemetry import logs as log
log.set_up("info", "json", content=False)
import structlog
from loguru import logger
began = time.monotonic()
for n in range(5_000):
    structlog.get_logger().info("call_ended", n=n, text="x" * 100)
    logging.getLogger("library").info("a library says %s", "y" * 100)
    logger.error("pipecat says")
    warnings.warn(f"a warning {n}")
def fail():
    raise ValueError("in a thread")
threading.Thread(target=fail).start()
print(time.monotonic() - began, log.take_dropped(), flush=True)
"""


def test_a_process_whose_log_nobody_reads_goes_on_and_ends() -> None:
    """Whoever logs: Flow, a library, Pipecat, Python itself."""
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", UNREAD], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        secs, dropped = process.stdout.readline().split()
        assert float(secs) < 20
        assert int(dropped) > 0
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"{")
    assert time.monotonic() - began < 60
