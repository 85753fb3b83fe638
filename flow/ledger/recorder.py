"""The recorder: brings usage and transcripts of calls to the database without making calls wait.

`Recorder.record` appends to the spool and returns. In the background everything pending goes to
the database in one call, repeated until it is acknowledged; only then is the spool trimmed. What
is sent comes from memory, and from the spool where more is waiting than is kept in memory. The
ledger keeps one row per event id, so sending twice is harmless; losing an event is not. Turns of
the transcript take the same way (`Recorder.record_turn`), and a thread keeps one turn per number;
so do uses of tools (`Recorder.record_tool_call`), one per id.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import structlog

from flow.db.database import Recorded
from flow.domain.calls.thread import ThreadTurn, Turn
from flow.domain.calls.tool_call import ThreadToolCall, ToolCall
from flow.domain.usage.events import Outcome, Provenance, UsageEvent
from flow.errors import Unavailable
from flow.ledger.interfaces import Ledger, Unwatched, Watch
from flow.ledger.quarantine import Quarantine
from flow.ledger.spool import Line, Op, Spool, encoded

log = structlog.get_logger(__name__)

BATCH = 500
COALESCE_SECS = 0.005
"""How long a batch that is not full waits for more: a call of the database costs as much as many
of its events."""
LONGEST_PAUSE_SECS = 5.0
TRIM_BYTES = 1 << 20
MOST_RECENT = 2_000
"""How much of what waits on the disk is in memory too, so that it need not be read again."""

Item = UsageEvent | ThreadTurn | ThreadToolCall
Kind = TypeVar("Kind", UsageEvent, ThreadTurn, ThreadToolCall)
_OF_CALLS: Mapping[str, type[ThreadTurn | ThreadToolCall]] = {
    "turn": ThreadTurn,
    "tool": ThreadToolCall,
}
"""What comes of a call beside usage, by the op of its line."""


class Recorder:
    """Takes usage and turns from running calls and brings each to the database exactly once.

    Args:
        ledger: where they go.
        directory: where spools live, this process's own and those of processes that died.
        price: puts a cost on an event; runs just before sending, off the audio path.
        on_recorded: called once for each batch the ledger has acknowledged, with the priced
            events, dated as the ledger dates them, and what the ledger said. Must not block; its
            errors are logged.
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
        self._watch = watch or Unwatched()
        self._ledger = ledger
        self._directory = directory
        self._spool = Spool.create(directory)
        self._price = price
        self._on_recorded = on_recorded
        self._quarantine = Quarantine(directory)
        self._open: dict[UUID, bytes] = {}
        self._pending: Counter[UUID | None] = Counter()
        self._unspooled: deque[Item] = deque()
        # Of the spool's lines from `_recent_from` on, each with the position after it.
        self._recent: deque[tuple[int, Item]] = deque()
        self._recent_from = self._spool.head
        self._wake = asyncio.Event()
        self._acknowledged = asyncio.Condition()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    @property
    def depth(self) -> int:
        """How many finished events and turns wait for the database."""
        return self._pending.total()

    def begin(self, event: UsageEvent) -> None:
        """Note that work has begun which a vendor will bill, with the best estimate so far.

        Should this process die before `record` is called with the same id, the next one
        records the estimate. Calling it again renews the estimate.
        """
        self._open[event.id] = self._append("open", event) or b""

    def record(self, event: UsageEvent) -> None:
        """Take the finished account of one piece of work. Returns at once; never raises."""
        self._open.pop(event.id, None)
        self._watch.recorded(event.id)
        self._keep("event", event)

    def record_turn(self, thread_id: UUID, turn: Turn) -> None:
        """Take something said in a call. Returns at once; never raises.

        It is on this machine's disk until the database has it, and no longer.
        """
        self._keep("turn", ThreadTurn(thread_id, turn))

    def record_tool_call(self, thread_id: UUID, call: ToolCall) -> None:
        """Take the start or the outcome of a use of a tool. Returns at once; never raises.

        It is on this machine's disk until the database has it, and no longer.
        """
        self._keep("tool", ThreadToolCall(thread_id, call))

    def discard(self, event: UsageEvent) -> None:
        """Forget work noted by `begin` that turned out to consume nothing."""
        if self._open.pop(event.id, None) is not None:
            self._append("drop", event)

    def start(self) -> None:
        """Adopt what dead processes left and begin sending."""
        Spool.remove_drafts(self._directory)
        for orphan in Spool.orphans(self._directory):
            try:
                self._adopt(orphan)
            except OSError as error:
                # The file stays for another start; what was read of it already is sent once.
                log.error("spool_adoption_failed", spool=orphan.path.name, error=str(error))
                orphan.close()
        self._wake.set()
        self._task = asyncio.create_task(self._run(), name="usage-recorder")

    async def drain(self, thread_id: UUID, timeout_secs: float) -> bool:
        """Wait until the database has all that came of a thread; False if time ran out first."""
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
                log.warning("left_in_spool", waiting=self.depth, spool=self._spool.path.name)
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
        self._spool.close(remove=not self._open and self.depth == 0)

    def _keep(self, op: Op, item: Item) -> None:
        self._pending[_thread_of(item)] += 1
        if self._append(op, item) is None:
            self._unspooled.append(item)
        elif len(self._recent) < MOST_RECENT:
            self._recent.append((self._spool.end, item))
        else:
            self._recent.clear()
            self._recent_from = self._spool.end
        self._wake.set()

    def _append(self, op: Op, item: Item) -> bytes | None:
        try:
            return self._spool.append(op, item.to_json())
        except OSError as error:
            log.error("spool_write_failed", op=op, error=str(error), **_which(item))
            return None

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
                if not isinstance(event, UsageEvent):
                    self._keep(line.op, event)
                    adopted += 1
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
        log.info("spool_adopted", spool=orphan.path.name, finished=adopted, cut_off=len(begun))
        # What could only be kept in memory is not yet safe: leave the file for another start.
        orphan.close(remove=not self._unspooled)

    async def _run(self) -> None:
        pause = 0.0
        while not (self._closing and self.depth == 0):
            if self._spool.unsent_bytes == 0 and not self._unspooled:
                await self._wake.wait()
                self._wake.clear()
                continue
            if self.depth < BATCH and not self._closing:
                await asyncio.sleep(COALESCE_SECS)
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
        spooled, position = self._next()
        unspooled = list(self._unspooled)
        items = unspooled + spooled
        turns = [item for item in items if isinstance(item, ThreadTurn)]
        events = [item for item in items if isinstance(item, UsageEvent)]
        uses = [item for item in items if isinstance(item, ThreadToolCall)]
        # Events last: a batch is sent again as a whole, and of events all are told again.
        await self._bring(turns, self._save)
        await self._bring(uses, self._save_tool_calls)
        await self._bring([self._priced(event) for event in events], self._send)
        for _ in unspooled:
            self._unspooled.popleft()
        self._spool.advance(position)
        while self._recent and self._recent[0][0] <= position:
            self._recent.popleft()
        is_all = self._spool.unsent_bytes == 0 and not self._unspooled
        self._watch.committed((event.id for event in events), is_all=is_all)
        with suppress(OSError):
            # What was said stays on the disk no longer than it must.
            self._spool.trim(self._open.values(), threshold=0 if turns or uses else TRIM_BYTES)
        self._pending.subtract(map(_thread_of, items))
        self._pending = +self._pending
        async with self._acknowledged:
            self._acknowledged.notify_all()

    def _next(self) -> tuple[list[Item], int]:
        """The next batch of what is spooled, and the position after it."""
        if self._spool.head >= self._recent_from:
            recent = list(islice(self._recent, BATCH))
            is_all = len(recent) == len(self._recent)
            return [item for _, item in recent], self._spool.end if is_all else recent[-1][0]
        lines, position = self._spool.read(BATCH)
        items = (self._parsed(line) for line in lines if line.op in ("event", *_OF_CALLS))
        return [item for item in items if item is not None], position

    async def _bring(
        self, items: Sequence[Kind], send: Callable[[Sequence[Kind]], Awaitable[None]]
    ) -> None:
        """Bring a batch home; one bad item must not hold up the others for ever."""
        if not items:
            return
        try:
            await send(items)
        except Unavailable:
            raise
        except Exception as error:
            if len(items) > 1:
                for item in items:
                    await self._bring([item], send)
                return
            self._refused(items[0], error)

    def _refused(self, item: Item, error: Exception) -> None:
        # The database's message may quote what it was given.
        log.error("spool_line_refused", error_type=type(error).__name__, **_which(item))
        op: Op = "event"
        if not isinstance(item, UsageEvent):
            op = "turn" if isinstance(item, ThreadTurn) else "tool"
        self._watch.rejected(1)
        self._quarantine.keep(encoded(op, item.to_json()), str(error))

    async def _save(self, turns: Sequence[ThreadTurn]) -> None:
        for thread_id in await self._ledger.save_turns(turns):
            # It went with its key.
            log.warning("turns_of_no_thread", workflow_thread_id=str(thread_id))

    async def _save_tool_calls(self, calls: Sequence[ThreadToolCall]) -> None:
        for thread_id in await self._ledger.save_tool_calls(calls):
            log.warning("tool_calls_of_no_thread", workflow_thread_id=str(thread_id))

    async def _send(self, events: Sequence[UsageEvent]) -> None:
        recorded = await self._ledger.record_usage(events)
        for event in events:
            if (refused := recorded.rejected.get(event.id)) is not None:
                log.error("usage_event_rejected", reason=refused, **_which(event))
        self._watch.rejected(len(recorded.rejected))
        dated = [_dated(event, recorded.dated) for event in events]
        try:
            self._on_recorded(dated, recorded)
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

    def _parsed(self, line: Line) -> Item | None:
        try:
            if line.event is not None:
                return _OF_CALLS.get(line.op, UsageEvent).from_json(line.event)
            reason = "the line is not whole"
            if line.size > len(line.raw):
                reason = f"the line of {line.size} bytes is too long; here is its beginning"
        except Exception as error:
            reason = f"not what its op says: {error!r}"
        log.error("spool_line_unreadable", op=line.op, bytes=line.size)
        self._quarantine.keep(line.raw, reason)
        return None


def _dated(event: UsageEvent, dated: Mapping[UUID, datetime]) -> UsageEvent:
    if event.id not in dated:
        return event
    return event.replaced(occurred_at=dated[event.id])


def _thread_of(item: Item) -> UUID | None:
    if isinstance(item, UsageEvent):
        return item.owner.workflow_thread_id
    return item.workflow_thread_id


def _which(item: Item) -> dict[str, Any]:
    """An item, and whose it is, in a log line."""
    known = {"workflow_thread_id": str(_thread_of(item))}
    if isinstance(item, ThreadTurn):
        return known | {"turn": item.turn.seq}
    if isinstance(item, ThreadToolCall):
        return known | {"tool_call": str(item.call.id)}
    return known | {"event_id": str(item.id)}


def _cut_off(event: UsageEvent) -> UsageEvent:
    return replace(
        event,
        provenance=Provenance.ESTIMATED if event.quantities else Provenance.UNMETERED,
        outcome=Outcome.INTERRUPTED,
        note="the process ended while this was running",
    )
