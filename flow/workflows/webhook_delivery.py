"""The delivery of webhooks: due events are claimed, sent, and marked, until they arrive.

Any number of processes deliver from one database. What a killed process had claimed is claimed
again when its lease ends, so an event arrives at least once, each time under the same id.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol
from urllib.parse import urlsplit
from uuid import UUID

import structlog
from prometheus_client import CollectorRegistry, Counter

from flow.domain.webhooks.webhook import Answer, Claimed, Outcome, Secrets, retry_in
from flow.errors import NotFound, Unavailable
from flow.vendors.webhook_signing import new_secret

log = structlog.get_logger(__name__)

CONCURRENCY = 20
PER_KEY = 5
POLL_SECS = 1.0
# Longer than an attempt may take: only who is gone loses a claim.
LEASE_SECS = 30.0
CLOSE_SECS = 5.0
RETRY_NOTE_SECS = 1.0


class Events(Protocol):
    """What delivering needs of `flow.db.webhooks.Webhooks`."""

    async def claim(
        self, *, limit: int, per_key: int, lease: timedelta, now: datetime | None = None
    ) -> list[Claimed]:
        """What is due, for us to send."""
        ...

    async def note_delivered(
        self, event_id: UUID, status: int | None, now: datetime | None = None
    ) -> bool:
        """The receiver took it."""
        ...

    async def note_failed(
        self,
        claimed: Claimed,
        *,
        status: int | None,
        error: str | None,
        retry_in: timedelta | None,
        now: datetime | None = None,
    ) -> bool:
        """The attempt failed."""
        ...

    async def secrets(self, api_key_id: UUID, made: str) -> Secrets:
        """The key's secrets, made if there are none."""
        ...


class Deliverer:
    """One process's delivering.

    Args:
        send: makes one attempt; never raises.
        lease_secs: how long a claim holds.
        clock: stands in for the database's clock, in tests.
        chance: a number from 0 to 1, for the jitter.
    """

    def __init__(
        self,
        events: Events,
        send: Callable[[Claimed], Awaitable[Answer]],
        *,
        registry: CollectorRegistry | None = None,
        lease_secs: float = LEASE_SECS,
        clock: Callable[[], datetime] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._events = events
        self._send = send
        self._lease = timedelta(seconds=lease_secs)
        self._clock: Callable[[], datetime | None] = clock or (lambda: None)
        self._chance = chance
        self._due = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._loop: asyncio.Task[None] | None = None
        self._attempts = Counter(
            "flow_webhook_attempts",
            "Attempts to deliver a webhook, by what came of them.",
            ["outcome"],
            registry=registry,
        )

    def start(self) -> None:
        """Deliver in the background until `close`."""
        self._loop = asyncio.create_task(self._forever(), name="webhooks")

    def nudge(self) -> None:
        """Look at once: something has just become due."""
        self._due.set()

    async def once(self) -> int:
        """Deliver all that is due now, and say how many attempts that took."""
        made = 0
        while claimed := await self._claim():
            made += len(claimed)
            await asyncio.gather(*map(self._deliver, claimed))
        return made

    async def close(self) -> None:
        """Claim nothing more, and give what is being sent a moment to be noted."""
        if self._loop is not None:
            self._loop.cancel()
            with suppress(asyncio.CancelledError):
                await self._loop
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=CLOSE_SECS)
            for task in late:
                # Its claim lapses, and another process sends it again.
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _forever(self) -> None:
        while True:
            self._due.clear()
            claimed: list[Claimed] = []
            try:
                claimed = await self._claim()
            except Unavailable as error:
                log.warning("webhooks_wait", error=str(error))
            except Exception:
                log.exception("webhooks_wait")
            for one in claimed:
                task = asyncio.create_task(self._deliver(one), name=f"webhook {one.event_id}")
                self._running.add(task)
                task.add_done_callback(self._done)
            if not claimed or len(self._running) >= CONCURRENCY:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._due.wait(), POLL_SECS)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        # There is room for one more, and its key may have more that is due.
        self._due.set()

    async def _claim(self) -> list[Claimed]:
        room = CONCURRENCY - len(self._running)
        if room <= 0:
            return []
        return await self._events.claim(
            limit=room, per_key=PER_KEY, lease=self._lease, now=self._clock()
        )

    async def _deliver(self, claimed: Claimed) -> None:
        try:
            if not claimed.secrets:
                secrets = await self._events.secrets(claimed.api_key_id, new_secret())
                claimed = replace(claimed, secrets=secrets.signing)
            await self._note(claimed, await self._send(claimed))
        except (Unavailable, NotFound) as error:
            # Nothing is noted: the claim lapses and the event is sent again, or its key is gone.
            log.warning("webhook_not_noted", **_named(claimed), error=str(error))
        except Exception:
            log.exception("webhook_not_noted", **_named(claimed))

    async def _note(self, claimed: Claimed, answer: Answer) -> None:
        said = {"status": answer.status, "error": answer.error}
        if answer.outcome is Outcome.DELIVERED:
            noted = await self._persist(
                lambda: self._events.note_delivered(claimed.event_id, answer.status, self._clock())
            )
            self._count("delivered" if noted else "repeated")
            log.info("webhook_delivered", **_named(claimed), status=answer.status)
            return
        pause = retry_in(claimed.attempt, answer, self._chance())
        noted = await self._persist(
            lambda: self._events.note_failed(
                claimed,
                status=answer.status,
                error=answer.error,
                retry_in=pause,
                now=self._clock(),
            )
        )
        if not noted:
            self._count("repeated")
        elif pause is None:
            self._count("dead")
            log.error("webhook_dead", **_named(claimed), **said)
        else:
            self._count("failed")
            retry_secs = round(pause.total_seconds(), 1)
            log.warning("webhook_failed", **_named(claimed), **said, retry_in_secs=retry_secs)

    async def _persist(self, note: Callable[[], Awaitable[bool]]) -> bool:
        """Repeat a note until the database takes it, for as long as the claim holds."""
        deadline = asyncio.get_running_loop().time() + self._lease.total_seconds()
        while True:
            try:
                return await note()
            except Unavailable:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(RETRY_NOTE_SECS)

    def _count(self, outcome: str) -> None:
        self._attempts.labels(outcome).inc()


def _named(claimed: Claimed) -> dict[str, object]:
    """What the log says of a webhook; its URL may hold a secret, its host does not."""
    return {
        "webhook_id": str(claimed.event_id),
        "type": claimed.type,
        "api_key_id": str(claimed.api_key_id),
        "workflow_thread_id": claimed.workflow_thread_id and str(claimed.workflow_thread_id),
        "host": _host(claimed.url),
        "attempt": claimed.attempt,
    }


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
