"""Schemas and answers that take long, or break things: each gets its verdict, and in time."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

import psutil
import pytest

from flow.domain.insights.insight_schema import schema_problem
from flow.domain.insights.insights import DEFAULT_SCHEMA
from flow.errors import ChecksUnavailable
from flow.insights.answer import Answer
from flow.insights.schema_checker import Checker

T = TypeVar("T")
LONGEST_SECS = 20.0
"""For half a second of processor time, on a machine that has other things to do."""


async def uninterrupted(work: Awaitable[T]) -> T:
    """What the work gives, while the event loop goes on with other things."""
    longest, running = 0.0, True

    async def other_things() -> None:
        nonlocal longest
        while running:
            # Of this thread alone: what else the machine does is not the checker's doing.
            began = time.thread_time()
            await asyncio.sleep(0.005)
            longest = max(longest, time.thread_time() - began)

    others = asyncio.create_task(other_things())
    try:
        async with asyncio.timeout(LONGEST_SECS):
            return await work
    finally:
        running = False
        await others
        assert longest < 0.4


def a_checker(**options: Any) -> Checker:
    limits = {"schema_cpu_secs": 0.3, "answer_cpu_secs": 0.3, "wait_secs": LONGEST_SECS}
    return Checker(**limits | options)


def with_pattern(*patterns: str) -> dict[str, Any]:
    properties = {f"p{n}": {"pattern": pattern} for n, pattern in enumerate(patterns)}
    return {"type": "object", "properties": properties}


def doubling(key: str, leaf: dict[str, Any]) -> dict[str, Any]:
    """Two ways to each next step of 40."""
    defs = {f"d{n}": {key: [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    return {"type": "object", "$defs": {**defs, "d40": leaf}, "$ref": "#/$defs/d0"}


def nested(levels: int) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for _ in range(levels):
        data = {"a": data}
    return data


FOLDED = "(?i)" + "[ -\uffff]" * 270
ANY_SCRIPT = r"^[\p{L}\p{N}\s]{1,150}$"
COSTLY_SCHEMAS = {
    "folded case": with_pattern(*[f"{FOLDED}{n}" for n in range(11)]),
    "a repetition out of range": with_pattern("a{99999999999}"),
    "nested groups": with_pattern("(" * 1_000 + ")" * 1_000),
    "nested look-ahead": with_pattern("(?=" * 500 + ")" * 500),
    "nested repetitions": with_pattern("(((((a{90}){90}){90}){90}){90})"),
    "many large patterns": with_pattern(*[f"{ANY_SCRIPT}|{n}" for n in range(250)]),
    "a missing reference": {"type": "object", "$ref": "#/$defs/none"},
}


@pytest.mark.parametrize("schema", COSTLY_SCHEMAS.values(), ids=COSTLY_SCHEMAS)
async def test_a_schema_that_is_costly_or_none_has_its_problem_told_and_holds_nobody_up(schema):
    assert len(json.dumps(schema)) < 32_768
    assert schema_problem(schema) is None
    said = await uninterrupted(a_checker().schema_problem(schema))
    assert said
    assert len(said) < 400


@pytest.mark.parametrize(
    "schema",
    [
        DEFAULT_SCHEMA,
        with_pattern(r"^[\p{L} '-]{1,100}$", "^(?!x)"),
        with_pattern(*[rf"^\d{{{n}}}$" for n in range(1, 200)]),
        {"type": "object", "properties": {"a": {"$ref": "#"}}},
        doubling("allOf", {}),
    ],
    ids=["default", "pattern", "many patterns", "recursive", "doubling"],
)
async def test_a_schema_that_can_be_checked_has_no_problem(schema):
    assert await uninterrupted(a_checker().schema_problem(schema)) is None


def an_answer(data: Any) -> Answer:
    return Answer(data if isinstance(data, str) else json.dumps(data), None, "stop", "m")


def of_items(**item: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": {"type": "array", **item}}}


ENDLESS = {
    "doubled by allOf": (doubling("allOf", {}), {}),
    "doubled by anyOf": (doubling("anyOf", {"required": ["z"]}), {}),
    "doubled by oneOf": (doubling("oneOf", {"required": ["z"]}), {}),
    "doubled by depth": (
        {
            "type": "object",
            "properties": {"a": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}},
            "required": ["a"],
        },
        nested(50),
    ),
    "a large pattern on large texts": (
        of_items(items={"pattern": "(?:a[ab]{900}){3}c"}),
        {"a": [f"{n:b}".translate({48: "a", 49: "b"}) * 900 for n in range(1_000)]},
    ),
}


@pytest.mark.parametrize(("schema", "data"), ENDLESS.values(), ids=ENDLESS)
async def test_an_answer_that_would_take_for_ever_is_given_up(schema, data):
    assert await a_checker().schema_problem(schema) is None
    verdict = await uninterrupted(a_checker().judge(an_answer(data), schema))
    assert (verdict.reason, verdict.data) == ("unusable_schema", None)
    assert "takes too long" in (verdict.detail or "")


OBJECTS = [{"k": n, "v": [n]} for n in range(4_000)]
WORDS = ["a" * 800 + "!" for _ in range(60)]
COSTLY = {
    "patterns": (of_items(items={"pattern": r"^\w{1,900}$"}), {"a": WORDS}, False),
    "unique objects": (of_items(uniqueItems=True), {"a": OBJECTS}, True),
    "objects that are not": (of_items(uniqueItems=True), {"a": [*OBJECTS, OBJECTS[0]]}, False),
    "a large enum": (of_items(items={"enum": OBJECTS[:99]}), {"a": OBJECTS[:999]}, False),
    "backtracking": (of_items(items={"pattern": "^(a+)+$"}), {"a": ["a" * 30_000 + "!"]}, False),
    "large numbers": (of_items(items={"multipleOf": 7}), {"a": [7 * 10**4_000] * 50}, True),
    "small steps": (of_items(items={"multipleOf": 1e-300}), {"a": [1e300] * 50}, True),
    "default": (DEFAULT_SCHEMA, {"summary": "x" * 500_000}, False),
}


@pytest.mark.parametrize(("schema", "data", "holds"), COSTLY.values(), ids=COSTLY)
async def test_a_costly_answer_is_judged_in_time(schema, data, holds):
    checker = a_checker()
    verdict = await uninterrupted(checker.judge(an_answer(data), schema))
    assert verdict.reason == (None if holds else "invalid_output")
    assert (verdict.data == data) is holds
    assert len("".join(verdict.problems)) < 2_000


async def test_an_answer_nested_too_deeply_is_no_answer():
    schema = {"type": "object", "additionalProperties": {"$ref": "#"}}
    checker = a_checker()
    assert (await checker.judge(an_answer(nested(60)), schema)).data == nested(60)
    for levels in (70, 50_000):
        text = '{"a":' * levels + "1" + "}" * levels
        verdict = await uninterrupted(checker.judge(an_answer(text), schema))
        assert verdict.reason == "invalid_output"


async def test_what_is_quick_needs_no_other_process():
    before = len(psutil.Process().children())
    checker = a_checker(wait_secs=0)
    assert await checker.schema_problem(DEFAULT_SCHEMA) is None
    assert (await checker.judge(an_answer({}), DEFAULT_SCHEMA)).reason == "invalid_output"
    assert len(psutil.Process().children()) == before


async def test_workers_are_few_and_those_that_were_ended_are_replaced():
    schema, data = ENDLESS["doubled by allOf"]
    checker = a_checker(at_once=2)
    good = with_pattern("^x$")

    async def judged(n: int) -> str | None:
        answer, against = (an_answer({"p0": "y"}), good) if n % 2 else (an_answer(data), schema)
        return (await checker.judge(answer, against)).reason

    before = len(psutil.Process().children())
    running = asyncio.gather(*map(judged, range(4)))
    most = 0
    while not running.done():
        most = max(most, len(psutil.Process().children()) - before)
        await asyncio.sleep(0.02)
    assert await running == ["unusable_schema", "invalid_output"] * 2
    assert 1 <= most <= 2


async def test_who_finds_no_free_worker_in_time_is_told_to_come_again():
    schema, data = ENDLESS["doubled by allOf"]
    checker = a_checker(at_once=1, answer_cpu_secs=30, wait_secs=1.0)
    busy = asyncio.create_task(a_checker().judge(an_answer(data), schema))
    with pytest.raises(ChecksUnavailable):
        await asyncio.gather(*(checker.judge(an_answer(data), schema) for _ in range(2)))
    assert (await busy).reason == "unusable_schema"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_to_the_whole_group_stops_no_check(number):
    checker, schema = a_checker(), with_pattern("^x$")
    assert await checker.schema_problem(schema) is None
    for worker in workers():
        worker.send_signal(number)
    await asyncio.sleep(0.1)
    assert await checker.schema_problem(schema) is None
    assert (await checker.judge(an_answer({"p0": "x"}), schema)).reason is None


def workers() -> list[psutil.Process]:
    return [w for w in psutil.Process().children() if "anyio.to_process" in w.cmdline()]


async def test_a_check_that_is_cancelled_ends_its_worker():
    schema, data = ENDLESS["doubled by allOf"]
    checker = a_checker(answer_cpu_secs=30)
    await checker.judge(an_answer({"p0": "x"}), with_pattern("^x$"))
    task = asyncio.create_task(checker.judge(an_answer(data), schema))
    await asyncio.sleep(0.3)
    running = workers()
    assert running
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not [w for w in running if w.is_running() and w.status() != psutil.STATUS_ZOMBIE]


async def test_a_worker_that_cannot_be_started_is_no_fault_of_the_schema(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(ChecksUnavailable):
        await a_checker().schema_problem(with_pattern("^x$"))
