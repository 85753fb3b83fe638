"""OpenAI's Realtime API in a bot: its door in Pipecat, its settings, and sessions that are lost."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from pipecat.frames.frames import (
    EndFrame,
    InputAudioRawFrame,
    LLMContextFrame,
    LLMContextUserTurnFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService
from pydantic import SecretStr

from flow.bot.services import CallServices
from flow.bot.vendors import openai_realtime_service
from flow.bot.vendors.context_frames import ordered_interruption
from flow.bot.vendors.openai_realtime import TRANSCRIPTION_MODEL
from flow.bot.vendors.spec import Choice
from flow.domain.calls.bot_part import BotPart
from flow.domain.usage.events import Outcome
from flow.domain.usage.units import Kind
from flow.sandbox.faults import Fault
from flow.sandbox.openai.app import OpenAISandbox
from flow.sandbox.openai.chat import Pace
from flow.sandbox.server import Served
from flow.vendors.openai_client import openai_endpoint
from tests.contract.service_run import PATIENCE_SECS, RATE_IN, ServiceRun, running
from tests.contract.vendors import a_tenth_a_word
from tests.events import an_owner
from tests.notebook import Notebook

OPTIONS = {"system_instruction": "Be kind.", "voice": "cedar", "language": "de-DE"}
CHOICE = Choice("openai", "gpt-realtime", OPTIONS)
SOUND = [b"\x10\x20" * (RATE_IN // 10)] * 10 + [bytes(RATE_IN // 5)] * 7
HISTORY: list[Any] = [
    {"role": "user", "content": "My name is Ada."},
    {"role": "assistant", "content": "Hello, Ada."},
]


@dataclass
class World:
    """A session with the stand-in. ``read`` is what the model was told, each time it answered."""

    run: ServiceRun
    vendor: OpenAISandbox
    notebook: Notebook
    read: list[list[str]] = field(default_factory=list)

    async def speak(self) -> None:
        """The caller says something, and is silent."""
        await self.run.send(*(InputAudioRawFrame(sound, RATE_IN, 1) for sound in SOUND))

    @property
    def is_ready(self) -> bool:
        """Whether there is a session, in which the caller is heard."""
        service: Any = self.run.service
        is_ready: bool = service._api_session_ready
        return is_ready

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECS):
            while not condition():
                await asyncio.sleep(0.005)

    def responses(self) -> list[Outcome]:
        """How each response ended that used something."""
        ended = [e for e in self.notebook.events if e.kind is Kind.LLM and e.quantities]
        return [event.outcome for event in ended]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_realtime_service, "DIAL_WAITS", (0.05, 0.05, 0.05))


@asynccontextmanager
async def world(
    *faults: Fault, model: Callable[[str, str], str] = lambda _, asked: asked, **options: Any
) -> AsyncIterator[World]:
    read: list[list[str]] = []

    def reply(messages: Sequence[Any]) -> str:
        read.append([str(message.get("content")) for message in messages])
        return "word " * 20

    vendor = OpenAISandbox(reply, pace=Pace(token_secs=0.005), speak=a_tenth_a_word, **options)
    vendor.faults.add(*faults)
    async with Served(vendor) as url:
        endpoint = openai_endpoint(SecretStr("sk-fake"), f"{url}/v1")
        notebook = Notebook()
        services = CallServices(an_owner(), notebook, {"openai": endpoint}, model=model)
        async with running(services, BotPart.REALTIME, CHOICE) as run:
            yield World(run, vendor, notebook, read)
        await endpoint.close()
    assert notebook.open == set()


def test_pipecat_s_service_still_is_what_the_door_was_made_for() -> None:
    kind: Any = OpenAIRealtimeLLMService
    connect = inspect.getsource(kind._connect)
    for line in (
        "self._websocket = await websocket_connect(",
        "uri=self.base_url,",
        "additional_headers=await self._auth_headers(),",
        "self._receive_task = self.create_task(self._receive_task_handler())",
    ):
        assert line in connect
    assert len(connect.splitlines()) == 14
    assert "await self._connect()" in inspect.getsource(kind.setup)
    lines = inspect.getsource(kind)
    for name in ("_disconnecting", "_response_active", "_llm_needs_conversation_setup"):
        assert f"self.{name} = " in lines
    for name in ("_current_audio_response", "_current_assistant_response", "_context"):
        assert f"self.{name}" in lines
    assert {"_ws_send", "_disconnect", "_receive_task_handler"} <= set(dir(kind))
    assert {"_handle_evt_session_updated", "_process_completed_function_calls"} <= set(dir(kind))


async def test_a_session_is_set_to_what_the_join_asks_for() -> None:
    endpoint = openai_endpoint(SecretStr("sk-fake"))
    services = CallServices(an_owner(), Notebook(), {"openai": endpoint})
    service: Any = services.build(BotPart.REALTIME, CHOICE)
    assert service.base_url == "wss://api.openai.com/v1/realtime?model=gpt-realtime"
    set_to = service._settings.session_properties
    assert set_to.instructions == "Be kind."
    assert set_to.audio.output.voice == "cedar"
    heard = set_to.audio.input.transcription
    assert (heard.model, heard.language) == (TRANSCRIPTION_MODEL, "de")
    assert not service._is_turn_detection_disabled()
    await endpoint.close()


async def test_a_session_keeps_the_cheaper_model_that_it_began_with() -> None:
    async with world(model=lambda _, asked: f"{asked}-mini") as w:
        await w.speak()
        await w.until(lambda: bool(w.responses()))
    (response,) = [event for event in w.notebook.events if event.kind is Kind.LLM]
    assert (response.model, response.requested_model) == ("gpt-realtime-mini", "gpt-realtime")
    (heard,) = [event for event in w.notebook.events if event.kind is Kind.STT]
    assert (heard.model, heard.requested_model) == (TRANSCRIPTION_MODEL, TRANSCRIPTION_MODEL)
    assert {line.model for line in w.vendor.bill.lines} == {"gpt-realtime-mini", heard.model}


async def test_what_was_said_is_told_to_the_session_after_one_that_was_lost() -> None:
    async with world(Fault(kind="close", code=1001, chunks=20, times=1)) as w:
        await w.run.send(LLMContextFrame(LLMContext(list(HISTORY))))
        await w.until(lambda: bool(w.responses()))
        await w.until(lambda: len(w.vendor.requests) == 2 and w.is_ready)
        await w.speak()
        await w.until(lambda: len(w.responses()) == 2)
    first, second = w.read
    assert first[0] == second[0] == "Be kind."
    assert "My name is Ada." in first[1]
    assert "My name is Ada." in second[1]
    assert w.responses()[-1] is Outcome.OK


async def test_a_session_that_is_too_old_is_followed_by_another() -> None:
    # The one that follows lasts as long: long enough to answer on a busy machine.
    async with world(session_secs=2.0) as w:
        await w.until(lambda: len(w.vendor.requests) >= 2 and w.is_ready)
        await w.speak()
        await w.until(lambda: bool(w.responses()))
    assert "session_expired" in str(w.run.errors[0].error)
    # That a session ends is no failed work.
    assert [event.failure for event in w.notebook.events if event.failure is not None] == []


async def test_a_session_that_is_refused_at_first_is_tried_again() -> None:
    async with world(Fault(kind="status", status=500, times=2)) as w:
        await w.until(lambda: len(w.vendor.requests) == 3 and w.is_ready)
        await w.speak()
        await w.until(lambda: bool(w.responses()))
    assert w.responses() == [Outcome.OK]
    refused = [event.failure for event in w.notebook.events if event.failure is not None]
    assert [failure.http_status for failure in refused if failure] == [500, 500]


async def test_one_that_is_refused_again_and_again_is_given_up() -> None:
    async with world(Fault(kind="status", status=401)) as w:
        await w.until(lambda: len(w.run.errors) >= 3)
        await asyncio.sleep(0.3)
        assert len(w.vendor.requests) == 4
    assert w.vendor.bill.lines == []


async def test_the_end_of_a_call_is_no_lost_session() -> None:
    async with world(Fault(kind="slow_tokens", delay_secs=0.02)) as w:
        await w.speak()
        await w.run.output()
        await w.run.send(EndFrame())
        await w.until(lambda: bool(w.responses()))
        await asyncio.sleep(0.3)
    assert w.run.errors == []
    assert len(w.vendor.requests) == 1


async def test_what_is_said_while_there_is_no_session_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openai_realtime_service, "DIAL_WAITS", (0.5,))
    async with world(Fault(kind="close", code=1011, chunks=2, times=1)) as w:
        await w.speak()
        await w.until(lambda: len(w.run.errors) >= 1)
        await w.speak()
        await w.until(lambda: len(w.vendor.requests) == 2)
        await asyncio.sleep(0.2)
        await w.speak()
        await w.until(lambda: bool(w.responses()))
    assert len(w.run.errors) == 1


async def test_a_caller_who_hangs_up_on_lost_sessions_waits_for_none() -> None:
    async with world(Fault(kind="status", status=500)) as w:
        await w.until(lambda: len(w.run.errors) >= 1)
        await w.run.hang_up()
        await asyncio.sleep(0.3)  # for what was on its way
        seen = len(w.vendor.requests)
        await asyncio.sleep(0.7)
        assert len(w.vendor.requests) == seen


TOLD: Any = {"role": "developer", "content": "Say goodbye."}


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "the-first-context"])
async def test_what_the_bot_is_told_to_say_takes_the_place_of_what_it_is_saying(
    is_known: bool,
) -> None:
    async with world() as w:
        context = LLMContext([*HISTORY])
        if is_known:
            await w.run.send(LLMContextFrame(context))
            await w.until(lambda: w.responses() == [Outcome.OK])
        before = len(w.read)
        await w.speak()
        await w.until(lambda: len(w.read) > before)
        context.add_message(TOLD)
        await w.run.send(LLMContextFrame(context))
        await w.until(lambda: w.responses()[-2:] == [Outcome.INTERRUPTED, Outcome.OK])
        told = " ".join(w.read[-1])
        assert [told.count(one["content"]) for one in (TOLD, *HISTORY)] == [1, 1, 1]


async def test_a_caller_who_speaks_first_is_answered_once_and_what_was_before_is_told() -> None:
    async with world() as w:
        await w.speak()
        await w.until(lambda: w.responses() == [Outcome.OK])
        turn = LLMContextUserTurnFrame(text="Hello?", timestamp="")
        said: Any = [*HISTORY, {"role": "user", "content": "Hello?"}]
        await w.run.send(turn, LLMContextFrame(LLMContext(said)))
        # Sound overtakes contexts on their way.
        await asyncio.sleep(0.2)
        await w.speak()
        await w.until(lambda: w.responses() == [Outcome.OK] * 2)
        told = " ".join(w.read[-1])
        assert HISTORY[0]["content"] in told
        assert "Hello?" not in told


async def test_nothing_more_of_an_answer_is_said_once_the_model_is_to_say_something_else() -> None:
    async with world(Fault(kind="slow_tokens", delay_secs=0.02)) as w:
        await w.speak()
        await w.run.output(3)
        await w.run.send(ordered_interruption())
        await w.run.completed()
        before = w.run.outputs
        await w.until(lambda: bool(w.responses()))
        assert w.run.outputs == before
        await w.run.send(LLMContextFrame(LLMContext(list(HISTORY))))
        await w.run.output(before + 1)
