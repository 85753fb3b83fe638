"""How long a call was: what is counted of one that its process may have lost meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from pipecat.frames.frames import ErrorFrame, Frame, LLMRunFrame, TTSSpeakFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    AssistantTurnStoppedMessage,
    LLMAssistantAggregator,
    LLMContextAggregatorPair,
)
from pipecat.processors.frame_processor import FrameProcessor

from flow.bot.calls.lease import CallLease
from flow.bot.cost_control import Spending
from flow.bot.idle_detection import IdleWatch
from flow.bot.pipeline import CallPipeline, spoken_by_voice
from flow.bot.question_gate import QuestionGate
from flow.bot.service_failures import FAILURES_IN_A_ROW
from flow.bot.services import CallServices
from flow.bot.session import CallSession
from flow.bot.tools.call_tools import CallTools
from flow.bot.tools.voice import ToolVoice
from flow.bot.turn_latency import LatencyProcessor
from flow.bot.warmup import EmptyStage
from flow.domain.calls.ending import Ending, EndReason
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.thread import Pulse, Status, Thread, Turn
from flow.domain.products.product import Product
from flow.domain.usage.events import Kind, Owner, Provenance
from flow.errors import (
    CallTakenOver,
    DatabaseUnavailable,
    FlowError,
    IllegalTransition,
    NotFound,
)
from flow.insights.schema_checker import Checker
from tests.bot.conftest import Notebook
from tests.bot.running import Witness

HELD_SECS, STALLED_SECS = 5, 400
HEARTBEAT_SECS = 0.02
LIVE = Pulse(Status.IN_CALL, end_requested=False)
Answer = Pulse | FlowError


class Book(Notebook):
    """Takes turns as well."""

    def record_turn(self, thread_id: UUID, turn: Turn) -> None:
        raise AssertionError("nobody said anything")


class TurnBook(Book):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.turns: list[Turn] = []

    def record_turn(self, thread_id: UUID, turn: Turn) -> None:
        self.turns.append(turn)


@dataclass
class Threads:
    """The database as a session sees it: each answer once, but for the last.

    ``away_secs`` pass before the next answer is read.
    """

    clock: Clock
    answers: list[Answer] = field(default_factory=lambda: [LIVE])
    away_secs: float = 0
    asked: Counter[Status | None] = field(default_factory=Counter)
    hangs_until: asyncio.Event | None = None

    async def touch_thread(self, thread_id: UUID, status: Status | None = None) -> Pulse:
        self.asked[status] += 1
        if self.hangs_until is not None:
            await self.hangs_until.wait()
        self.clock.now += self.away_secs
        self.away_secs = 0
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, FlowError):
            raise answer
        return answer


@dataclass
class Clock:
    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


class Stage(EmptyStage):
    """A transport whose caller comes when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        for event in ("on_client_connected", "on_client_disconnected"):
            self._register_event_handler(event)

    async def caller_comes(self) -> None:
        await self._call_event_handler("on_client_connected", object())

    async def caller_goes(self) -> None:
        await self._call_event_handler("on_client_disconnected", object())


@dataclass
class Held:
    """A session under way. ``spoken`` has what its bot was told to say."""

    session: CallSession
    running: asyncio.Task[Ending]
    stage: Stage
    threads: Threads
    clock: Clock
    book: Book
    spoken: Witness
    worker: PipelineWorker
    assistant: LLMAssistantAggregator

    async def connected(self) -> None:
        """The caller comes, and the database knows."""
        await self.stage.caller_comes()
        await until(lambda: self.threads.asked[Status.IN_CALL] == 1)

    async def beat(self, times: int = 1) -> None:
        """Return when so many more signs of life have been given."""
        goal = self.threads.asked[None] + times
        await until(lambda: self.threads.asked[None] >= goal)

    async def over(self) -> Ending:
        async with asyncio.timeout(10):
            return await self.running


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.002)


def lease_of(owner: Owner, threads: Threads) -> CallLease:
    """A lease as the database's answers are told of it; nothing else of it is a session's."""
    assert owner.workflow_thread_id is not None
    now = datetime.now(UTC)
    thread = Thread(
        id=owner.workflow_thread_id,
        api_key_id=owner.api_key_id,
        team_id=owner.team_id,
        product=owner.product,
        billable=owner.billable,
        status=Status.CONNECTING,
        join=JoinRequest(),
        transcript=(),
        insights=None,
        usage_stats={},
        metadata={},
        error=None,
        end_reason=None,
        end_requested=False,
        created_at=now,
        connected_at=None,
        ended_at=None,
        completed_at=None,
    )
    join = JoinRequest.model_validate({"bot": {"greeting": "Hello!"}, "max_duration_secs": 60})
    others: Any = None

    async def touch(status: Status | None = None) -> Pulse:
        return await threads.touch_thread(thread.id, status)

    return CallLease(thread, join, others, others, touch=touch, end=others)


@asynccontextmanager
async def held(owner: Owner, book: Book | None = None, **given: Any) -> AsyncIterator[Held]:
    clock, spoken = Clock(), Witness()
    threads, stage, book = Threads(clock), Stage(), book or Book()
    worker = PipelineWorker(
        Pipeline([spoken]), idle_timeout_secs=None, enable_rtvi=False, enable_turn_tracking=False
    )
    pair = LLMContextAggregatorPair(LLMContext())
    assistant = pair.assistant()
    spending = Spending(Product("voice_bot", billable=True), cache_key="a call")
    services = CallServices(owner, book, {}, control=spending.control)
    session = CallSession(
        lease_of(owner, threads),
        CallPipeline(
            worker,
            pair.user(),
            pair.assistant(),
            IdleWatch(60.0),
            QuestionGate(),
            LatencyProcessor(services.kind_of),
            services,
            **given,
        ),
        stage,
        book,
        spending,
        heartbeat_secs=HEARTBEAT_SECS,
        now=clock,
    )
    running = asyncio.create_task(session.run())
    await asyncio.wait_for(spoken.started.wait(), 10)
    try:
        yield Held(session, running, stage, threads, clock, book, spoken, worker, assistant)
    finally:
        session.end(EndReason.SHUTDOWN)
        await asyncio.wait({running}, timeout=10)


LOST = [
    Pulse(Status.ENDED, end_requested=False),
    Pulse(Status.ENDED, end_requested=True),
    Pulse(Status.FAILED, end_requested=False),
    CallTakenOver(),
    NotFound(),
    IllegalTransition(),
]


def named(answer: Answer) -> str:
    return answer.status.value if isinstance(answer, Pulse) else type(answer).__name__


@pytest.mark.parametrize("answer", LOST, ids=named)
@pytest.mark.parametrize("hung_up", [False, True], ids=["heard-by-heartbeat", "heard-at-the-end"])
async def test_a_call_that_was_lost_in_a_stall_counts_to_the_last_accepted_sign_of_life(
    hung_up: bool, answer: Answer, owner: Owner
) -> None:
    """Whatever ends it here: the heartbeat that is refused, or the caller who has hung up."""
    async with held(owner) as call:
        await call.connected()
        call.clock.now += HELD_SECS
        await call.beat(2)
        call.clock.now += STALLED_SECS
        call.threads.answers = [answer]
        if hung_up:
            call.session.end(EndReason.CALLER_HUNG_UP)
        ending = await call.over()
    (counted,) = call.book.events
    assert (counted.kind, counted.provenance) == (Kind.CALL, Provenance.MEASURED)
    assert counted.quantities["call_seconds"] == HELD_SECS
    assert counted.note is not None
    # Not even for a moment was it more: a process may be killed at any time.
    assert max(each.quantities["call_seconds"] for each in call.book.begun) == HELD_SECS
    assert ending.reason == ("taken_over" if isinstance(answer, CallTakenOver) else "given_up")


@pytest.mark.parametrize("answer", [LIVE, DatabaseUnavailable()], ids=["ours", "away"])
async def test_a_call_that_is_still_ours_or_may_be_counts_to_its_end(
    answer: Answer, owner: Owner
) -> None:
    async with held(owner) as call:
        await call.connected()
        call.clock.now += HELD_SECS + STALLED_SECS
        call.threads.answers = [answer]
        call.session.end(EndReason.CALLER_HUNG_UP)
        ending = await call.over()
    (counted,) = call.book.events
    assert counted.quantities["call_seconds"] == HELD_SECS + STALLED_SECS
    assert counted.note is None
    assert ending.reason == "caller_hung_up"


async def test_a_call_that_nobody_came_to_may_have_been_given_up_too(owner: Owner) -> None:
    """Its process has no say in what becomes of the thread: whoever gave it up has."""
    async with held(owner) as call:
        call.threads.answers = [Pulse(Status.ENDED, end_requested=False)]
        call.session.end(EndReason.NOBODY_CAME)
        ending = await call.over()
    assert ending.reason == "given_up"
    assert call.book.events == []


async def test_a_sign_of_life_counts_from_when_it_was_given(owner: Owner) -> None:
    """A process that is stopped before it reads the answer has not lived until then."""
    async with held(owner) as call:
        await call.connected()
        call.clock.now += HELD_SECS
        call.threads.away_secs = STALLED_SECS
        call.threads.answers = [LIVE, Pulse(Status.ENDED, end_requested=False)]
        await call.over()
    assert call.book.events[-1].quantities["call_seconds"] == HELD_SECS


async def test_what_takes_time_after_the_hang_up_is_no_time_of_the_call(owner: Owner) -> None:
    async with held(owner) as call:
        await call.connected()
        call.clock.now += HELD_SECS
        call.threads.away_secs = 20.0
        call.session.end(EndReason.CALLER_HUNG_UP)
        await call.over()
    assert call.book.events[-1].quantities["call_seconds"] == HELD_SECS


async def test_a_caller_who_has_left_does_not_wait_for_the_vendors(owner: Owner) -> None:
    """Some take seconds to close a connection."""
    async with held(owner) as call:

        @call.worker.event_handler("on_pipeline_finished")
        async def parted(*_: Any) -> None:
            call.clock.now += STALLED_SECS

        await call.connected()
        call.clock.now += HELD_SECS
        await call.stage.caller_goes()
        ending = await call.over()
        assert call.clock.now >= 1_000.0 + HELD_SECS + STALLED_SECS
    assert ending.reason == "caller_hung_up"
    assert call.book.events[-1].quantities["call_seconds"] == HELD_SECS


async def test_while_the_database_does_not_answer_the_seconds_are_noted(owner: Owner) -> None:
    async with held(owner) as call:
        await call.connected()
        call.threads.answers = [DatabaseUnavailable()]
        call.clock.now += HELD_SECS
        await call.beat(2)
        assert call.book.begun[-1].quantities["call_seconds"] == HELD_SECS


async def test_a_caller_who_comes_after_the_end_hears_and_costs_nothing(owner: Owner) -> None:
    async with held(owner) as call:
        call.session.end(EndReason.ENDED_BY_API)
        await call.stage.caller_comes()
        ending = await call.over()
    assert ending.reason == "ended_by_api"
    assert (call.book.begun, call.book.events) == ([], [])
    assert call.threads.asked[Status.IN_CALL] == 0
    assert call.spoken.of(TTSSpeakFrame) == []


async def test_a_pipeline_that_is_not_set_up_in_time_ends_its_call_as_failed(owner: Owner) -> None:
    async with held(owner) as call:
        await call.worker._call_event_handler("on_setup_timeout")
        ending = await call.over()
    assert ending.reason == "error"
    assert ending.error == {
        "code": "pipeline_failed",
        "message": "the pipeline was not set up in time",
    }


async def fails(call: Held, times: int = 1, service: FrameProcessor | None = None) -> None:
    for _ in range(times):
        await call.worker._call_event_handler(
            "on_pipeline_error", ErrorFrame("no", exception=TimeoutError(), processor=service)
        )


async def speaks(call: Held, said: str) -> None:
    """The bot's turn is over, in which it has said this much."""
    message = AssistantTurnStoppedMessage(
        content=said, interrupted=False, timestamp="2026-11-30T00:00:00Z"
    )
    await call.assistant._call_event_handler("on_assistant_turn_stopped", message)


@pytest.mark.parametrize(
    ("said", "is_over"), [("Hello.", False), ("", True), (None, True)], ids=["said", "empty", "not"]
)
async def test_failures_in_a_row_are_forgotten_once_the_bot_has_spoken(
    owner: Owner, said: str | None, is_over: bool
) -> None:
    async with held(owner, TurnBook()) as call:
        await call.connected()
        await fails(call, FAILURES_IN_A_ROW - 1)
        if said is not None:
            await speaks(call, said)
            await asyncio.sleep(0.01)
        await fails(call)
        await asyncio.sleep(0.01)
        assert (call.session.ending is not None) == is_over
        await fails(call, FAILURES_IN_A_ROW - 1)
        ending = await call.over()
        assert ending.reason == "vendor_failure"


async def test_the_service_that_is_named_failed_first_since_the_bot_last_spoke(
    owner: Owner,
) -> None:
    early, late, later = Witness(), Witness(), Witness()
    async with held(owner, TurnBook()) as call:
        await call.connected()
        await fails(call, 1, early)
        await speaks(call, "Hello.")
        await asyncio.sleep(0.01)
        await fails(call, 1, late)
        await fails(call, FAILURES_IN_A_ROW - 1, later)
        ending = await call.over()
    assert ending.error is not None
    assert ending.error["service"] == late.name


async def test_a_database_that_never_answers_holds_up_no_note_of_the_seconds(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flow.bot.call_heartbeat.ANSWER_SECS", 0.02)
    free = asyncio.Event()
    async with held(owner) as call:
        await call.connected()
        call.threads.hangs_until = free
        call.clock.now += 7
        await until(lambda: call.book.begun[-1].quantities.seconds("call_seconds") == 7)
        free.set()


async def test_of_many_reasons_to_end_a_call_the_first_stands(owner: Owner) -> None:
    async with held(owner) as call:
        await call.connected()
        call.session.end(EndReason.IDLE_TIMEOUT)
        call.session.end(EndReason.SHUTDOWN, {"code": "late"})
        ending = await call.over()
    assert (ending.reason, ending.error) == ("idle_timeout", None)


@pytest.mark.parametrize(
    ("owes_reply", "frames"), [(True, [LLMRunFrame]), (False, [TTSSpeakFrame])]
)
async def test_a_bot_that_owes_a_reply_to_a_tool_gives_it_when_it_is_back(
    owner: Owner, owes_reply: bool, frames: list[type[Frame]]
) -> None:
    async with held(owner, owes_reply=owes_reply) as call:
        await call.connected()
        await call.spoken.sees(call.worker)
        spoken = [
            type(f) for f, _ in call.spoken.seen if isinstance(f, LLMRunFrame | TTSSpeakFrame)
        ]
    assert spoken == frames


@pytest.mark.parametrize("words", ["Goodbye, Ada!", ""])
async def test_a_bot_hangs_up_when_it_has_said_its_last_words(owner: Owner, words: str) -> None:
    book = Book()
    voice = ToolVoice(spoken_by_voice)
    assert owner.workflow_thread_id is not None
    tools = CallTools(owner.workflow_thread_id, [], voice, book, Checker().problems)
    async with held(owner, book, tools=tools) as call:
        await call.connected()
        await voice.hang_up(words)
        await voice.hang_up("and again")
        ending = await call.over()
    said = [frame.text for frame in call.spoken.of(TTSSpeakFrame)]
    assert (ending.reason, said) == (EndReason.BOT_HUNG_UP, ["Hello!", *filter(None, [words])])
