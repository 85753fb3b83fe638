"""One call, from the caller's connection to the hang-up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol
from uuid import UUID

import structlog
from pipecat.frames.frames import EndFrame, ErrorFrame, InterruptionFrame, TTSSpeakFrame
from pipecat.processors.aggregators.llm_response_universal import (
    AssistantTurnStoppedMessage,
    UserTurnStoppedMessage,
)
from pipecat.transports.base_transport import BaseTransport

from flow.bot import clock
from flow.bot.call_seconds import CallSeconds
from flow.bot.cost_control import Spending
from flow.bot.pipeline import Line
from flow.bot.pipeline_runner import RunningPipeline
from flow.bot.transcript import Transcript
from flow.bot.transports.room import RoomTransport
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.room import NOBODY_CAME
from flow.domain.calls.room_call import TAKEN_OVER
from flow.domain.calls.thread import ENDED_BY_API, GIVEN_UP, Pulse, Status, Turn
from flow.domain.limits.budget import Standing, Tier
from flow.domain.usage.events import Owner
from flow.errors import CallTakenOver, FlowError, IllegalTransition, NotFound, Unavailable
from flow.metering.request import Recording as Metering

log = structlog.get_logger(__name__)

HEARTBEAT_SECS = 5.0
# How long the note of a call's seconds waits for what the database says of the call.
ANSWER_SECS = 1.0
FAILURES_IN_A_ROW = 5
STOP_SECS = 15.0


class Threads(Protocol):
    """What a session needs of `flow.db.database.Database`."""

    async def touch_thread(self, thread_id: UUID, status: Status | None = None) -> Pulse:
        """Give a sign of life, and perhaps move the thread.

        Raises `CallTakenOver` once another process has the call, where one can.
        """
        ...

    async def get_thread_standing(self, thread_id: UUID) -> Standing:
        """How the thread's key stands."""
        ...


class Recording(Metering, Protocol):
    """What a session needs of `flow.ledger.recorder.Recorder`."""

    def record_turn(self, thread_id: UUID, turn: Turn) -> None:
        """Take something said."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a call ended. ``error`` is set when it was not the caller's or the operator's doing."""

    reason: str
    error: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ServiceFailure:
    """A service of the call that failed: its name in the pipeline, its vendor, and by what."""

    service: str
    provider: str | None
    error_type: str | None
    http_status: int | None

    @property
    def known(self) -> dict[str, Any]:
        """All of it, for a log line."""
        return asdict(self)

    def to_error(self) -> dict[str, Any]:
        """It as the error of a thread."""
        causes = [self.error_type, f"HTTP {self.http_status}" if self.http_status else None]
        cause = ", ".join(cause for cause in causes if cause) or "no answer that could be used"
        message = f"the {self.service} service failed: {cause}"
        return {"code": "vendor_failure", **self.known, "message": message}


@dataclass
class _Progress:
    failures: int = 0
    first_failure: ServiceFailure | None = None
    ending: Ending | None = None
    came: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)


class CallSession:
    """Runs one built pipeline until the call is over, for whatever reason.

    Args:
        owner: whom the call belongs to.
        join: the resolved join; its greeting and longest duration (seconds) matter here.
        spending: the call's cost control; says when the bot must take its leave.
        wait_secs: how long the bot waits for its caller, where it is there first.
        first_turn: the number of the first turn, in a call that has been held elsewhere.
        heartbeat_secs: from one sign of life to the next.
        now: seconds that go on whatever becomes of the process.
    """

    def __init__(
        self,
        owner: Owner,
        join: JoinRequest,
        line: Line,
        transport: BaseTransport,
        recorder: Recording,
        threads: Threads,
        spending: Spending,
        *,
        wait_secs: float | None = None,
        first_turn: int = 0,
        heartbeat_secs: float = HEARTBEAT_SECS,
        now: Callable[[], float] = clock.seconds,
    ) -> None:
        self._heartbeat_secs = heartbeat_secs
        self._now = now
        self._spending = spending
        self._transport = transport
        self._wait_secs = wait_secs
        assert owner.workflow_thread_id is not None, "a call has a thread"
        self._thread_id = owner.workflow_thread_id
        self._join = join
        self._line = line
        self._threads = threads
        self._transcript = Transcript(recorder.record_turn, self._thread_id, first=first_turn)
        self._progress = _Progress()
        self._leave: asyncio.Task[None] | None = None
        self._seconds = CallSeconds(owner, recorder, spending.control)
        self._log = log.bind(workflow_thread_id=str(self._thread_id))
        self._listen(transport)

    @property
    def tier(self) -> Tier | None:
        """The tier of the key's budget, as last heard; ``None``: it has none."""
        return self._spending.tier

    @property
    def ending(self) -> Ending | None:
        """Why the call ended, or is about to; ``None`` while nothing has ended it."""
        return self._progress.ending

    def end(self, reason: str, error: dict[str, Any] | None = None) -> None:
        """End the call; the first reason given stands."""
        if self._progress.ending is None:
            self._progress.ending = Ending(reason, error)
        self._progress.over.set()

    def stand(self, standing: Standing) -> None:
        """Take in how the key stands now; where the product says so the bot takes its leave."""
        self._spending.stand(standing)
        if self._spending.must_wrap_up and self._leave is None and self._progress.ending is None:
            self._leave = asyncio.create_task(self._take_leave(), name="goodbye")

    async def run(self) -> Ending:
        """Run the call and return why it ended. Usage and turns are then with the recorder."""
        pipeline = await RunningPipeline.start(self._line.worker, "pipeline")
        heartbeat = asyncio.create_task(self._heartbeat(), name="heartbeat")
        idle = asyncio.create_task(self._end_when_idle(), name="idle")
        try:
            await self._until_over(pipeline.task)
        finally:
            heartbeat.cancel()
            idle.cancel()
            if self._leave is not None:
                self._leave.cancel()
            await pipeline.stop(STOP_SECS)
            over_at = self._now()
            await self._line.close()
            await self._make_sure()
            self._seconds.end(over_at)
            await asyncio.gather(heartbeat, idle, return_exceptions=True)
        return self._progress.ending or Ending("pipeline_ended")

    async def _until_over(self, running: asyncio.Task[None]) -> None:
        over = asyncio.create_task(self._progress.over.wait())
        try:
            if self._wait_secs is not None:
                await self._wait_for_caller(self._wait_secs, running, over)
            done, _ = await asyncio.wait(
                {running, over},
                timeout=self._join.max_duration_secs,
                return_when=asyncio.FIRST_COMPLETED,
            )
        except asyncio.CancelledError:
            self.end("shutdown")
            raise
        finally:
            over.cancel()
        if not done:
            self.end("max_duration")
        elif running in done and not running.cancelled() and (error := running.exception()):
            self._log.error("pipeline_failed", error=repr(error))
            self.end("error", {"code": "pipeline_failed", "message": type(error).__name__})

    async def _wait_for_caller(self, wait_secs: float, *ends: asyncio.Task[Any]) -> None:
        came = asyncio.create_task(self._progress.came.wait())
        try:
            done, _ = await asyncio.wait(
                {came, *ends}, timeout=wait_secs, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            came.cancel()
        if not done and self._is_outside():
            self._lost()
        elif not done:
            self.end(NOBODY_CAME)

    async def _end_when_idle(self) -> None:
        if self._wait_secs is not None:
            # Nobody is silent in a room where nobody is yet.
            await self._progress.came.wait()
            self._line.idle.begin()
        await self._line.idle.idle()
        self.end("idle_timeout")

    async def _take_leave(self) -> None:
        """Say goodbye in place of whatever is being said, and hang up when it is said or late."""
        product = self._spending.product
        self._log.info("call_wraps_up", within_secs=product.wrap_up_secs)
        self._progress.ending = Ending("budget_exceeded")
        await self._line.worker.queue_frames(
            [InterruptionFrame(), TTSSpeakFrame(product.goodbye), EndFrame()]
        )
        await asyncio.sleep(product.wrap_up_secs)
        self._progress.over.set()

    def _listen(self, transport: BaseTransport) -> None:
        async def connected(*_: Any) -> None:
            await self._connected()

        async def disconnected(*_: Any) -> None:
            self.end("caller_hung_up")

        async def lost(*_: Any) -> None:
            self._lost()

        async def failed(_: Any, frame: ErrorFrame) -> None:
            self._failed(frame)

        async def user_said(_: Any, __: Any, message: UserTurnStoppedMessage) -> None:
            self._transcript.add("user", message.content or "", message.timestamp)

        async def bot_said(_: Any, message: AssistantTurnStoppedMessage) -> None:
            if message.content:
                self._progress.failures, self._progress.first_failure = 0, None
                self._progress.first_failure = None
            self._transcript.add(
                "assistant", message.content, message.timestamp, interrupted=message.interrupted
            )

        transport.add_event_handler("on_client_connected", connected)
        transport.add_event_handler("on_client_disconnected", disconnected)
        if isinstance(transport, RoomTransport):
            transport.add_event_handler("on_lost", lost)
        self._line.worker.add_event_handler("on_pipeline_error", failed)
        self._line.user.add_event_handler("on_user_turn_stopped", user_said)
        self._line.assistant.add_event_handler("on_assistant_turn_stopped", bot_said)

    async def _connected(self) -> None:
        if self._seconds.is_running or self._progress.ending is not None:
            return
        self._seconds.begin(self._now())
        self._progress.came.set()
        self._log.info("call_connected")
        if greeting := self._join.bot.greeting:
            await self._line.worker.queue_frame(TTSSpeakFrame(greeting))
        await self._touch(status=Status.IN_CALL)

    def _is_outside(self) -> bool:
        """Whether this is a call in a room that the bot has not got into."""
        return isinstance(self._transport, RoomTransport) and not self._transport.entered

    def _lost(self) -> None:
        outside = self._is_outside()
        message = "the bot did not get in" if outside else "the bot was put out of the room"
        self.end("error", {"code": "room_lost", "message": message})

    def _failed(self, frame: ErrorFrame) -> None:
        """Count a vendor's failure: a call survives some, but not a service that is gone."""
        failure = self._failure_of(frame)
        progress = self._progress
        progress.failures += 1
        progress.first_failure = progress.first_failure or failure
        self._log.warning("service_failed", **failure.known, in_a_row=progress.failures)
        gone = frame.processor is not None and not frame.processor.is_usable
        if gone and self._is_outside():
            self._lost()
        elif gone or progress.failures >= FAILURES_IN_A_ROW:
            self.end("vendor_failure", progress.first_failure.to_error())

    def _failure_of(self, frame: ErrorFrame) -> ServiceFailure:
        """What failed, and by what: Pipecat's frame often says that in words alone, which may hold
        content; the service's meter has seen it on the wire."""
        name = frame.processor.name if frame.processor else "pipeline"
        meter = self._line.services.meter_of(name)
        seen = meter.failure if meter is not None else None
        raised = frame.exception
        status = seen.http_status if seen else getattr(raised, "status_code", None)
        return ServiceFailure(
            service=name,
            provider=meter.service.provider if meter is not None else None,
            error_type=seen.type if seen else type(raised).__name__ if raised else None,
            http_status=status if isinstance(status, int) else None,
        )

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_secs)
            touching = asyncio.create_task(self._touch())
            try:
                # After a stall the database knows first whether the call goes on. One that does
                # not answer is not waited for: were this process killed, seconds would be lost.
                await asyncio.wait({touching}, timeout=ANSWER_SECS)
                self._seconds.renew(self._now())
                await touching
            finally:
                touching.cancel()

    async def _make_sure(self) -> None:
        """Give a last sign of life, and hear whether the call was ours to the end."""
        if self._seconds.is_ours:
            await self._touch()

    async def _touch(self, status: Status | None = None) -> None:
        """Tell the database the call lives; hear from it whether it was asked to end."""
        # Not when the answer came: this process may have been stopped in between.
        sent_at = self._now()
        try:
            pulse = await self._threads.touch_thread(self._thread_id, status)
        except Unavailable as error:
            self._log.warning("heartbeat_missed", error=str(error))
        except CallTakenOver:
            self._leave_alone(TAKEN_OVER)
        except (IllegalTransition, NotFound):
            self._leave_alone(GIVEN_UP)
        except FlowError as error:
            self._log.error("heartbeat_refused", error=str(error))
        else:
            if not pulse.status.has_call:
                self._leave_alone(GIVEN_UP)
                return
            self._seconds.accept(sent_at)
            if pulse.end_requested:
                self.end(ENDED_BY_API)

    def _leave_alone(self, reason: str) -> None:
        """End a call that another has by now, or that was given up, whatever else ended it here."""
        self._seconds.lose()
        self._progress.ending = Ending(reason)
        self._progress.over.set()
