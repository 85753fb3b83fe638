"""``make chaos`` works: it finds its experiments, and says so when something does not hold."""

from __future__ import annotations

import asyncio
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import __main__ as command
from tests.chaos.experiment import Experiment, Findings, Scale, load, names
from tests.chaos.world import World


def test_every_experiment_is_found_and_says_what_it_breaks() -> None:
    assert list(names()) == [f"r{number}" for number in range(1, 18)]
    for name in names():
        experiment = load(name)
        assert experiment.id == name.upper()
        assert experiment.fault.strip()
        assert "\n" not in experiment.fault


def test_an_unknown_experiment_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["r99"])
    assert ended.value.code == 2
    assert "r99" in capsys.readouterr().err


async def _holds(world: World, scale: Scale, found: Findings) -> None:
    found.holds("numbers", 1, 1)
    found.within("seconds", 2.0, 1.0)


async def _lacks(world: World, scale: Scale, found: Findings) -> None:
    await _holds(world, scale, found)
    found.none("lost calls", ["one"])


async def _exceeds(world: World, scale: Scale, found: Findings) -> None:
    found.within("seconds", 2.0, 2.1)


async def _checks_nothing(world: World, scale: Scale, found: Findings) -> None:
    return


async def _breaks(world: World, scale: Scale, found: Findings) -> None:
    await _holds(world, scale, found)
    raise RuntimeError("out of order")


async def _hangs(world: World, scale: Scale, found: Findings) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("run", "code", "said"),
    [
        (_holds, 0, "held"),
        (_lacks, 1, "1: one"),
        (_exceeds, 1, "<= 2"),
        (_checks_nothing, 1, "DID NOT HOLD"),
        (_breaks, 1, "out of order"),
        (_hangs, 1, "more than 0.1 s"),
    ],
)
def test_what_does_not_hold_is_the_exit_code(
    run: Any,
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    given = Experiment("R1", "a fault", run, 60.0, 0.1 if run is _hangs else 60.0)
    file = tmp_path / "chaos.json"
    arguments = ["r1", "--short", "--seed", "7", "--json", str(file)]
    nowhere: Any = nullcontext
    assert command.main(arguments, lambda name: given, nowhere) == code
    assert said in " ".join(capsys.readouterr().out.split())
    report = json.loads(file.read_text())
    assert (report["held"], report["short"], report["seed"]) == (code == 0, True, 7)
    assert [one["held"] for one in report["experiments"]] == [code == 0]


@pytest.mark.parametrize(("fails", "code"), [(0, 0), (1, 0), (2, 1)])
def test_what_does_not_hold_can_be_tried_once_more(fails: int, code: int) -> None:
    runs = iter([_lacks] * fails + [_holds] * 2)

    async def run(*given: Any) -> None:
        await next(runs)(*given)

    given = Experiment("R1", "a fault", run, 60.0, 60.0)
    arguments = ["r1", "--short", "--again"]
    assert command.main(arguments, lambda _: given, lambda _: nullcontext()) == code
