"""One call, from the caller's connection to the hang-up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol
from uuid import UUID

import structlog
from pipecat.frames.frames import EndFrame, ErrorFrame, Frame, LLMRunFrame
from pipecat.processors.aggregators.llm_response_universal import (
    AssistantTurnStoppedMessage,
    UserTurnMessageAddedMessage,
)
from pipecat.transports.base_transport import BaseTransport
from pipecat.utils.time import time_now_iso8601

from flow.bot import clock
from flow.bot.call_heartbeat import HEARTBEAT_SECS, Heartbeat
from flow.bot.call_seconds import CallSeconds
from flow.bot.calls.lease import CallLease
from flow.bot.cost_control import Spending
from flow.bot.flows.call_flow import CallFlow
from flow.bot.pipeline import CallPipeline
from flow.bot.pipeline_runner import RunningPipeline
from flow.bot.pressed_keys import PRESSED
from flow.bot.rtvi import CLIENT_READY, HANG_UP, TEXT, CallerRtvi
from flow.bot.service_failures import ServiceFailures
from flow.bot.steering import Steering
from flow.bot.tools.voice import BOT_HANGS_UP
from flow.bot.transcript import Transcript
from flow.bot.transports.room import RoomTransport
from flow.bot.turn_latency import MEASURED
from flow.bot.vendors.context_frames import ordered_interruption
from flow.domain.calls.command import Order
from flow.domain.calls.ending import Ending, EndReason
from flow.domain.calls.latency import TurnLatency
from flow.domain.calls.thread import Status, Turn
from flow.domain.calls.tool_call import ToolCall
from flow.domain.limits.budget import Standing, Tier
from flow.metering.request import Recording

log = structlog.get_logger(__name__)

STOP_SECS = 15.0
# Within which a bot that hangs up has said its last words.
LAST_WORDS_SECS = 30.0


class CallRecorder(Recording, Protocol):
    """What a session needs of `flow.ledger.recorder.Recorder`."""

    def record_turn(self, thread_id: UUID, turn: Turn) -> None:
        """Take something said."""

    def record_tool_call(self, thread_id: UUID, call: ToolCall) -> None:
        """Take the start or the outcome of a use of a tool."""


class CallSession:
    """Runs one built pipeline until the call is over, for whatever reason.

    Args:
        lease: what this process has of the call; its end is not this session's business.
        spending: the call's cost control; says when the bot must take its leave.
        heartbeat_secs: from one sign of life to the next.
        answered: told how long the caller waited for each reply.
        now: seconds that go on whatever becomes of the process.
    """

    def __init__(
        self,
        lease: CallLease,
        pipeline: CallPipeline,
        transport: BaseTransport,
        recorder: CallRecorder,
        spending: Spending,
        *,
        heartbeat_secs: float = HEARTBEAT_SECS,
        answered: Callable[[TurnLatency], None] = lambda _: None,
        now: Callable[[], float] = clock.seconds,
    ) -> None:
        self._lease = lease
        self._pipeline = pipeline
        self._transport = transport
        self._spending = spending
        self._answered = answered
        self._now = now
        thread = lease.thread
        self._log = log.bind(workflow_thread_id=str(thread.id))
        tools = pipeline.tools
        self._transcript = Transcript(
            recorder.record_turn,
            thread.id,
            first=lease.first_turn,
            caller_said=(lambda: None) if tools is None else tools.spoken_to,
        )
        self._steering = Steering(pipeline, self._transcript)
        self._failures = ServiceFailures(pipeline.services)
        self._seconds = CallSeconds(thread.owner, recorder, spending.control)
        self._heartbeat = Heartbeat(
            lease.touch,
            self._seconds,
            end=self.end,
            lose=self._leave_alone,
            log=self._log,
            every_secs=heartbeat_secs,
            now=now,
        )
        self._ending: Ending | None = None
        self._caller_left_at: float | None = None
        self._came = asyncio.Event()
        self._over = asyncio.Event()
        self._leave: asyncio.Task[None] | None = None
        self._goodbye_at: str | None = None
        self._is_greeted = False
        self._flow: asyncio.Task[None] | None = None
        self._listen(transport)

    @property
    def tier(self) -> Tier | None:
        """The tier of the key's budget, as last heard; ``None``: it has none."""
        return self._spending.tier

    @property
    def claim(self) -> str:
        """The name under which this process has the call."""
        return self._lease.claim

    @property
    def ending(self) -> Ending | None:
        """Why the call ended, or is about to; ``None`` while nothing has ended it."""
        return self._ending

    def end(self, reason: EndReason, error: dict[str, Any] | None = None) -> None:
        """End the call; the first reason given stands."""
        if self._ending is None:
            self._ending = Ending(reason, error)
        self._over.set()

    def stand(self, standing: Standing) -> None:
        """Take in how the key stands now; where the product says so the bot takes its leave."""
        self._spending.stand(standing)
        if self._spending.must_wrap_up and self._leave is None and self._ending is None:
            product = self._spending.product
            self._log.info("call_wraps_up", within_secs=product.wrap_up_secs)
            goodbye = self._take_leave(product.goodbye, product.wrap_up_secs, cuts_in=True)
            self._ending = Ending(EndReason.BUDGET_EXCEEDED)
            self._leave = asyncio.create_task(goodbye, name="goodbye")

    async def carry_out(self, order: Order) -> str | None:
        """Have the bot say or know something, or say why this one cannot."""
        if self._ending is not None or not self._heartbeat.is_running:
            return "The call is about to end, or has not begun."
        return await self._steering.carry_out(order)

    async def run(self) -> Ending:
        """Run the call and return why it ended. Usage and turns are then with the recorder."""
        running = await RunningPipeline.start(self._pipeline.worker, "pipeline")
        heartbeat = asyncio.create_task(self._heartbeat.forever(), name="heartbeat")
        idle = asyncio.create_task(self._end_when_idle(), name="idle")
        try:
            await self._until_over(running.task)
        finally:
            heartbeat.cancel()
            idle.cancel()
            for under_way in (self._leave, self._flow):
                if under_way is not None:
                    under_way.cancel()
            if self._pipeline.questions is not None:
                self._pipeline.questions.close()
            await running.stop(STOP_SECS)
            # Vendors may take seconds to part with; somebody who has left does not wait for that.
            over_at = self._now() if self._caller_left_at is None else self._caller_left_at
            await self._pipeline.close(self._ended.reason)
            await self._heartbeat.last()
            self._seconds.end(over_at)
            await asyncio.gather(heartbeat, idle, return_exceptions=True)
        return self._ended

    @property
    def _ended(self) -> Ending:
        return self._ending or Ending(EndReason.PIPELINE_ENDED)

    async def _until_over(self, running: asyncio.Task[None]) -> None:
        over = asyncio.create_task(self._over.wait())
        try:
            if self._lease.wait_secs is not None:
                await self._wait_for_caller(self._lease.wait_secs, running, over)
            done, _ = await asyncio.wait(
                {running, over},
                timeout=self._lease.join.max_duration_secs,
                return_when=asyncio.FIRST_COMPLETED,
            )
        except asyncio.CancelledError:
            self.end(EndReason.SHUTDOWN)
            raise
        finally:
            over.cancel()
        if not done:
            self.end(EndReason.MAX_DURATION)
        elif running in done and not running.cancelled() and (error := running.exception()):
            self._log.error("pipeline_failed", error=repr(error))
            self.end(EndReason.ERROR, {"code": "pipeline_failed", "message": type(error).__name__})

    async def _wait_for_caller(self, wait_secs: float, *ends: asyncio.Task[Any]) -> None:
        came = asyncio.create_task(self._came.wait())
        try:
            done, _ = await asyncio.wait(
                {came, *ends}, timeout=wait_secs, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            came.cancel()
        if not done and self._is_outside():
            self._lost()
        elif not done:
            self.end(EndReason.NOBODY_CAME)

    async def _end_when_idle(self) -> None:
        if self._lease.wait_secs is not None:
            # Nobody is silent in a room where nobody is yet.
            await self._came.wait()
            self._pipeline.idle.begin()
        await self._pipeline.idle.idle()
        self.end(EndReason.IDLE_TIMEOUT)

    async def _take_leave(self, words: str, within_secs: float, *, cuts_in: bool) -> None:
        """Say goodbye, in place of whatever is being said or after it, and hang up when that is
        said or late."""
        self._goodbye_at = time_now_iso8601()
        self._pipeline.stop_listening()
        goodbye: list[Frame] = [ordered_interruption()] if cuts_in else []
        if words:
            goodbye.append(self._pipeline.speak(words))
        if not words or not self._pipeline.tells_when_said:
            goodbye.append(EndFrame())
        await self._pipeline.worker.queue_frames(goodbye)
        await asyncio.sleep(within_secs)
        self._over.set()

    def _hang_up(self, last_words: str, after_reply: bool) -> None:
        """The bot ends the call; the first who does so has it his way."""
        if self._leave is None and self._ending is None:
            self._ending = Ending(EndReason.BOT_HUNG_UP)
            is_asked = after_reply or self._pipeline.tells_when_said
            if self._pipeline.questions is not None and not is_asked:
                self._pipeline.questions.close()
            goodbye = self._take_leave(last_words, LAST_WORDS_SECS, cuts_in=False)
            self._leave = asyncio.create_task(goodbye, name="goodbye")

    async def _end_after_goodbye(self, said: AssistantTurnStoppedMessage) -> None:
        """Hang up when a model that speaks by itself has taken its leave: nothing that it says is
        in the pipeline yet when it is told to."""
        is_goodbye = self._goodbye_at is not None and said.timestamp >= self._goodbye_at
        is_whole = bool(said.content) and not said.interrupted
        if is_goodbye and is_whole and self._pipeline.tells_when_said:
            await self._pipeline.worker.queue_frame(EndFrame())

    def _listen(self, transport: BaseTransport) -> None:
        async def connected(*_: Any) -> None:
            await self._connected()

        async def disconnected(*_: Any) -> None:
            if self._caller_left_at is None:
                self._caller_left_at = self._now()
            self.end(EndReason.CALLER_HUNG_UP)

        async def lost(*_: Any) -> None:
            self._lost()

        async def failed(_: Any, frame: ErrorFrame) -> None:
            self._failed(frame)

        async def user_said(_: Any, message: UserTurnMessageAddedMessage) -> None:
            self._transcript.add("user", message.content, message.timestamp)

        async def bot_said(_: Any, message: AssistantTurnStoppedMessage) -> None:
            if message.content:
                self._failures.forget()
            self._transcript.add(
                "assistant", message.content, message.timestamp, interrupted=message.interrupted
            )
            await self._end_after_goodbye(message)

        async def not_set_up(*_: Any) -> None:
            message = "the pipeline was not set up in time"
            self.end(EndReason.ERROR, {"code": "pipeline_failed", "message": message})

        async def hung_up(_: Any, last_words: str, after_reply: bool) -> None:
            self._hang_up(last_words, after_reply)

        async def measured(_: Any, latency: TurnLatency) -> None:
            self._transcript.answered(latency)
            self._answered(latency)
            if (rtvi := self._pipeline.rtvi) is not None:
                await rtvi.tell_latency(latency)

        transport.add_event_handler("on_client_connected", connected)
        transport.add_event_handler("on_client_disconnected", disconnected)
        if isinstance(transport, RoomTransport):
            transport.add_event_handler("on_lost", lost)
        self._pipeline.worker.add_event_handler("on_pipeline_error", failed)
        self._pipeline.worker.add_event_handler("on_setup_timeout", not_set_up)
        self._pipeline.latency.add_event_handler(MEASURED, measured)
        if (user := self._pipeline.user) is not None:
            user.add_event_handler("on_user_turn_message_added", user_said)
        if (assistant := self._pipeline.assistant) is not None:
            assistant.add_event_handler("on_assistant_turn_stopped", bot_said)
        if self._pipeline.bot is not None:
            self._pipeline.bot.when_over(self.end)
        if self._pipeline.tools is not None:
            self._pipeline.tools.voice.add_event_handler(BOT_HANGS_UP, hung_up)
        if (keys := self._pipeline.keys) is not None:
            keys.add_event_handler(PRESSED, self._user_sent)
        if (rtvi := self._pipeline.rtvi) is not None:
            rtvi.add_event_handler(HANG_UP, disconnected)
            self._listen_to_client(rtvi)

    def _user_sent(self, _: Any, text: str) -> None:
        """The caller has said something without speaking."""
        self._transcript.add("user", text, time_now_iso8601())

    def _listen_to_client(self, rtvi: CallerRtvi) -> None:
        async def ready(_: Any) -> None:
            await self._greet()

        rtvi.add_event_handler(CLIENT_READY, ready)
        rtvi.add_event_handler(TEXT, self._user_sent)

    async def _connected(self) -> None:
        if self._heartbeat.is_running or self._ending is not None:
            return
        self._heartbeat.begin()
        self._came.set()
        self._log.info("call_connected")
        if self._pipeline.rtvi is None:
            await self._greet()
        await self._heartbeat.beat(Status.IN_CALL)

    async def _greet(self) -> None:
        """Greet the caller once: an RTVI client is not there before it says so."""
        if self._is_greeted:
            return
        self._is_greeted = True
        flow, owes_reply = self._pipeline.flow, self._pipeline.owes_reply
        greeting = None if owes_reply else self._lease.join.bot.greeting
        if flow is not None:
            # What is said when a node is entered takes its time.
            self._flow = asyncio.create_task(self._begin(flow, greeting), name="flow")
        elif owes_reply:
            await self._pipeline.worker.queue_frame(LLMRunFrame())
        elif greeting:
            await self._pipeline.worker.queue_frame(self._pipeline.speak(greeting))

    async def _begin(self, flow: CallFlow, greeting: str | None) -> None:
        try:
            await flow.begin(greeting)
        except Exception:
            self._log.exception("flow_failed")
            message = "the bot's flow could not be begun"
            self.end(EndReason.ERROR, {"code": "pipeline_failed", "message": message})

    def _is_outside(self) -> bool:
        """Whether this is a call in a room that the bot has not got into."""
        return isinstance(self._transport, RoomTransport) and not self._transport.entered

    def _lost(self) -> None:
        outside = self._is_outside()
        message = "the bot did not get in" if outside else "the bot was put out of the room"
        self.end(EndReason.ERROR, {"code": "room_lost", "message": message})

    def _failed(self, frame: ErrorFrame) -> None:
        """A service of the call failed: most calls survive that, unless it is gone."""
        failure = self._failures.add(frame)
        in_a_row = self._failures.in_a_row
        self._log.warning("service_failed", **failure.known, in_a_row=in_a_row)
        gone = frame.processor is not None and not frame.processor.is_usable
        if gone and self._is_outside():
            self._lost()
        elif gone or self._failures.are_too_many:
            ending = self._failures.ending
            self.end(ending.reason, ending.error)

    def _leave_alone(self, reason: EndReason) -> None:
        """End a call that another has by now, or that was given up, whatever else ended it here."""
        self._ending = Ending(reason)
        self._over.set()
