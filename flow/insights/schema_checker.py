"""Checking customers' schemas and models' answers within bounded time.

Whoever writes a schema decides how long it takes to check: with patterns and references, a few
lines are enough for hours. A validator cannot be interrupted and lets nothing else run meanwhile,
and native code that is taken beyond its limits ends its process. So what is not quick is checked
in another process, which may be killed.
"""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar, TypeVarTuple

import structlog
from anyio import BrokenWorkerProcess, CapacityLimiter, fail_after, to_process

from flow.domain.insights.insight_schema import is_quick, rule_problem, violations
from flow.errors import ChecksUnavailable
from flow.insights.answer import Answer, Verdict, judge

log = structlog.get_logger(__name__)

SCHEMA_CPU_SECS = 1.0
ANSWER_CPU_SECS = 2.0
"""More than for the schema alone."""
WAIT_SECS = 10.0
MEMORY_BYTES = 1 << 30
AT_ONCE = 2

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


class Checker:
    """Checks in this process what is quick, and all else in one of a few worker processes.

    The first worker is started when it is needed, and takes about 0.3 s. Workers end with the
    event loop, or after five idle minutes.

    Args:
        schema_cpu_secs: the processor time that a schema may take.
        answer_cpu_secs: the same for an answer, with its schema.
        wait_secs: for a result, with the wait for a free worker.
        at_once: how many workers there may be.
    """

    def __init__(
        self,
        *,
        schema_cpu_secs: float = SCHEMA_CPU_SECS,
        answer_cpu_secs: float = ANSWER_CPU_SECS,
        wait_secs: float = WAIT_SECS,
        at_once: int = AT_ONCE,
    ) -> None:
        self._schema_cpu_secs = schema_cpu_secs
        self._answer_cpu_secs = answer_cpu_secs
        self._wait_secs = wait_secs
        self._free = CapacityLimiter(at_once)

    async def schema_problem(self, schema: dict[str, Any]) -> str | None:
        """Why a schema breaks the rules of JSON Schema, as `rule_problem` says it.

        The form of the schema has been looked at before, by the join request itself.

        Raises:
            ChecksUnavailable: no worker could be started, or was free in time.
        """
        if is_quick(schema):
            return rule_problem(schema)
        try:
            return await self._elsewhere(self._schema_cpu_secs, rule_problem, schema)
        except _TooMuch:
            return "takes too long to check: use fewer or simpler patterns and references"

    async def judge(self, answer: Answer, schema: dict[str, Any]) -> Verdict:
        """The verdict of `flow.insights.answer.judge`.

        Raises:
            ChecksUnavailable: no worker could be started, or was free in time.
        """
        if is_quick(schema, answer.text):
            return judge(answer, schema)
        try:
            return await self._elsewhere(self._answer_cpu_secs, judge, answer, schema)
        except _TooMuch:
            detail = "The schema takes too long to check an answer against."
            return Verdict(reason="unusable_schema", detail=detail)

    async def problems(self, data: Mapping[str, Any], schema: Mapping[str, Any]) -> list[str]:
        """What is wrong with data by a schema, as `violations` says it.

        Raises:
            ChecksUnavailable: no worker could be started, or was free in time.
        """
        own, text = dict(schema), json.dumps(data)
        if is_quick(own, text):
            return violations(data, own)
        try:
            return await self._elsewhere(self._answer_cpu_secs, violations, data, own)
        except _TooMuch:
            return ["they take too long to check"]

    async def _elsewhere(
        self, cpu_secs: float, work: Callable[[*Arguments], Result], *arguments: *Arguments
    ) -> Result:
        try:
            with fail_after(self._wait_secs):
                # Whatever keeps a worker from starting is no fault of what it is to check.
                await self._in_worker(cpu_secs, _nothing, ())
                try:
                    return await self._in_worker(cpu_secs, work, arguments)
                except (BrokenWorkerProcess, MemoryError):
                    log.warning("check_given_up", work=work.__name__, cpu_secs=cpu_secs)
                    raise _TooMuch from None
        except (TimeoutError, BrokenWorkerProcess, OSError) as error:
            log.warning("checks_unavailable", error_type=type(error).__name__)
            raise ChecksUnavailable from error

    async def _in_worker(
        self, cpu_secs: float, work: Callable[..., Result], arguments: tuple[Any, ...]
    ) -> Result:
        return await to_process.run_sync(
            _limited, cpu_secs, work, arguments, cancellable=True, limiter=self._free
        )


class _TooMuch(Exception):
    """A worker reached a limit, or crashed."""


def _nothing() -> None:
    """Import this module, and be ready."""


def _limited(cpu_secs: float, work: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
    """Do the work in this process, which ends when that takes too much time or memory.

    A worker that lost its parent would otherwise go on with it.
    """
    with suppress(ValueError, OSError):  # macOS does not limit it
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    # The parent decides when its workers end. It may be using them while it stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # The signal's default action is to end the process, whatever native code is running.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, cpu_secs)
    try:
        return work(*arguments)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
