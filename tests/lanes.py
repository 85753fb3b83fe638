"""All tests, as `make test` runs them: those that wait in front, those that compute behind them.

``python -m tests.lanes [--lane LANE]... [--again] [-- PYTEST_OPTION...]``

Calls are in real time and wait more than they work; units and databases keep a processor busy. So
both run at once: calls first, and the others with what those leave of the machine. Lanes that are
named run one after the other, alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

FAILED, NO_TESTS = 1, 5
"""pytest's own statuses."""
NICENESS = 10
TESTS = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Run:
    """One run of pytest, of lanes that share its processes.

    Most tests wait for something, and those in real time for most of it: more processes than
    processors finish sooner.
    """

    lanes: tuple[str, ...]
    workers: int = 5

    def status(self, options: Sequence[str], *, behind: bool = False) -> int:
        """Run it, and return pytest's status. ``behind`` others it makes way for them, and is
        shown when it has ended."""
        title = f"== {' and '.join(self.lanes)}"
        if not behind:
            _tell(title)
            return subprocess.run(self._command(options), check=False).returncode
        with tempfile.TemporaryFile() as shown:
            ended = subprocess.run(
                ["nice", "-n", str(NICENESS), *self._command(options)],
                stdout=shown,
                stderr=subprocess.STDOUT,
                check=False,
            )
            shown.seek(0)
            text = shown.read().decode(errors="replace")
        _tell(f"{title} (ran behind the others)\n{text}")
        return ended.returncode

    def compile(self) -> None:
        """Have one process compile what each of the others would compile anew, if none has yet."""
        if not any((TESTS / "__pycache__").glob("*-pytest-*")):
            subprocess.run(
                [*self._pytest(), "--collect-only", "-q"], stdout=subprocess.DEVNULL, check=False
            )

    def _command(self, options: Sequence[str]) -> list[str]:
        # What failed is kept by each run for itself.
        cache = f"cache_dir=.pytest_cache/{'-'.join(self.lanes)}"
        return [*self._pytest(), "-n", str(self.workers), "-o", cache, *options]

    def _pytest(self) -> list[str]:
        lanes = chain.from_iterable(("--lane", lane) for lane in self.lanes)
        return [sys.executable, "-m", "pytest", *lanes]


# Lanes that share processes save what it takes to import and set up everything in each. One browser
# is enough for all its tests.
IN_FRONT = (Run(("contract", "calls", "system"), 8), Run(("browser",), 1))
BEHIND = (Run(("unit", "db"), 4),)
ALONE = {"contract": 8, "calls": 8, "browser": 1}


def main() -> int:
    """Run them: 0 if all is well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lane", action="append", default=[], help="only these")
    parser.add_argument("--again", action="store_true", help="try what failed once more, by itself")
    parser.add_argument("options", nargs="*", help="pytest's")
    given = parser.parse_args()
    named = [Run((lane,), ALONE.get(lane, 5)) for lane in given.lane]
    statuses = _in_turn(named, given.options) if named else _at_once(given.options)
    if given.again:
        statuses = {run: _again(run, status, given.options) for run, status in statuses.items()}
    if given.options:  # They may leave none in a lane.
        statuses = {run: 0 if status == NO_TESTS else status for run, status in statuses.items()}
    return max(statuses.values())


def _in_turn(
    runs: Sequence[Run], options: Sequence[str], *, behind: bool = False
) -> dict[Run, int]:
    return {run: run.status(options, behind=behind) for run in runs}


def _at_once(options: Sequence[str]) -> dict[Run, int]:
    with ThreadPoolExecutor() as threads:
        list(threads.map(Run.compile, (*IN_FRONT[:1], *BEHIND)))
        others = threads.submit(_in_turn, BEHIND, options, behind=True)
        return _in_turn(IN_FRONT, options) | others.result()


def _again(run: Run, status: int, options: Sequence[str]) -> int:
    """What else may go wrong, such as a lane that could not be run to its end, stays wrong."""
    if status != FAILED:
        return status
    _tell("== What failed, once more, when no others run")
    failed = ("--last-failed", "--last-failed-no-failures", "none")
    return replace(run, workers=2).status([*failed, *options])


def _tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    os.chdir(TESTS.parent)
    sys.exit(main())
