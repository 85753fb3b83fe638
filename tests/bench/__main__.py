"""``python -m tests.bench [NAMES] [--json FILE] [--rounds N] [--quick]``."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flow.telemetry import logs as log
from tests.bench.measure import Measure, Options

Benchmark = Callable[[Options], Awaitable[list[Measure]]]

BENCHMARKS: Mapping[str, str] = {
    "p1": "join:joins",
    "p2": "litellm:proxy",
    "p3": "realtime:metering",
    "p4": "ledger:latency",
    "p5": "ledger:throughput",
    "p6": "report:usage",
    "p7": "realtime:at_once",
    "p8": "realtime:workers",
    "p9": "start:starting",
    "p10": "realtime:one_more",
    "p11": "voice_to_voice:turns",
    "p12": "gateway:requests",
    "p13": "console:pages",
    "capacity": "capacity:carried",
}
LONGEST_SECS = 600.0


def main(arguments: list[str]) -> int:
    """Run benchmarks and print what they say; 0 unless one could not be run."""
    options = _parser().parse_args(arguments)
    log.set_up("error", "console", content=False)
    console = Console(highlight=False, width=max(Console().width, 110))
    measures: list[Measure] = []
    failed: dict[str, str] = {}
    for name in options.names or BENCHMARKS:
        begun = time.monotonic()
        try:
            measures += asyncio.run(_bounded(name, Options(options.quick, options.rounds)))
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"
        console.print(f"[dim]{name} took {time.monotonic() - begun:.0f} s[/dim]")
    console.print(_table(measures))
    for name, why in failed.items():
        console.print(f"[red]{name} could not be run:[/red] {why}")
    if options.json is not None:
        options.json.write_text(json.dumps(_report(options, measures, failed), indent=2) + "\n")
    return 1 if failed else 0


async def _bounded(name: str, options: Options) -> list[Measure]:
    # Imported once logging is set up: Pipecat says hello when it is.
    module, _, function = BENCHMARKS[name].partition(":")
    benchmark: Benchmark = getattr(import_module(f"tests.bench.{module}"), function)
    async with asyncio.timeout(LONGEST_SECS):
        return await benchmark(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", type=_name, help=f"of {', '.join(BENCHMARKS)}; or all")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--rounds", type=int, default=3, help="of baseline and Flow in turn")
    parser.add_argument("--quick", action="store_true", help="only show that it works")
    return parser


def _name(text: str) -> str:
    if text not in BENCHMARKS:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(BENCHMARKS)}")
    return text


def _table(measures: list[Measure]) -> Table:
    table = Table("", "", "found", "bar", "", "details")
    table.columns[2].justify = "right"
    for one in measures:
        verdict = {True: "[green]pass[/green]", False: "[red]FAIL[/red]", None: "-"}[one.passed]
        found = "-" if one.value is None else f"{one.value:,.2f} {one.unit}"
        said = ", ".join(f"{name} {value}" for name, value in one.details.items())
        table.add_row(one.id, one.what, found, one.bar, verdict, said)
    return table


def _report(
    options: argparse.Namespace, measures: list[Measure], failed: dict[str, str]
) -> dict[str, Any]:
    return {
        "at": datetime.now(UTC).isoformat(),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "cpu": _cpu()},
        "quick": options.quick,
        "rounds": options.rounds,
        "measures": [measure.to_json() for measure in measures],
        "failed": failed,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
