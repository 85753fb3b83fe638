"""Metrics of database calls, by function and outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import cache
from time import perf_counter
from typing import Any, Protocol

from flow.errors import FlowError, Unavailable
from flow.telemetry.metric_definitions import Metrics


class Transport(Protocol):
    """What is counted; see `flow.db.transport.Transport`."""

    async def call(self, function: str, args: Mapping[str, Any]) -> Any:
        """Call a function of the database."""
        ...

    async def close(self) -> None:
        """Give back every connection."""
        ...


class MeasuredTransport:
    """The same transport, with its calls counted and timed."""

    def __init__(self, transport: Transport, metrics: Metrics) -> None:
        self._transport = transport
        # Looking up what a label's values are counted in costs more than counting.
        self._calls = cache(metrics.database_calls.labels)
        self._secs = cache(metrics.database_secs.labels)

    async def call(self, function: str, args: Mapping[str, Any]) -> Any:
        """Call the function; raises what the transport raises."""
        started, outcome = perf_counter(), "ok"
        try:
            return await self._transport.call(function, args)
        except BaseException as error:
            outcome = _outcome(error)
            raise
        finally:
            self._calls(function, outcome).inc()
            self._secs(function).observe(perf_counter() - started)

    async def close(self) -> None:
        """Give back every connection."""
        await self._transport.close()


def _outcome(error: BaseException) -> str:
    if isinstance(error, Unavailable):
        return "unavailable"
    if isinstance(error, FlowError):
        return "refused"
    return "cancelled" if isinstance(error, asyncio.CancelledError) else "error"
