"""The numbers of several processes, of which some are dead."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flow.telemetry.prometheus_exposition import FOLDER, shared_between_processes
from tests.telemetry.exposition import Scraped

WORKER = """
import sys
from prometheus_client import CollectorRegistry
from flow.telemetry.metrics import Metrics
metrics = Metrics(CollectorRegistry(), products=["voice_bot"])
metrics.calls_started.labels("voice_bot").inc(3)
metrics.calls_running.set(2)
metrics.spool_oldest_secs.set(float(sys.argv[1]))
print("counted", flush=True)
sys.stdin.read()
"""
SCRAPE = """
import asyncio
from prometheus_client import CollectorRegistry, generate_latest
from flow.telemetry.prometheus_exposition import exposed
from flow.telemetry.metrics import Metrics
async def scrape():
    metrics = Metrics(CollectorRegistry(), products=["voice_bot"])
    async with exposed(metrics.registry, lambda: metrics.calls_running.set(1)) as shown:
        print(generate_latest(shown).decode())
asyncio.run(scrape())
"""


def worker(age: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, age]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "counted\n"
    return process


def scrape() -> Scraped:
    command = [sys.executable, "-c", SCRAPE]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Scraped(done.stdout)


def test_counters_keep_what_the_dead_counted_and_gauges_count_the_living() -> None:
    with shared_between_processes():
        first, second = worker("5"), worker("7")
        both = scrape()
        second.kill()
        second.communicate()
        one = scrape()
        first.communicate()
        none = scrape()
    assert both["flow_calls_started_total"] == 6
    assert both["flow_calls_running"] == 2 + 2 + 1
    assert both["flow_spool_oldest_age_seconds"] == 7
    assert one["flow_calls_started_total"] == none["flow_calls_started_total"] == 6
    assert one["flow_calls_running"] == 2 + 1
    assert one["flow_spool_oldest_age_seconds"] == 5
    assert none["flow_calls_running"] == 1


def test_the_folder_is_new_each_time_and_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = tmp_path / "metrics"
    monkeypatch.setenv(FOLDER, str(parent))
    folders = []
    for _ in range(2):
        with shared_between_processes():
            folders.append(Path(os.environ[FOLDER]))
            (folders[-1] / "counter_1.db").touch()
    assert folders[0] != folders[1]
    assert {folder.parent for folder in folders} == {parent}
    assert list(parent.iterdir()) == []
    assert os.environ[FOLDER] == str(parent)
