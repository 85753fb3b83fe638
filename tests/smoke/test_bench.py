"""``make bench`` works: its numbers are a machine's affair, their shape is not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]


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
    assert {one["id"] for one in carried} == {"carry"}
    assert Counter(one["unit"] for one in carried) == {"ms CPU": 8, "calls": 6}
    whole = {one["what"]: one["value"] for one in carried if one["unit"] == "ms CPU"}
    assert whole["finishing: insights, settling, the workflow"] > 0
    at_once = [one["value"] for one in carried if one["what"].startswith("calls at once")]
    assert 0 < at_once[0] < at_once[1] < at_once[2]
    for one in measures[1:]:
        assert one["value"] > 0
        assert one["passed"] in (True, False)
        assert one["what"] in done.stdout.replace("\n", " ") or one["id"] in done.stdout
    assert measures[0]["passed"] is None
    assert all(one["details"]["bare_insert_per_sec"] > 0 for one in measures[4:])
    assert all(one["details"]["events"] > 0 for one in measures[1:3])
