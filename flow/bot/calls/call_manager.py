"""The calls of one process: each is leased, built, run and ended here, whatever its transport."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Protocol
from uuid import UUID, uuid4

import structlog
from pipecat.transports.base_transport import BaseTransport

from flow.bot.calls.lease import CallerConnection, CallLease, TakeLease
from flow.bot.calls.registry import CallRegistry
from flow.bot.cost_control import Spending
from flow.bot.custom.bot_pipeline import build_bot_pipeline
from flow.bot.custom.bot_run import ending_of
from flow.bot.join_defaults import Resolver
from flow.bot.log_context import named
from flow.bot.pipeline import BotSettings, build_pipeline, speech_of
from flow.bot.recording import SoundRecorder, SoundRecorders
from flow.bot.session import CallRecorder, CallSession
from flow.bot.tools.call_tools import CallTools
from flow.bot.tools.open_tools import open_tools
from flow.bot.transports.spec import BotTransportSpec
from flow.domain.calls.capacity import Capacity
from flow.domain.calls.ending import Ending, EndReason
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.latency import TurnLatency
from flow.domain.calls.thread import Pulse, Status, Thread
from flow.domain.limits.budget import Standing, Tier
from flow.errors import BotFailed, FlowError, Unavailable

log = structlog.get_logger(__name__)


class Threads(Protocol):
    """What the calls need of `flow.db.database.Database`."""

    async def claim_thread(self, thread_id: UUID, claim: str) -> Thread:
        """Make a thread's call ours, or raise `Conflict`."""
        ...

    async def touch_thread(self, thread_id: UUID, status: Status | None = None) -> Pulse:
        """Give a sign of life, and perhaps move the thread."""
        ...

    async def get_thread_standing(self, thread_id: UUID) -> Standing:
        """How the thread's key stands."""
        ...

    async def finish_thread(self, thread_id: UUID, status: Status) -> Thread:
        """Move the thread to a final state."""
        ...


class Finish(Protocol):
    """What follows a call: see `flow.workflows.finish`. Must not raise."""

    def __call__(self, thread_id: UUID, ending: Ending) -> Awaitable[object]:
        """Finish a call that ended so."""
        ...


class Watch(Protocol):
    """Sees calls come and go. Must not block."""

    def started(self, product: str) -> None:
        """A caller connected."""
        return

    def ended(self, product: str, reason: EndReason) -> None:
        """The call is over."""
        return

    def answered(self, product: str, latency: TurnLatency) -> None:
        """A caller waited so long for a reply."""
        return


class _Unwatched(Watch):
    """Nobody looks."""


class CallManager:
    """Takes leases of calls, and runs each call as long as its lease is held.

    Args:
        registry: which calls run in this process.
        transports: the transports that calls can come over, by their names.
        spending: the cost control of a thread's call, which starts with the key's standing.
        name: what this process is called; its threads are told by it if it dies.
        watch: sees calls come and go, for the metrics.
        recorders: record the sound of calls; ``None`` where no call can be recorded.
    """

    def __init__(
        self,
        *,
        registry: CallRegistry,
        threads: Threads,
        recorder: CallRecorder,
        settings: BotSettings,
        resolver: Resolver,
        transports: Mapping[str, BotTransportSpec],
        spending: Callable[[Thread, JoinRequest, Standing], Spending],
        finish: Finish,
        name: str,
        watch: Watch | None = None,
        recorders: SoundRecorders | None = None,
    ) -> None:
        self.registry = registry
        self._recorders = recorders
        self._watch = watch or _Unwatched()
        self._threads = threads
        self._recorder = recorder
        self._settings = settings
        self._resolver = resolver
        self._transports = transports
        self._spending = spending
        self._finish = finish
        self._name = name

    @property
    def capacity(self) -> Capacity:
        """How many calls run here, and how many may."""
        return self.registry.capacity

    def check(self, join: JoinRequest) -> JoinRequest:
        """The join with everything filled in; raises as `Resolver.resolve` does."""
        return self._resolver.resolve(join)

    async def end(self, thread_id: UUID) -> bool:
        """Hang up a call that runs in this process, or is about to; False if it does not."""
        return self.registry.end(thread_id, EndReason.ENDED_BY_API)

    async def run(self, thread: Thread, connection: CallerConnection) -> Ending:
        """Run the thread's call over this connection to its end.

        Raises:
            Refused: code ``at_capacity`` or ``shutting_down``.
            Conflict: the thread has been connected to before.
            Exception: what opening the connection raised; the call is over then.
        """
        lease, transport = await self._begin(thread.id, partial(self._lease, thread, connection))
        return await self._run(lease, transport)

    async def start(self, thread: Thread, connection: CallerConnection) -> None:
        """As `run`, but return as soon as the connection is open; the call goes on by itself."""
        lease, transport = await self._begin(thread.id, partial(self._lease, thread, connection))
        self.registry.spawn(self._run(lease, transport))

    async def hold(self, thread_id: UUID, take: TakeLease) -> None:
        """Run a call that may have been held elsewhere, as long as its lease is ours.

        Raises:
            Refused, Conflict: as for `run`. Also what ``take`` raises.
        """
        lease, transport = await self._begin(thread_id, take)
        # The call is not to end with who waits for its end.
        await asyncio.shield(self.registry.spawn(self._run(lease, transport)))

    async def _begin(self, thread_id: UUID, take: TakeLease) -> tuple[CallLease, BaseTransport]:
        """Take the call, in this process and in the database for all others, and open it."""
        self.registry.reserve(thread_id)
        try:
            lease = await take(f"{self._name}/{uuid4()}")
        except BaseException:
            self.registry.leave(thread_id)
            raise
        self._watch.started(lease.thread.product)
        try:
            with named(lease.thread, self._settings.joined):
                return lease, await lease.open(partial(self.registry.ending, thread_id))
        except BaseException as error:
            ending = lease.not_opened(error)
            over = self.registry.spawn(self._over(lease, ending))
            if ending.reason is EndReason.CANCELLED:
                # Whoever is told of it is to find the thread cancelled.
                await asyncio.shield(over)
            raise

    async def _lease(self, thread: Thread, connection: CallerConnection, claim: str) -> CallLease:
        """The lease of a call that cannot move: it is over when its caller's connection is."""
        await self._threads.claim_thread(thread.id, claim)

        async def end(ending: Ending) -> None:
            ending = await connection.explain(ending)
            await asyncio.gather(connection.close(ending), self._finish_here(thread.id, ending))

        return CallLease(
            thread,
            thread.join,
            connection.open,
            connection.not_opened,
            touch=partial(self._threads.touch_thread, thread.id),
            end=end,
            claim=claim,
            wait_secs=connection.wait_secs,
            control=connection.control,
        )

    async def _run(self, lease: CallLease, transport: BaseTransport) -> Ending:
        failed = Ending.failure("internal_error", "the bot failed")
        ending = failed
        sound: SoundRecorder | None = None
        try:
            with named(lease.thread, self._settings.joined):
                session = await self._session(lease, transport)
                sound = self._record(lease, transport)
                self.registry.begin(lease.thread.id, session, can_move=lease.can_move)
                ending = Ending(EndReason.SHUTDOWN)  # what it is if this is cancelled
                ending = await session.run()
        except BotFailed as error:
            thread_id = str(lease.thread.id)
            log.error("bot_failed", workflow_thread_id=thread_id, exc_info=error, hint=error.hint)
            ending = ending_of(error)
        except Exception:
            log.exception("call_failed", workflow_thread_id=str(lease.thread.id))
            ending = failed
        finally:
            self.registry.spawn(self._over(lease, ending, sound))
        return ending

    def _record(self, lease: CallLease, transport: BaseTransport) -> SoundRecorder | None:
        """Record the call where its join asks for that."""
        if self._recorders is None:
            return None
        spec = self._transports[lease.join.transport.type]
        return self._recorders.record(lease.thread, lease.join, transport, spec)

    async def _session(self, lease: CallLease, transport: BaseTransport) -> CallSession:
        thread, join = lease.thread, lease.join
        spending = self._spending(thread, join, await self._standing(thread.id))
        await self._settings.models.prepare(join.bot.turn_detection)
        wanted = (
            join,
            thread.owner,
            transport,
            self._transports[join.transport.type].audio,
            self._recorder,
            self._settings,
            spending,
            thread.transcript,
        )
        if join.bot.name is None:
            tools = await self._tools(lease)
            try:
                pipeline = build_pipeline(*wanted, tools=tools, used=thread.tool_calls)
            except BaseException:
                if tools is not None:
                    await tools.close()
                raise
        else:
            pipeline = await build_bot_pipeline(join.bot.name, *wanted)
        return CallSession(
            lease,
            pipeline,
            transport,
            self._recorder,
            spending,
            heartbeat_secs=self._settings.heartbeat_secs,
            answered=partial(self._watch.answered, thread.product),
        )

    async def _tools(self, lease: CallLease) -> CallTools | None:
        join = lease.join
        if not (join.bot.tools or join.bot.flow):
            return None
        return await open_tools(
            lease.thread,
            join,
            lease.control,
            self._settings.tools,
            self._recorder,
            speech_of(join),
        )

    async def _standing(self, thread_id: UUID) -> Standing:
        try:
            return await self._threads.get_thread_standing(thread_id)
        except Unavailable as error:
            log.warning("standing_unknown", workflow_thread_id=str(thread_id), error=str(error))
            return Standing(Tier.UNKNOWN)

    async def _over(
        self, lease: CallLease, ending: Ending, sound: SoundRecorder | None = None
    ) -> None:
        thread = lease.thread
        log.info("call_ended", workflow_thread_id=str(thread.id), reason=ending.reason.value)
        self._watch.ended(thread.product, ending.reason)
        self.registry.leave(thread.id)
        if self._recorders is None or sound is None:
            await lease.end(ending)
        else:
            await asyncio.gather(self._recorders.finish(sound), lease.end(ending))

    async def _finish_here(self, thread_id: UUID, ending: Ending) -> None:
        """Finish the thread of a call that could run in this process only."""
        if ending.reason is EndReason.CANCELLED:
            await self._cancel(thread_id)
        elif ending.reason is not EndReason.GIVEN_UP:
            # Whoever gave it up finishes it.
            await self._finish(thread_id, ending)

    async def _cancel(self, thread_id: UUID) -> None:
        """Give a claimed thread up before anything has run; one that cannot be is swept."""
        try:
            await self._threads.finish_thread(thread_id, Status.CANCELLED)
        except FlowError as error:
            log.warning("cancel_failed", workflow_thread_id=str(thread_id), error=str(error))
