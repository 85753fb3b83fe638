"""The way from a call to the ledger that never makes the call wait and never forgets.

`Recorder.record` appends to the spool and returns. In the background everything pending goes to
the database in one call, again and again until it is acknowledged; only then is it trimmed.
The ledger keeps one row per event id, so sending twice is harmless and losing is the only sin.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import structlog

from flow.db.functions import Recorded
from flow.domain.usage import Outcome, Provenance, UsageEvent
from flow.errors import Unavailable
from flow.usage.spool import Line, Op, Spool

log = structlog.get_logger(__name__)

BATCH = 500
COALESCE_SECS = 0.005
LONGEST_PAUSE_SECS = 5.0
TRIM_BYTES = 1 << 20


class Ledger(Protocol):
    """Where events end up: `flow.db.functions.Database`, across the network."""

    async def record_usage(self, events: Sequence[UsageEvent]) -> Recorded:
        """Write what is new in one transaction and say what was new; raises `Unavailable`."""
        ...


class Watch(Protocol):
    """Sees what becomes of events. Must not block."""

    def recorded(self, event_id: UUID) -> None:
        """An event waits for the ledger from now on."""
        return

    def committed(self, event_ids: Iterable[UUID], *, is_all: bool) -> None:
        """These wait no longer. ``is_all``: nor does any other."""
        return

    def rejected(self, events: int) -> None:
        """The ledger put so many aside."""
        return

    def failed(self) -> None:
        """The ledger could not be reached."""
        return


class _Unwatched(Watch):
    """Nobody looks."""


class Recorder:
    """Takes usage events from running calls and brings each to the ledger exactly once.

    Args:
        ledger: where events go.
        directory: where spools live, this process's own and those of processes that died.
        price: puts a cost on an event; runs just before sending, off the audio path.
        on_recorded: called once for each batch the ledger has acknowledged, with the priced
            events and what the ledger said. Must not block; its errors are logged.
        watch: sees events come and go, for the metrics.
    """

    def __init__(
        self,
        ledger: Ledger,
        directory: Path,
        *,
        price: Callable[[UsageEvent], UsageEvent],
        on_recorded: Callable[[Sequence[UsageEvent], Recorded], None],
        watch: Watch | None = None,
    ) -> None:
        self._watch = watch or _Unwatched()
        self._ledger = ledger
        self._directory = directory
        self._spool = Spool.create(directory)
        self._price = price
        self._on_recorded = on_recorded
        self._open: dict[UUID, UsageEvent] = {}
        self._pending: Counter[UUID] = Counter()
        self._unspooled: deque[UsageEvent] = deque()
        self._wake = asyncio.Event()
        self._acknowledged = asyncio.Condition()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    @property
    def depth(self) -> int:
        """How many finished events wait for the ledger."""
        return self._pending.total()

    def begin(self, event: UsageEvent) -> None:
        """Note that work has begun which a vendor will bill, with the best estimate so far.

        Should this process die before `record` is called with the same id, the next one
        records the estimate. Calling it again renews the estimate.
        """
        self._open[event.id] = event
        self._append("open", event)

    def record(self, event: UsageEvent) -> None:
        """Take the finished account of one piece of work. Returns at once; never raises."""
        self._open.pop(event.id, None)
        self._pending[event.owner.workflow_thread_id] += 1
        self._watch.recorded(event.id)
        if not self._append("event", event):
            self._unspooled.append(event)
        self._wake.set()

    def discard(self, event: UsageEvent) -> None:
        """Forget work noted by `begin` that turned out to consume nothing."""
        if self._open.pop(event.id, None) is not None:
            self._append("drop", event)

    def start(self) -> None:
        """Adopt what dead processes left and begin sending."""
        for orphan in Spool.orphans(self._directory):
            self._adopt(orphan)
        self._wake.set()
        self._task = asyncio.create_task(self._run(), name="usage-recorder")

    async def drain(self, thread_id: UUID, timeout_secs: float) -> bool:
        """Wait until the ledger has every event of a thread; False if time ran out first."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_secs), self._acknowledged:
                await self._acknowledged.wait_for(lambda: self._pending[thread_id] <= 0)
        return self._pending[thread_id] <= 0

    async def close(self, timeout_secs: float = 10.0) -> None:
        """Send what is pending for as long as allowed; the rest stays in the spool."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            done, _ = await asyncio.wait({self._task}, timeout=timeout_secs)
            if not done:
                log.warning("usage_left_in_spool", events=self.depth, spool=self._spool.path.name)
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
        self._spool.close(remove=not self._open and self.depth == 0)

    def _append(self, op: Op, event: UsageEvent) -> bool:
        try:
            self._spool.append(op, event.to_json())
        except OSError as error:
            log.error("spool_write_failed", op=op, error=str(error), **_which(event))
            return False
        return True

    def _adopt(self, orphan: Spool) -> None:
        """Take over a dead process's lines; what it had only begun is recorded as estimated."""
        begun: dict[UUID, UsageEvent] = {}
        adopted = 0
        while True:
            lines, position = orphan.read(BATCH)
            if not lines:
                break
            for line in lines:
                event = self._parsed(line)
                if event is None:
                    continue
                if line.op == "open":
                    begun[event.id] = event
                    continue
                begun.pop(event.id, None)
                if line.op == "event":
                    self.record(event)
                    adopted += 1
            orphan.advance(position)
        for event in begun.values():
            self.record(_cut_off(event))
        log.info("spool_adopted", spool=orphan.path.name, events=adopted, cut_off=len(begun))
        # What could only be kept in memory is not yet safe: leave the file for another start.
        orphan.close(remove=not self._unspooled)

    async def _run(self) -> None:
        pause = 0.0
        while not (self._closing and self.depth == 0):
            if self._spool.unsent_bytes == 0 and not self._unspooled:
                await self._wake.wait()
                self._wake.clear()
                if not self._closing:
                    await asyncio.sleep(COALESCE_SECS)
                continue
            try:
                await self._send_next()
                pause = 0.0
            except Unavailable as error:
                pause = min(LONGEST_PAUSE_SECS, pause * 2 or 0.1)
                log.warning("ledger_unavailable", waiting=self.depth, error=str(error))
                self._watch.failed()
                with suppress(OSError):
                    await asyncio.to_thread(self._spool.sync)
                await asyncio.sleep(pause)

    async def _send_next(self) -> None:
        lines, position = self._spool.read(BATCH)
        unspooled = list(self._unspooled)
        spooled = (self._parsed(line) for line in lines if line.op == "event")
        events = unspooled + [event for event in spooled if event is not None]
        if events:
            await self._send([self._priced(event) for event in events])
        for _ in unspooled:
            self._unspooled.popleft()
        self._spool.advance(position)
        is_all = self._spool.unsent_bytes == 0 and not self._unspooled
        self._watch.committed((event.id for event in events), is_all=is_all)
        with suppress(OSError):
            self._spool.trim(
                (event.to_json() for event in self._open.values()), threshold=TRIM_BYTES
            )
        self._pending.subtract(event.owner.workflow_thread_id for event in events)
        self._pending = +self._pending
        async with self._acknowledged:
            self._acknowledged.notify_all()

    async def _send(self, events: list[UsageEvent]) -> None:
        """Bring a batch to the ledger; one bad event must not hold up the others for ever."""
        try:
            recorded = await self._ledger.record_usage(events)
        except Unavailable:
            raise
        except Exception as error:
            if len(events) > 1:
                for event in events:
                    await self._send([event])
                return
            log.exception("usage_event_refused", **_which(events[0]))
            self._watch.rejected(1)
            self._quarantine(json.dumps(events[0].to_json()).encode(), str(error))
            return
        for event in events:
            if (refused := recorded.rejected.get(event.id)) is not None:
                log.error("usage_event_rejected", reason=refused, **_which(event))
        self._watch.rejected(len(recorded.rejected))
        try:
            self._on_recorded(events, recorded)
        except Exception:
            log.exception("on_recorded_failed")

    def _priced(self, event: UsageEvent) -> UsageEvent:
        if event.cost is not None:
            return event
        try:
            return self._price(event)
        except Exception:
            log.exception("pricing_failed", model=event.model, **_which(event))
            return event

    def _parsed(self, line: Line) -> UsageEvent | None:
        try:
            if line.event is not None:
                return UsageEvent.from_json(line.event)
            reason = "the line is not whole"
        except Exception as error:
            reason = f"not a usage event: {error!r}"
        log.error("spool_line_unreadable", reason=reason)
        self._quarantine(line.raw, reason)
        return None

    def _quarantine(self, raw: bytes, reason: str) -> None:
        """Keep what cannot be sent where an operator can find it."""
        entry: dict[str, Any] = {"reason": reason, "line": raw.decode(errors="replace")}
        try:
            with (self._directory / "quarantine.ndjson").open("a") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            log.error("quarantine_failed", error=str(error), **entry)


def _which(event: UsageEvent) -> dict[str, str]:
    """An event, and whose it is, in a log line."""
    thread_id = event.owner.workflow_thread_id
    return {"event_id": str(event.id), "workflow_thread_id": str(thread_id)}


def _cut_off(event: UsageEvent) -> UsageEvent:
    return replace(
        event,
        provenance=Provenance.ESTIMATED,
        outcome=Outcome.INTERRUPTED,
        note="the process ended while this was running",
    )
