"""``make chaos`` works on the real thing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_short_experiment_runs_on_the_real_thing(tmp_path: Path) -> None:
    file = tmp_path / "chaos.json"
    arguments = [sys.executable, "-m", "tests.chaos", "r7", "--short", "--json", str(file)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=115)
    assert done.returncode == 0, done.stdout + done.stderr
    (experiment,) = json.loads(file.read_text())["experiments"]
    checked = {check["what"]: check["held"] for check in experiment["checks"]}
    assert len(checked) > 7
    assert all(checked.values())
