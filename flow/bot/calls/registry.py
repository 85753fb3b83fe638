"""Which calls run in one process: how many may, what is left to do for each, and when none is."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any
from uuid import UUID

from flow.bot.session import CallSession
from flow.domain.calls.capacity import Capacity
from flow.domain.calls.ending import Ending, EndReason
from flow.domain.limits.budget import Standing, Tier
from flow.errors import Conflict

FOLLOW_UP_SECS = 60.0


class CallRegistry:
    """The calls of this process, from when they are given a place until nothing is left to do.

    Args:
        most: how many may run at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        # None: it has a place, and is being set up.
        self._sessions: dict[UUID, CallSession | None] = {}
        self._movable: set[UUID] = set()
        # Why a call that is still being set up is to end.
        self._unwanted: dict[UUID, EndReason] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._time_is_up = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def capacity(self) -> Capacity:
        """How many calls run here, and how many may."""
        return Capacity(len(self._sessions), self._most, draining=self._closing)

    @property
    def tiers(self) -> Counter[Tier | None]:
        """How many calls run at each tier of their key's budget; ``None``: without a budget."""
        return Counter(session.tier for session in self._sessions.values() if session is not None)

    @property
    def claims(self) -> dict[UUID, str]:
        """Under which claim each call that runs here is held."""
        return {
            thread_id: session.claim
            for thread_id, session in self._sessions.items()
            if session is not None
        }

    def session(self, thread_id: UUID) -> CallSession | None:
        """The call of a thread, if it runs here."""
        return self._sessions.get(thread_id)

    def ending(self, thread_id: UUID) -> Ending | None:
        """Why a call that runs here ends; ``None`` while nothing has ended it."""
        session = self._sessions.get(thread_id)
        return None if session is None else session.ending

    def end(self, thread_id: UUID, reason: EndReason) -> bool:
        """End a call that has a place here; ``False`` if it has none.

        One that is still being set up ends as soon as it begins.
        """
        if thread_id not in self._sessions:
            return False
        session = self._sessions[thread_id]
        if session is None:
            self._unwanted.setdefault(thread_id, reason)
        else:
            session.end(reason)
        return True

    def update(self, thread_id: UUID, *, end_requested: bool, standing: Standing) -> None:
        """Pass on what the ledger says of a thread, if its call runs here."""
        if (session := self._sessions.get(thread_id)) is None:
            return
        if end_requested:
            session.end(EndReason.ENDED_BY_API)
        session.stand(standing)

    def reserve(self, thread_id: UUID) -> None:
        """Give a thread's call a place.

        Raises:
            Refused: code ``at_capacity`` or ``shutting_down``.
            Conflict: it has one.
        """
        self.capacity.require_room()
        if thread_id in self._sessions:
            raise Conflict("The call is already connected.", code="already_connected")
        self._sessions[thread_id] = None
        self._idle.clear()

    def begin(self, thread_id: UUID, session: CallSession, *, can_move: bool) -> None:
        """Note that a call with a place runs; one that is not wanted any more is ended at once.

        ``can_move``: another process can go on with it.
        """
        self._sessions[thread_id] = session
        if can_move:
            self._movable.add(thread_id)
        if (reason := self._unwanted.pop(thread_id, None)) is not None:
            session.end(reason)
        if self._time_is_up:
            self._end(thread_id, session)

    def leave(self, thread_id: UUID) -> None:
        """Take a call's place away; it does not run, or not any more."""
        self._sessions.pop(thread_id, None)
        self._movable.discard(thread_id)
        self._unwanted.pop(thread_id, None)
        self._rest()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Do something for a call that is waited for before this process stops."""
        task = asyncio.create_task(work)
        self._tasks.add(task)

        def done(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            self._rest()

        task.add_done_callback(done)
        return task

    async def close(self, grace_secs: float) -> None:
        """Take no new calls, let running ones go on for ``grace_secs``, then end them."""
        self._closing = True
        await self._until_idle(grace_secs)
        # A call that is still being set up hears of it when it begins.
        self._time_is_up = True
        for thread_id, session in self._sessions.items():
            if session is not None:
                self._end(thread_id, session)
        await self._until_idle(FOLLOW_UP_SECS)

    def _end(self, thread_id: UUID, session: CallSession) -> None:
        can_move = thread_id in self._movable
        session.end(EndReason.HANDED_OVER if can_move else EndReason.SHUTDOWN)

    async def _until_idle(self, secs: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(secs):
                await self._idle.wait()

    def _rest(self) -> None:
        """Note when no call runs and nothing is left to do for one that ran."""
        if not self._sessions and not self._tasks:
            self._idle.set()
